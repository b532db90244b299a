"""The main job: what it runs, and from end to end with short trainings."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import launch, quickstart
from experiments.run_folder import read_rows

ROOT = Path(__file__).parents[2]


def start(out):
    return subprocess.run(
        [sys.executable, '-m', 'experiments.quickstart', '--seeds=2', '--vae_epochs=2',
         '--gan_epochs=1', f'--out_dir={out}'], cwd=ROOT, text=True,
        capture_output=True)


def main(out, child, monkeypatch):
    """Run the main job in this process, its experiments replaced by a function."""
    def run(command, check):
        module = importlib.import_module(command[2])
        values = launch.parse(module.define_flags, command[3:])
        return subprocess.CompletedProcess(command, child(module.__name__, values))

    monkeypatch.setattr(subprocess, 'run', run)
    quickstart.main(launch.parse(quickstart.define_flags, [
        '--seeds=2', '--vae_epochs=7', '--gan_epochs=5', f'--out_dir={out}']))


def test_trains_each_order_alike(tmp_path, monkeypatch, capsys, write_run):
    runs = []

    def child(module, values):
        runs.append((module, values.order, values.seeds, values.epochs))
        metric = 'neg_elbo' if module == 'experiments.vae' else 'mmd2'
        write_run(Path(values.run_dir), 4., [5., 7.], metric=metric)
        return 0

    main(tmp_path / 'out', child, monkeypatch)
    assert runs == [('experiments.vae', 'joint', 2, 7),
                    ('experiments.vae', 'decoder,encoder', 2, 7),
                    ('experiments.gan', 'simultaneous', 2, 5),
                    ('experiments.gan', 'discriminator,generator', 2, 5)]
    report = tmp_path / 'out' / 'report.html'
    assert capsys.readouterr().out.splitlines()[-1] == str(report)
    assert report.read_text(encoding='utf-8').count('6.00 ± 1.00') == 4


def test_ends_as_its_experiment_ends(tmp_path, monkeypatch):
    with pytest.raises(SystemExit) as caught:
        main(tmp_path / 'out', lambda module, values: launch.DIVERGED, monkeypatch)
    assert caught.value.code == launch.DIVERGED
    assert not (tmp_path / 'out' / 'report.html').exists()


@pytest.mark.slow
def test_quickstart(tmp_path):
    out = tmp_path / 'out'
    done = start(out)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(out / 'report.html')
    page = (out / 'report.html').read_text(encoding='utf-8')
    assert 'http' not in page and '<script' not in page
    # Curves, losses, samples of two runs; of the VAE reconstructions too.
    assert page.count('<img ') == 4 + 2 + 4
    assert page.count(' ± ') >= 8 and '2 seeds each' in page
    runs = {path.parent.name for path in out.rglob('params.npz')}
    assert runs == {'vae-joint', 'vae-decoder-encoder', 'gan-simultaneous',
                    'gan-discriminator-generator'}
    for path in out.rglob('metrics.jsonl'):
        last = read_rows(path.parent)[-1]
        assert len(next(iter(last['test'].values()))) == 2
    # A second time, it writes nothing over, and says so.
    before = (out / 'report.html').stat().st_mtime_ns
    again = start(out)
    assert again.returncode == 2 and 'holds a run already' in again.stderr
    assert (out / 'report.html').stat().st_mtime_ns == before
