"""The folder of a run: what goes in comes back, and nothing is written over."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import launch, run_folder, vae
from experiments.run_folder import RunFolder, create, load_params, read_rows


def parse(*arguments):
    return launch.parse(vae.define_flags, arguments)


@pytest.fixture
def cwd(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_rows_come_back(tmp_path):
    folder = RunFolder(tmp_path)
    folder.add_row({'sweep': 1, 'loss': {'encoder': jnp.array([1.5, 2.5])}})
    folder.add_row({'sweep': 2, 'loss': {'encoder': np.float32(0.25)}})
    assert read_rows(tmp_path) == [{'sweep': 1, 'loss': {'encoder': [1.5, 2.5]}},
                                   {'sweep': 2, 'loss': {'encoder': 0.25}}]


def test_params_come_back(tmp_path):
    params = {'encoder': {'Dense_0': {'kernel': jnp.ones((2, 3, 4), jnp.float32),
                                      'bias': -jnp.zeros((2, 4))}},
              'sigma': jnp.arange(2.)}
    RunFolder(tmp_path).save_params(params)
    loaded = load_params(tmp_path)
    assert jax.tree.structure(loaded) == jax.tree.structure(params)
    for mine, other in zip(jax.tree.leaves(loaded), jax.tree.leaves(params)):
        assert mine.dtype == other.dtype and mine.tobytes() == other.tobytes()


def test_says_how_the_run_was_started(tmp_path):
    values = parse(f'--run_dir={tmp_path / "deep" / "run"}', '--seeds=3')
    folder = create('vae', values, {'data': {'a file': 'a hash'}})
    assert folder.path == tmp_path / 'deep' / 'run'
    again = parse(f'--flagfile={folder.path / "flags.txt"}')
    assert again.flag_values_dict() == values.flag_values_dict()
    environment = json.loads((folder.path / 'env.json').read_text())
    assert environment['data'] == {'a file': 'a hash'}
    assert environment['versions']['jax'] == jax.__version__


def test_git_is_not_needed(monkeypatch, tmp_path):
    monkeypatch.setenv('PATH', str(tmp_path))
    folder = create('vae', parse(f'--run_dir={tmp_path / "run"}'), {})
    environment = json.loads((folder.path / 'env.json').read_text())
    assert environment['commit'] is None and environment['uncommitted'] is False


def test_every_run_has_a_folder_of_its_own(cwd):
    paths = [create('gan-digits-discriminator*5,generator', parse(), {}).path
             for _ in range(3)]
    name = 'gan-digits-discriminator-5-generator'
    assert paths == [Path('runs') / (name + end) for end in ('', '-2', '-3')]
    assert all(path.is_dir() for path in paths)


def test_two_runs_at_once_do_not_share_a_folder(cwd, monkeypatch):
    mkdir = Path.mkdir

    def overtaken(path, *args, **kwargs):
        """Another run makes the folder between our look and our step."""
        if path.name == 'vae' and not path.exists():
            mkdir(path)
        mkdir(path, *args, **kwargs)

    monkeypatch.setattr(Path, 'mkdir', overtaken)
    assert create('vae', parse(), {}).path == Path('runs/vae-2')


def test_a_run_is_not_written_over(tmp_path):
    values = parse(f'--run_dir={tmp_path}')
    folder = create('vae', values, {})
    folder.add_row({'sweep': 0})
    folder.finish()
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(launch.SettingError, match='holds a run already; give another'):
        create('vae', parse(f'--run_dir={tmp_path}', '--seeds=2'), {})
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize('where', ['file/run', 'file', 'x' * 300])
def test_folder_that_cannot_be_made(where, cwd):
    (cwd / 'file').touch()
    with pytest.raises(launch.SettingError) as caught:
        create('vae', parse(f'--run_dir={where}'), {})
    assert str(caught.value).startswith(f'folder {where} cannot be written (')
    assert [path.name for path in cwd.iterdir()] == ['file']


def test_runs_that_is_no_folder(cwd):
    (cwd / 'runs').touch()
    with pytest.raises(launch.SettingError, match='folder runs/vae cannot be written'):
        create('vae', parse(), {})
    with pytest.raises(launch.SettingError, match='folder runs/x cannot be written'):
        run_folder.new_folder(Path('runs/x'))


def test_folder_that_may_not_be_read(cwd, monkeypatch):
    def refuse(path, *args, **kwargs):
        raise PermissionError(13, 'Permission denied')

    monkeypatch.setattr(Path, 'exists', refuse)
    with pytest.raises(launch.SettingError, match=r'\(Permission denied\)'):
        create('vae', parse('--run_dir=run'), {})
