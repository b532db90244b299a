"""The folder of a run: what goes in comes back, and nothing is written over."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import gan, vae
from experiments.harness import cli, errors
from experiments.harness.runs import preemption, provenance, run_folder, status_log
from experiments.harness.runs.run_folder import (
    BusyError, RunFolder, load_params, read_rows)


def parse(*arguments):
    return cli.parse(vae.define_flags, arguments)


@pytest.fixture
def create():
    """`run_folder.create`, of which the leases are given back."""
    def create(*arguments):
        made.append(run_folder.create(*arguments))
        return made[-1]

    made = []
    yield create
    for folder in made:
        folder.lock.release()


@pytest.fixture
def cwd(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_rows_come_back(tmp_path):
    folder = RunFolder(tmp_path)
    folder.add_row({'cycle': 1, 'loss': {'encoder': jnp.array([1.5, 2.5])}})
    folder.add_row({'cycle': 2, 'loss': {'encoder': np.float32(0.25)}})
    assert read_rows(tmp_path) == [{'cycle': 1, 'loss': {'encoder': [1.5, 2.5]}},
                                   {'cycle': 2, 'loss': {'encoder': 0.25}}]


def test_params_come_back(tmp_path):
    params = {'encoder': {'Dense_0': {'kernel': jnp.ones((2, 3, 4), jnp.float32),
                                      'bias': -jnp.zeros((2, 4))}},
              'sigma': jnp.arange(2.)}
    RunFolder(tmp_path).save_params(params)
    loaded = load_params(tmp_path)
    assert jax.tree.structure(loaded) == jax.tree.structure(params)
    for mine, other in zip(jax.tree.leaves(loaded), jax.tree.leaves(params)):
        assert mine.dtype == other.dtype and mine.tobytes() == other.tobytes()


def test_a_shadow_has_the_rows_so_far_and_leaves_the_run_alone(tmp_path):
    home = RunFolder(tmp_path)
    home.add_row({'cycle': 1})
    shadow = run_folder.shadow(tmp_path, (3,))
    assert shadow.checkpoints == home.checkpoints and shadow.lengths == (3,)
    with shadow.attempt():
        shadow.add_row({'cycle': 2})
        assert [row['cycle'] for row in read_rows(shadow.path)] == [1, 2]
    assert not shadow.path.exists()
    assert read_rows(tmp_path) == [{'cycle': 1}]


def test_says_how_the_run_was_started(tmp_path, create):
    values = parse(f'--run_dir={tmp_path / "deep" / "run"}', '--seeds=3')
    folder = create('vae', values, {'data': {'a file': 'a hash'}})
    assert folder.path == tmp_path / 'deep' / 'run'
    again = parse(f'--flagfile={folder.path / "flags.txt"}')
    assert again.flag_values_dict() == values.flag_values_dict()
    manifest = status_log.read_manifest(folder.path)
    assert manifest['data'] == {'a file': 'a hash'}
    assert manifest['versions']['jax'] == jax.__version__
    assert manifest['experiment'] == 'vae' and '--seeds=3' in manifest['flags']
    assert 'digests' not in manifest


def test_says_what_the_code_had_beside_its_commit(tmp_path, create, monkeypatch):
    # It is asked once a process.
    asked = {name: getattr(provenance, name).__wrapped__ for name in (
        '_machine', 'diff')}

    def made(folder, changes):
        said = {'status': changes, 'diff': 'what changed', 'rev-parse': 'c0ffee'}
        monkeypatch.setattr(provenance, '_git', lambda command, *rest: said[command])
        for name in '_machine', 'diff':
            monkeypatch.setattr(provenance, name, asked[name])
        path = create('vae', parse(f'--run_dir={tmp_path / folder}'), {}).path
        manifest = status_log.read_manifest(path)
        assert manifest['commit'] == 'c0ffee'
        assert manifest['uncommitted'] == bool(changes)
        return path / 'uncommitted.diff'

    assert made('dirty', ' M file').read_text() == 'what changed'
    assert not made('clean', '').exists()


def test_git_is_not_needed(monkeypatch, tmp_path, create):
    # It is asked once a process.
    monkeypatch.setattr(provenance, '_machine', provenance._machine.__wrapped__)
    monkeypatch.setenv('PATH', str(tmp_path))
    folder = create('vae', parse(f'--run_dir={tmp_path / "run"}'), {})
    manifest = status_log.read_manifest(folder.path)
    assert manifest['commit'] is None and manifest['uncommitted'] is False


def test_every_run_has_a_folder_of_its_own(cwd, create):
    values = cli.parse(gan.define_flags, ['--order=discriminator*5,generator'])
    paths = [create('gan', values, {}).path for _ in range(3)]
    name = 'gan-digits-discriminator-5-generator'
    assert paths == [Path('runs') / (name + end) for end in ('', '-2', '-3')]
    assert all(path.is_dir() for path in paths)


def test_two_runs_at_once_do_not_share_a_folder(cwd, monkeypatch, create):
    mkdir = Path.mkdir

    def overtaken(path, *args, **kwargs):
        """Another run makes the folder between our look and our step."""
        if path.name == 'vae-digits-joint' and not path.exists():
            mkdir(path)
        mkdir(path, *args, **kwargs)

    monkeypatch.setattr(Path, 'mkdir', overtaken)
    path = create('vae', parse('--order=joint'), {}).path
    assert path == Path('runs/vae-digits-joint-2')


def complete(folder):
    folder.begin(0)
    folder.add_row({'cycle': 0, 'seconds': 1.5, 'loss': {'a': [1.], 'b': [2.]}})
    folder.save_params({'w': jnp.ones(3)})
    folder.finish()


def test_a_run_is_not_written_over(tmp_path, create):
    folder = create('vae', parse(f'--run_dir={tmp_path}'), {})
    with folder.attempt():
        complete(folder)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(errors.SettingError, match='other flags .then --seeds=1, now --seeds=2'):
        create('vae', parse(f'--run_dir={tmp_path}', '--seeds=2'), {})
    with pytest.raises(run_folder.CompleteError, match='this run already, complete'):
        create('vae', parse(f'--run_dir={tmp_path}'), {})
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_complete_run_says_so(tmp_path, create):
    folder = create('vae', parse(f'--run_dir={tmp_path}'), {})
    for number in '000009', '000010':
        (folder.checkpoints / number).mkdir(parents=True)
    with folder.attempt():
        complete(folder)
    assert status_log.state_of(tmp_path) == status_log.State('done', attempts=1)
    manifest = status_log.read_manifest(tmp_path)
    assert manifest['digests'] == run_folder.digests(tmp_path)
    assert manifest['attempts'] == 1 and manifest['experiment'] == 'vae'
    assert [path.name for path in folder.checkpoints.iterdir()] == ['000010']
    assert not (tmp_path / 'lease').exists()


def test_digests_are_of_numbers(tmp_path):
    def digests(row, params):
        folder = RunFolder(tmp_path)
        folder.cut_rows(None)
        folder.add_row(row)
        folder.save_params(params)
        return run_folder.digests(tmp_path)

    row, params = {'seconds': 1., 'loss': {'a': [1.], 'b': [2.]}}, {
        'w': np.zeros(2, np.float32), 'v': np.ones(1)}
    same = digests(row, params)
    assert same == digests({'loss': {'b': [2.], 'a': [1.]}, 'seconds': 3.}, params)
    for other in ({**params, 'w': -params['w']}, {**params, 'w': params['w'][None]},
                  {**params, 'w': np.zeros(2, np.int32)}, {'w': params['w']},
                  {'w': params['w'], 'u': params['v']}):
        assert digests(row, other)['params'] != same['params']
        assert digests(row, other)['metrics'] == same['metrics']
    assert digests({**row, 'loss': {'a': [2.], 'b': [1.]}}, params)['metrics'] != same[
        'metrics']


def test_a_run_that_was_taken_over_is_not_complete(tmp_path, create):
    folder = create('vae', parse(f'--run_dir={tmp_path}'), {})
    lease = json.loads((tmp_path / 'lease').read_text())
    (tmp_path / 'lease').write_text(json.dumps({**lease, 'token': 'another'}))
    with pytest.raises(errors.StorageError, match='was taken over by another'):
        with folder.attempt():
            complete(folder)
    assert 'digests' not in status_log.read_manifest(tmp_path)
    assert (tmp_path / 'lease').exists(), 'which is not its own'


@pytest.mark.parametrize('error, outcome', [
    (errors.DivergedError('too fast'), ('failed', 'diverged', 'too fast')),
    (ValueError('no\nidea'), ('failed', 'crash', 'ValueError: no idea')),
    (preemption.PreemptedError('asked to'), ('preempted', '', ''))])
def test_an_attempt_that_ends_says_how(error, outcome, tmp_path, create):
    folder = create('vae', parse(f'--run_dir={tmp_path}'), {})
    with pytest.raises(type(error)), folder.attempt():
        folder.begin(0)
        raise error
    assert status_log.state_of(tmp_path) == status_log.State(*outcome, attempts=1)
    assert status_log.is_over(tmp_path)
    assert (tmp_path / 'crash.txt').exists() == ('crash' in outcome)
    assert not (tmp_path / 'lease').exists(), 'others may go on'


def test_an_attempt_that_is_left_from_a_thread_says_so(tmp_path, create):
    folder = create('vae', parse(f'--run_dir={tmp_path}'), {})
    with folder.attempt():
        folder.begin(0)
        callback, = preemption._exit_callbacks
        callback()  # and the process ends
        assert status_log.state_of(tmp_path) == status_log.State(
            'preempted', attempts=1)
        assert status_log.is_over(tmp_path) and not (tmp_path / 'lease').exists()
    assert not preemption._exit_callbacks


@pytest.mark.parametrize('where', ['file/run', 'file', 'x' * 300])
def test_folder_that_cannot_be_made(where, cwd, create):
    (cwd / 'file').touch()
    with pytest.raises(errors.SettingError) as caught:
        create('vae', parse(f'--run_dir={where}'), {})
    assert str(caught.value).startswith(f'folder {where} cannot be written (')
    assert [path.name for path in cwd.iterdir()] == ['file']


def test_runs_that_is_no_folder(cwd, create):
    (cwd / 'runs').touch()
    with pytest.raises(errors.SettingError, match='folder runs/vae-.* cannot be'):
        create('vae', parse(), {})
    with pytest.raises(errors.SettingError, match='folder runs/x cannot be written'):
        run_folder.new_folder(Path('runs/x'))


def test_folder_that_may_not_be_read(cwd, monkeypatch, create):
    def refuse(path, *args, **kwargs):
        raise PermissionError(13, 'Permission denied')

    monkeypatch.setattr(Path, 'exists', refuse)
    with pytest.raises(errors.SettingError, match=r'\(Permission denied\)'):
        create('vae', parse('--run_dir=run'), {})
