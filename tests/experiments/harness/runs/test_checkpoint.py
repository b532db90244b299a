"""A run goes on to the same bits, whatever happened to it and to its checkpoints."""

import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cdgm
from experiments import vae
from experiments.harness import block_choice, cli, errors
from experiments.harness.errors import SettingError, StorageError
from experiments.harness.runs import checkpoint, preemption, run_folder
from experiments.harness.runs.checkpoint import Checkpoint
from experiments.harness.runs.run_folder import RunFolder, read_rows
from experiments.harness.task import TracedInputs, Task
from experiments.harness.train import trainer
from experiments.harness.train.progress import Progress
from experiments.harness.train.run_batch import RunHandle
from experiments.harness.train.trainer import CheckpointPolicy, Trainer
from experiments.harness.training_flags import UpdatePlan

SWEEPS, EVALUATIONS = 12, 3


class StepStats(NamedTuple):
    """What a loss was given."""

    noise: jax.Array


def loss(params, batch, key):
    noise = jax.random.normal(key)
    error = jnp.tanh(batch @ params['a']) @ params['b'] - noise
    return jnp.mean(jnp.square(error)), StepStats(noise)


def task(choice=None):
    return Task(
        init=lambda key: {'a': jax.random.normal(key, (9, 3)), 'b': jnp.ones(3)},
        descent=lambda hyper: cdgm.block_descent({
            name: cdgm.Block(name, loss, optax.adam(0.1)) for name in 'ab'}),
        order=UpdatePlan(('b', 'a'), ('a', 'b'), {}, choice), examples=jnp.eye(9),
        prepare=lambda images, key: images,
        evaluate=lambda params, hyper: {'norm': jnp.linalg.norm(params['b'])},
        draw=lambda folder, params: None, batch_size=2, fresh=True)


STUDIES = {'in_order': task(), 'bandit': task(
    block_choice.choices((1, 1), 3)['bandit'])}
GIVEN = TracedInputs(jax.random.split(jax.random.key(3), 2), {})


def train_in(folder, task, pace=CheckpointPolicy()):
    one = jax.tree.map(lambda x: x[0], GIVEN)
    params, = Trainer(task, SWEEPS, EVALUATIONS, one).train(
        [RunHandle(folder, GIVEN)], pace, Progress('toy', SWEEPS))
    return params


@pytest.fixture
def train(cheap_compilation, monkeypatch):
    """(task, folder) -> params; rows of four cycles, calls of one."""
    monkeypatch.setattr(trainer, '_NUM_ROWS', 3)

    def train(task, folder):
        with cheap_compilation():
            params = train_in(
                folder, task, CheckpointPolicy(
                    checkpoint_every=0., latency=1e-9))
        return jax.tree.map(np.asarray, params)
    return train


@pytest.fixture(scope='module')
def whole(tmp_path_factory, cheap_compilation):
    """name -> (params, rows) of an uninterrupted run in long calls."""
    def train(name):
        folder = RunFolder(tmp_path_factory.mktemp(name))
        with pytest.MonkeyPatch.context() as monkeypatch, cheap_compilation():
            monkeypatch.setattr(trainer, '_NUM_ROWS', 3)
            params = train_in(folder, STUDIES[name])
        return params, without_seconds(folder.path)
    return {name: train(name) for name in STUDIES}


def without_seconds(path):
    return [{name: value for name, value in row.items() if name != 'seconds'}
            for row in read_rows(path)]


def assert_same_run(params, folder, whole):
    for mine, other in zip(jax.tree.leaves(params), jax.tree.leaves(whole[0]),
                           strict=True):
        assert mine.tobytes() == np.asarray(other).tobytes()
    assert without_seconds(folder.path) == whole[1]


def interrupt(monkeypatch, poll):
    """Ask to leave at a poll, of which there are two a cycle and more."""
    polls = iter(range(1000))
    monkeypatch.setattr(preemption, 'requested', lambda: next(polls) == poll)


