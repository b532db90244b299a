"""Whatever is wrong ends in one line, the right exit status, and nothing lost."""

import hashlib
import os
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import pytest

from cdgm.data.mnist import MNIST_FILES
from experiments import gan, vae
from experiments.harness import cli, errors, execute
from experiments.harness.report import compare
from experiments.harness.runs import status_log
from experiments.harness.runs.run_folder import read_rows

ROOT = Path(__file__).parents[3]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory: a file, an earlier run, and damaged data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', '')
    monkeypatch.delenv('CDGM_DATA_DIR', raising=False)
    Path('file').touch()
    Path('earlier').mkdir()
    Path('earlier/metrics.jsonl').write_text('{"cycle": 0, "test": {"mmd2": [1.0]}}\n')
    Path('empty').mkdir()
    Path('altered/mnist').mkdir(parents=True)
    for file in MNIST_FILES:
        Path('altered/mnist', file.name).write_bytes(b'altered')
    return tmp_path


def contents(folder):
    """All that is there, but for what keeps other processes out."""
    return {path.relative_to(folder): path.read_bytes() if path.is_file() else None
            for path in folder.rglob('*') if path.name != 'lock'}


def last_words(capsys):
    captured = capsys.readouterr()
    assert captured.err.startswith('error: ') and captured.err.count('\n') == 1
    assert captured.err.endswith('\n') and 'Traceback' not in captured.out
    return captured.err


def ends(module, arguments, monkeypatch, capsys):
    """Exit status and error line of a command, run in this process."""
    monkeypatch.setattr(sys, 'argv', ['experiment', *arguments])
    with pytest.raises(SystemExit) as caught:
        cli.run(module.define_flags, module.main, module.__doc__)
    return caught.value.code, last_words(capsys)


SETTINGS = [
    (vae, '--order=decodr,encoder', "--order: unknown block 'decodr'; there are "
     "encoder, decoder, sigma, last_layer, joint, simultaneous. Did you mean "
     "'decoder'?"),
    (vae, '--order=decoder*0', "'decoder*0'"),
    (vae, '--order=joint --schedule=shuffled', '--order=joint'),
    (vae, '--learing_rate=1', 'Did you mean: learning_rate ?'),
    (vae, '--learning_rate=-1e-3', "--learning_rate: '-1e-3'"),
    (vae, '--learning_rate=critic=1e-3', "unknown block 'critic'"),
    (vae, '--sigma=nan', '--sigma=nan'),
    (vae, '--hidden=0', '--hidden=0'),
    (vae, '--batch_size=1438', 'exceeds the 1437 training examples'),
    (vae, '--epochs=0', 'less than one cycle'),
    (vae, '--run_dir=file/run', 'folder file/run cannot be written'),
    (vae, '--run_dir=earlier', 'run folder earlier holds a run already'),
    (gan, '--order=joint', 'there are discriminator, generator, simultaneous.'),
    (gan, '--loss=hings', 'non_saturating'),
    (gan, '--channels=0', '--channels=0'),
]


@pytest.mark.parametrize('module, arguments, words', SETTINGS)
def test_setting(module, arguments, words, folder, monkeypatch, capsys):
    before = contents(folder)
    # Nothing is compiled: it does not come to training.
    monkeypatch.setattr(execute, 'Trainer', None)
    status, line = ends(module, arguments.split(), monkeypatch, capsys)
    assert status == errors.BAD_SETTING and words in line
    assert contents(folder) == before


@pytest.mark.parametrize('where, words', [
    ('nowhere', ['nowhere', 'no such directory']),
    ('empty', [MNIST_FILES[0].name, 'No such file', MNIST_FILES[0].sha256, 'fetch']),
    ('altered', [MNIST_FILES[0].name, MNIST_FILES[0].sha256, 'move it away and fetch',
                 hashlib.sha256(b'altered').hexdigest()])])
