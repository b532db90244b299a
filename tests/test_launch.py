"""The launcher, in a copy of its own: what it says before it installs anything."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def launch(tmp_path):
    """(*arguments, **environment) -> the finished process of a copy of launch.sh."""
    shutil.copy(ROOT / 'launch.sh', tmp_path)
    shutil.copytree(ROOT / 'experiments', tmp_path / 'experiments',
                    ignore=shutil.ignore_patterns('__pycache__'))

    def launch(*arguments, **environment):
        return subprocess.run(
            [tmp_path / 'launch.sh', *arguments], cwd='/', text=True,
            capture_output=True, env={'PATH': '/usr/bin:/bin', **environment})
    return launch


def assert_one_line(done, words):
    assert done.returncode == 2 and done.stdout == ''
    assert done.stderr.startswith('error: ') and done.stderr.count('\n') == 1
    assert words in done.stderr


@pytest.mark.parametrize('word', ['--help', '-h', 'help'])
def test_help(launch, word):
    done = launch(word)
    assert done.returncode == 0 and done.stderr == ''
    for line in ('the main job', './launch.sh SWEEP', './launch.sh vae',
                 './launch.sh test', 'PYTHON='):
        assert line in done.stdout
    assert '#' not in done.stdout and 'set -e' not in done.stdout


@pytest.mark.parametrize('name', ['vea', 'launch', '--order=joint', '../experiments'])
def test_unknown_experiment(launch, name):
    assert_one_line(launch(name), f"there is no sweep and no experiment '{name}'")


@pytest.mark.parametrize('arguments', [(), ('test',), ('vae', '--order=joint')])
def test_no_python(launch, arguments, tmp_path):
    done = launch(*arguments, PYTHON='/no/such/python')
    assert_one_line(done, 'no Python 3.11 or later among /no/such/python')
    assert not (tmp_path / '.venv').exists()


def test_old_python(launch, tmp_path):
    old = tmp_path / 'old'
    old.write_text('#!/bin/sh\nexit 1\n')
    old.chmod(0o755)
    assert_one_line(launch('vae', PYTHON=str(old)), 'no Python 3.11 or later')


def test_arguments_reach_the_experiment(launch, tmp_path):
    """With an environment that is there already, nothing is installed twice."""
    log = tmp_path / 'log'
    for name, minor in ('python', 12), ('pip', 12):
        program = tmp_path / '.venv' / 'bin' / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(f'#!/bin/sh\n[ "$1" = -c ] && echo {minor} && exit\n'
                           f'echo "$@" >> {log}\n')
        program.chmod(0o755)
    for name in 'setup.cfg', 'pyproject.toml', 'constraints-py312.txt':
        shutil.copy(ROOT / name, tmp_path)
    for _ in range(2):
        assert launch('vae', '--order=decoder,encoder', '--seeds=3').returncode == 0
    assert launch().returncode == 0
    (tmp_path / 'own.toml').touch()
    for arguments in (['smoke', 'status', '--out_dir=x'], [str(tmp_path / 'own.toml')],
                      ['smoke', '--tensorboard', '--cluster=slurm']):
        assert launch(*arguments).returncode == 0
    assert launch('test', '-q', 'tests/test_launch.py').returncode == 0
    install, *runs = log.read_text().splitlines()
    assert install.startswith('-m pip install') and install.endswith('[experiments]')
    assert f'--constraint {tmp_path}/constraints-py312.txt' in install
    assert runs[:5] == [
        *['-P -m experiments.vae --order=decoder,encoder --seeds=3'] * 2,
        '-P -m experiments.harness.sweep quickstart',
        '-P -m experiments.harness.sweep smoke status --out_dir=x',
        f'-P -m experiments.harness.sweep {tmp_path / "own.toml"}']
    assert runs[5].endswith('[experiments,slurm,tensorboard]')
    assert runs[6] == ('-P -m experiments.harness.sweep smoke --tensorboard '
                       '--cluster=slurm')
    assert runs[7].endswith('[test]')
    assert runs[8:] == ['-m flake8', '-m mypy', '-m pytest -q tests/test_launch.py']