@pytest.mark.parametrize('name', STUDIES)
@pytest.mark.sample(1)
def test_resumes_to_the_same_bits(name, train, whole, tmp_path, monkeypatch, capsys):
    folder = RunFolder(tmp_path)
    # Before all, within a row, at its end, and when it is written.
    for poll, cycle in (0, 0), (2, 2), (2, 4), (1, 4):
        interrupt(monkeypatch, poll)
        with pytest.raises(preemption.PreemptedError) as caught:
            train(STUDIES[name], folder)
        assert str(caught.value) == (
            f'preempted at cycle {cycle}; run the same command again, with '
            f'--run_dir={tmp_path}, to continue')
        # What came after the checkpoint, and a write that was cut short.
        with open(tmp_path / 'metrics.jsonl', 'a') as file:
            file.write('{"cycle": 7}\n{"swe')
        capsys.readouterr()
    interrupt(monkeypatch, -1)
    assert_same_run(train(STUDIES[name], folder), folder, whole[name])
    assert 'resuming at cycle 4\n' in capsys.readouterr().out


def test_calls_last_a_quarter_of_the_latency():
    assert trainer._end_of_call(3, 100, np.inf, 4.) == 4, 'no pace is known yet'
    assert trainer._end_of_call(3, 100, 0.1, 4.) == 13
    assert trainer._end_of_call(3, 10, 0.1, 4.) == 10, 'no further than the row'
    assert trainer._end_of_call(3, 100, 9., 4.) == 4, 'one cycle at least'
    assert trainer._end_of_call(3, 100, 9., np.inf) == 100


# A state as optimisers have them, and leaves that formats are apt to lose.
STATE = optax.adam(1e-3).init({
    'w': np.arange(6, dtype=np.float32).reshape(2, 3), 'none': np.zeros((0, 3)),
    'half': jnp.array([1.5, -0.0], jnp.bfloat16), 'one': np.float64(-0.0)})


def numbered(number):
    state = jax.tree.map(lambda x: np.asarray(x) + np.asarray(number, x.dtype), STATE)
    return Checkpoint(state, {'number': number, 'third': 1 / 3})


def load(folder):
    return checkpoint.load(folder, STATE, lambda facts: None)


def assert_is(found, number):
    wanted = numbered(number)
    assert found.facts == wanted.facts
    assert jax.tree.structure(found.state) == jax.tree.structure(STATE)
    for mine, other in zip(jax.tree.leaves(found.state), jax.tree.leaves(wanted.state)):
        assert mine.dtype == other.dtype and mine.shape == other.shape
        assert mine.tobytes() == other.tobytes()


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    """Folder of a run with checkpoints, of which the numbers 2 and 3 are left."""
    run = tmp_path_factory.mktemp('saved') / 'run'
    for number in 1, 2, 3:
        checkpoint.save(run / 'checkpoints', numbered(number))
    return run


def test_the_last_two_are_kept_and_the_last_is_read(saved):
    folder = saved / 'checkpoints'
    assert sorted(path.name for path in folder.iterdir()) == ['000002', '000003']
    assert_is(load(folder), 3)


def test_no_checkpoint(tmp_path):
    assert load(tmp_path / 'checkpoints') is None


def flip(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1:]


