"""The main job from end to end, with short trainings."""

import subprocess
import sys
from pathlib import Path

import pytest

from experiments.run_folder import read_rows

ROOT = Path(__file__).parents[2]


def quickstart(out):
    return subprocess.run(
        [sys.executable, '-m', 'experiments.quickstart', '--seeds=2', '--vae_epochs=2',
         '--gan_epochs=1', f'--out_dir={out}'], cwd=ROOT, text=True,
        capture_output=True)


@pytest.mark.slow
def test_quickstart(tmp_path):
    out = tmp_path / 'out'
    done = quickstart(out)
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
    again = quickstart(out)
    assert again.returncode == 2 and 'holds a run already' in again.stderr
    assert (out / 'report.html').stat().st_mtime_ns == before