def test_data(where, words, folder, monkeypatch, capsys):
    before = contents(folder)
    arguments = ['--dataset=mnist', f'--data_dir={where}', '--run_dir=run']
    status, line = ends(vae, arguments, monkeypatch, capsys)
    assert status == errors.BAD_DATA and all(word in line for word in words)
    assert contents(folder) == before


def test_divergence(folder, monkeypatch, capsys, cheap_compilation):
    arguments = ['--likelihood=gaussian', '--learning_rate=1e15', '--order=joint',
                 '--hidden=8', '--latent=3', '--cycles=8', '--run_dir=run']
    with jax.enable_x64(False), cheap_compilation():
        status, line = ends(vae, arguments, monkeypatch, capsys)
    assert status == errors.DIVERGED
    rows = read_rows(Path('run'))
    # Cycle 0 leaps to where the loss overflows, and has still a row: it was finite.
    assert [row['cycle'] for row in rows] == [0, 1] and 'loss' in rows[1]
    assert line.startswith("error: the loss of block 'joint' is not finite at cycle 1 "
                           "(seed number 0); lower its --learning_rate.")
    assert 'in run.' in line
    assert {'flags.txt', 'manifest.json'} <= {
        path.name for path in Path('run').iterdir()}
    assert status_log.state_of(Path('run')) == status_log.State(
        'failed', 'diverged', line.removeprefix('error: ').strip(), 1)


def test_compare(folder, capsys):
    other = folder / 'other'
    other.mkdir()
    (other / 'metrics.jsonl').write_text('{"test": {"neg_elbo": [1.0]}}\n')
    (folder / 'empty' / 'metrics.jsonl').touch()
    for paths, words in [([], 'name the folders'), (['empty'], 'empty holds no run'),
                         (['nowhere'], 'nowhere holds no run'),
                         (['earlier', 'other'], "other has the metrics ['neg_elbo']")]:
        with pytest.raises(SystemExit) as caught, cli.one_line_errors():
            compare.main(paths)
        assert caught.value.code == errors.BAD_SETTING and words in last_words(capsys)


def test_messages_of_many_lines_become_one(capsys):
    with pytest.raises(SystemExit), cli.one_line_errors():
        raise errors.SettingError('one\ntwo')
    assert last_words(capsys) == 'error: one two\n'


def test_help(monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['vae', '--help'])
    cli.run(vae.define_flags, None, vae.__doc__)
    shown = capsys.readouterr().out
    assert shown.startswith(vae.__doc__) and '--order' in shown and '--beta' in shown


def python(*arguments):
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, text=True,
                          capture_output=True,
                          env={**os.environ, 'JAX_COMPILATION_CACHE_DIR': ''})


@pytest.mark.thorough
def test_a_process_ends_so():
    done = python('-m', 'experiments.vae', '--order=decodr')
    assert done.returncode == errors.BAD_SETTING and done.stdout == ''
    assert done.stderr.startswith('error: ') and done.stderr.count('\n') == 1


@pytest.mark.thorough
def test_extras_not_installed():
    done = python('-c', 'import runpy, sys; sys.modules["pooch"] = None; '
                        'runpy.run_module("experiments.vae", run_name="__main__")')
    assert done.returncode and done.stdout == ''
    assert done.stderr.splitlines()[-1] == (
        'ModuleNotFoundError: the experiments need pooch, which the extra brings: '
        'pip install cdgm[experiments]')


def test_importing_the_package_ends_nothing():
    done = python('-c', 'import sys; sys.modules["pooch"] = None; import experiments')
    assert done.returncode == 0 and done.stderr == ''


def test_a_warning_is_one_line(monkeypatch):
    monkeypatch.setattr(warnings, 'formatwarning', warnings.formatwarning)  # put back
    lines = []
    cli.run(lambda values: None, lambda values: lines.append(warnings.formatwarning(
        UserWarning('nothing keeps it'), UserWarning, 'gan.py', 1)), '', [])
    assert lines == ['warning: nothing keeps it\n']