DAMAGES = {'flip': flip, 'truncate': lambda content: content[:len(content) // 2],
           'zero': lambda content: bytes(len(content)), 'delete': lambda content: None}


@pytest.mark.parametrize('damage', DAMAGES)
def test_a_damaged_checkpoint_is_never_read(damage, saved, tmp_path, capsys):
    files = [path.relative_to(saved)
             for path in (saved / 'checkpoints/000003').rglob('*') if path.is_file()]
    assert len(files) > 5
    for number, file in enumerate(files):
        run = tmp_path / str(number)
        shutil.copytree(saved, run)
        content = DAMAGES[damage]((run / file).read_bytes())
        (run / file).unlink()
        if content is not None:
            (run / file).write_bytes(content)
        assert_is(load(run / 'checkpoints'), 2)
        warning = capsys.readouterr().err
        assert warning.startswith('warning: checkpoint ') and 'damaged' in warning
        assert warning.count('\n') == 1
        kept = run / 'damaged-checkpoint-000003' / Path(*file.parts[2:])
        assert kept.exists() == (content is not None), 'set aside, not deleted'


def test_no_bit_of_the_facts_is_believed_unseen(saved, tmp_path):
    content = (saved / 'checkpoints/000003/facts.json').read_bytes()
    shutil.copytree(saved / 'checkpoints', tmp_path / 'checkpoints')
    for place in range(0, len(content), len(content) // 25):
        altered = bytearray(content)
        altered[place] ^= 1
        (tmp_path / 'checkpoints/000003/facts.json').write_bytes(altered)
        assert_is(load(tmp_path / 'checkpoints'), 2)
        shutil.move(next(tmp_path.glob('damaged*')), tmp_path / 'checkpoints/000003')


def test_all_damaged(saved, tmp_path, capsys):
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    for facts in tmp_path.glob('checkpoints/*/facts.json'):
        facts.write_text('')
    assert load(tmp_path / 'checkpoints') is None
    assert capsys.readouterr().err.count('damaged') >= 2
    assert len([*tmp_path.glob('damaged-checkpoint-*/state')]) == 2


@pytest.mark.parametrize('files_are_checked', [True, False])
def test_arrays_of_another_checkpoint_are_not_read(files_are_checked, saved, tmp_path,
                                                   monkeypatch, capsys):
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    folder = tmp_path / 'checkpoints'
    shutil.rmtree(folder / '000003/state')
    shutil.copytree(folder / '000002/state', folder / '000003/state')
    if not files_are_checked:
        monkeypatch.setattr(checkpoint, '_check_files', lambda path, digests: None)
    assert_is(load(folder), 2)
    leaf = '(0/count does not match its digest)' in capsys.readouterr().err
    assert leaf != files_are_checked, 'orbax itself is content'


def test_checkpoints_of_other_code(saved):
    form = optax.sgd(1.).init(np.zeros(3)), jnp.zeros(3)
    with pytest.raises(SettingError, match='was written by other code: .* absent'):
        checkpoint.load(saved / 'checkpoints', form, lambda facts: None)


def test_a_save_that_was_killed(saved, tmp_path):
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    folder = tmp_path / 'checkpoints'
    shutil.copytree(folder / '000003/state', folder / '.writing/state')
    (folder / '000002').rename(folder / '.old')
    assert_is(load(folder), 3)
    checkpoint.save(folder, numbered(4))
    assert sorted(path.name for path in folder.iterdir()) == ['000003', '000004']


SAVE = '''
import sys
from itertools import count
from pathlib import Path
import numpy as np
from experiments.harness.runs.checkpoint import Checkpoint, save
for number in count(1):
    save(Path(sys.argv[1]), Checkpoint(np.full(10 ** 5, number), {'number': number}))
    print(number, flush=True)
'''


@pytest.mark.parametrize('milliseconds', [3, 50])
@pytest.mark.sample(1)
def test_killed_while_saving(milliseconds, tmp_path):
    folder = tmp_path / 'checkpoints'
    with subprocess.Popen([sys.executable, '-c', SAVE, folder], stdout=subprocess.PIPE,
                          cwd=Path(__file__).parents[4]) as process:
        process.stdout.readline()
        time.sleep(milliseconds / 1000)
        process.kill()
        told = len(process.stdout.readlines()) + 1
    found = checkpoint.load(folder, np.empty(10 ** 5, int), lambda facts: None)
    assert found.facts['number'] in (told, told + 1)
    assert (found.state == found.facts['number']).all()
    assert not [*tmp_path.glob('damaged*')]


@pytest.mark.thorough
def test_metrics_that_were_altered(train, whole, tmp_path, monkeypatch, capsys):
    """The rows belong to the checkpoint: here they go back to the start together."""
    folder = RunFolder(tmp_path)
    interrupt(monkeypatch, 12)
    with pytest.raises(preemption.PreemptedError):
        train(STUDIES['in_order'], folder)
    metrics = tmp_path / 'metrics.jsonl'
    metrics.write_bytes(flip(metrics.read_bytes()))
    interrupt(monkeypatch, -1)
    assert_same_run(train(STUDIES['in_order'], folder), folder, whole['in_order'])
    captured = capsys.readouterr()
    assert 'metrics.jsonl is not what it was' in captured.err
    assert 'resuming at cycle 0\n' in captured.out


def parse(*arguments):
    return cli.parse(vae.define_flags, arguments)


def test_the_same_run_goes_on_and_no_other(tmp_path, capsys):
    def create(*arguments, data='a'):
        folder = run_folder.create(
            'vae', parse(f'--run_dir={tmp_path}', '--hidden=8', *arguments),
            {'data': {'file': data}})
        folder.lock.release()
        return folder

    create('--beta=4')  # which has not begun
    create('--beta=2').add_row({'cycle': 0})
    before = (tmp_path / 'manifest.json').read_bytes()
    create('--beta=2', '--checkpoint_every=3', '--preempt_latency=1', '--data_dir=x')
    create('--beta=2', '--learning_rate=.001')  # the default, written in another way
    assert (tmp_path / 'manifest.json').read_bytes() == before
    with pytest.raises(SettingError) as caught:
        create('--beta=1', '--hidden=4', '--fresh_minibatches')
    assert ('interrupted run with other flags (then --beta=2.0 --hidden=8 '
            '--nofresh_minibatches, now --beta=1.0 --fresh_minibatches --hidden=8 '
            '--hidden=4)') in str(caught.value)
    with pytest.raises(SettingError, match='whose data was .* and is now'):
        create('--beta=2', data='b')
    assert capsys.readouterr().err == ''
    (tmp_path / 'manifest.json').write_bytes(
        before.replace(b'"cores": ', b'"cores": 9'))
    folder = run_folder.create(
        'vae', parse(f'--run_dir={tmp_path}', '--hidden=8', '--beta=2'),
        {'data': {'file': 'a'}})
    assert capsys.readouterr().err.startswith('warning: cores was 9')
    folder.save_params({'w': np.ones(1)})
    with folder.attempt():
        folder.finish()
    assert not (tmp_path / 'checkpoints').exists()
    with pytest.raises(run_folder.CompleteError, match='holds this run already'):
        create('--beta=2')


@pytest.fixture
def disk(tmp_path):
    """A disk of a megabyte, to be filled or made read-only."""
    mounted = subprocess.run(
        ['mount', '-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', tmp_path],
        capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip('mounting takes a privilege')
    try:
        yield tmp_path
    finally:
        subprocess.run(['umount', '--lazy', tmp_path], check=True)


def fill(disk):
    with pytest.raises(OSError), open(disk / 'full', 'wb', buffering=0) as file:
        while True:
            file.write(bytes(4096))


def make_read_only(disk):
    subprocess.run(['mount', '-o', 'remount,ro', disk], check=True)


@pytest.mark.parametrize('refuse', [fill, make_read_only])
def test_a_disk_that_refuses(refuse, disk, capfd):
    run = RunFolder(disk / 'run')
    checkpoint.save(run.checkpoints, numbered(1))
    run.add_row({'cycle': 0})
    refuse(disk)

    def says(act):
        with pytest.raises(SystemExit) as caught, cli.one_line_errors():
            act()
        message = capfd.readouterr().err
        assert caught.value.code == errors.BAD_STORAGE == 74
        assert message.startswith('error: ') and message.count('\n') == 1
        assert 'is intact' in message and (
            'No space left on device' in message or 'Read-only file system' in message)

    says(lambda: checkpoint.save(run.checkpoints, numbered(2)))
    says(lambda: run.save_params({'w': np.zeros(10 ** 6)}))
    says(lambda: run.add_row({'cycle': 1, 'loss': [0.] * 10 ** 5}))
    assert_is(load(run.checkpoints), 1)
    assert not (run.path / 'params.npz').exists()
    assert (run.path / 'metrics.jsonl').read_text().startswith('{"cycle": 0}\n')


def test_damage_that_cannot_be_set_aside(disk):
    checkpoint.save(disk / 'checkpoints', numbered(1))
    (disk / 'checkpoints/000001/facts.json').write_text('')
    make_read_only(disk)
    with pytest.raises(StorageError, match='is damaged .* cannot be set aside'):
        load(disk / 'checkpoints')
