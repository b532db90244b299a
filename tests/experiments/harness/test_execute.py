"""A complete run is trained longer, to the bits of one that was so from the start."""

import contextlib
import functools
import json
import shutil

import jax
import jax.numpy as jnp
import optax
import pytest

import cdgm
from experiments import vae
from experiments.harness import cli, execute, rerun
from experiments.harness.errors import SettingError
from experiments.harness.report import figures
from experiments.harness.runs import atomic, run_folder, status_log
from experiments.harness.runs.run_folder import BusyError, read_rows
from experiments.harness.sweep.trial_id import identity

TINY = ('--hidden=4', '--latent=3', '--evaluations=2', '--learning_rate=1e-2',
        '--seed=1')


@pytest.fixture(scope='session')
def compiled():
    """`CompiledTask`, of which equal ones are one, so that little is compiled."""
    def compiled(experiment, values):
        name = identity(experiment.name, values)
        if name not in made:
            made[name] = real(experiment, values)
        return made[name]

    made, real = {}, execute.CompiledTask
    return compiled


@pytest.fixture
def train(cheap_compilation, compiled, monkeypatch):
    """Train in a folder, with more flags."""
    def train(folder, *more):
        with jax.enable_x64(False), cheap_compilation():
            execute.main(vae.EXPERIMENT, parse(f'--run_dir={folder}', *more))

    monkeypatch.setattr(execute, 'CompiledTask', compiled)
    monkeypatch.setattr(figures, 'loss_curves', lambda folder: None)
    return train


def parse(*more):
    return cli.parse(vae.define_flags, [*TINY, *more])


@pytest.fixture(scope='session')
def trained(tmp_path_factory, cheap_compilation, compiled):
    """Cycles -> the folder of a complete run."""
    @functools.cache
    def trained(cycles):
        folder = tmp_path_factory.mktemp('trained') / str(cycles)
        with (jax.enable_x64(False), cheap_compilation(),
              pytest.MonkeyPatch.context() as patch):
            patch.setattr(execute, 'CompiledTask', compiled)
            execute.main(vae.EXPERIMENT,
                         parse(f'--run_dir={folder}', f'--cycles={cycles}'))
        return folder
    return trained


@pytest.fixture
def short(trained, tmp_path):
    """The folder of a complete run of 2 cycles, to be changed at will."""
    return shutil.copytree(trained(2), tmp_path / 'short')


@pytest.fixture
def from_the_start(trained):
    """The folder of a run of 4 cycles."""
    return trained(4)


def numbers(folder):
    """Parameters, bytes; and rows of metrics, without what depends on the clock."""
    rows = [{**row, 'seconds': None, 'test': None} for row in read_rows(folder)]
    return (folder / 'params.npz').read_bytes(), rows


def evaluations(folder):
    return {row['cycle']: row['test'] for row in read_rows(folder) if 'test' in row}


def assert_longer(folder, from_the_start):
    """A run of 2 cycles has become the one of 4."""
    assert numbers(folder) == numbers(from_the_start)
    short, whole = evaluations(folder), evaluations(from_the_start)
    assert set(short) == {0, 1, 2, 4}, 'what the run of 2 evaluated stays'
    assert all(short[cycle] == whole[cycle] for cycle in whole)
    manifest = status_log.read_manifest(folder)
    assert (manifest['cycles'], manifest['lengths']) == (4, [2])
    assert manifest['digests'] == run_folder.digests(folder)
    assert (folder / 'flags.txt').read_text().splitlines() == manifest['flags']
    assert '--cycles=4' in manifest['flags']


@pytest.mark.thorough
def test_equals_one_that_was_longer_from_the_start(short, from_the_start, train,
                                                   capsys):
    assert numbers(short) != numbers(from_the_start)
    train(short, '--cycles=4')
    assert 'resuming at cycle 2' in capsys.readouterr().out
    assert_longer(short, from_the_start)
    assert status_log.state_of(short) == status_log.State('done', attempts=2)


@pytest.mark.parametrize('file', ['manifest.json', 'flags.txt', 'params.npz'])
@pytest.mark.thorough
def test_equals_it_though_it_dies_on_the_way(file, short, from_the_start, train,
                                             monkeypatch):
    """Before a file is written, once, so that all before it are."""
    class Death(BaseException):
        pass

    def write(path, *mode):
        if path.name == file:
            monkeypatch.setattr(atomic, 'atomic_write', real)
            raise Death
        return real(path, *mode)

    real = atomic.atomic_write
    monkeypatch.setattr(atomic, 'atomic_write', write)
    with pytest.raises(Death):
        train(short, '--cycles=4')
    done = status_log.state_of(short).name == 'done'
    assert done == (file == 'manifest.json')
    train(short, '--cycles=4')
    assert_longer(short, from_the_start)


@pytest.mark.thorough
def test_equals_it_though_its_checkpoint_is_damaged(short, from_the_start, train,
                                                    capsys):
    checkpoint, = (short / 'checkpoints').iterdir()
    (checkpoint / 'facts.json').write_text('{}')
    train(short, '--cycles=4')
    assert 'is damaged' in capsys.readouterr().err
    assert_longer(short, from_the_start)


@pytest.mark.thorough
def test_may_be_repeated(short, train, capsys):
    train(short, '--cycles=4')
    with jax.enable_x64(False):
        rerun.main(short, cli.parse(rerun.define_flags, []))
    assert f'identical: {short}' in capsys.readouterr().out


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob('*') if path.is_file()}


@pytest.mark.parametrize('flags, error, words', [
    (['--cycles=1'], BusyError, 'holds a run already, of 2 cycles'),
    (['--cycles=2', '--beta=2'], SettingError,
     'a complete run with other flags (then --beta=1.0, now --beta=2.0)'),
    (['--cycles=4', '--beta=2'], SettingError,
     'a complete run with other flags (then --beta=1.0, now --beta=2.0)'),
    (['--cycles=4', '--seeds=2'], SettingError, '(then --seeds=1, now --seeds=2)')])
def test_is_refused(flags, error, words, short, train):
    before = contents(short)
    with pytest.raises(error) as caught:
        train(short, *flags)
    assert words in str(caught.value) and '\n' not in str(caught.value)
    assert contents(short) == before


def test_made_again_it_is_left_as_it_is(short, train, capsys):
    before = contents(short)
    train(short, '--cycles=2', '--learning_rate=.01')  # as 1e-2 is written, too
    said = capsys.readouterr().out
    assert 'holds this run already, complete; train it longer' in said
    assert f'2 cycles, {read_rows(short)[-1]["gflop"]:.4g} GFLOP' in said
    assert contents(short) == before


def test_without_its_checkpoint_it_is_refused(short, train):
    shutil.rmtree(short / 'checkpoints')
    with pytest.raises(BusyError, match='whose last checkpoint is gone'):
        train(short, '--cycles=4')
    assert status_log.state_of(short).name == 'done'


def test_other_data_are_refused(short, train):
    manifest = json.loads((short / 'manifest.json').read_text())
    (short / 'manifest.json').write_text(json.dumps({**manifest, 'data': {'a': 'b'}}))
    with pytest.raises(SettingError, match="a complete run whose data was {'a': 'b'}"):
        train(short, '--cycles=4')


def test_an_interrupted_run_is_finished_first(short, train):
    manifest = json.loads((short / 'manifest.json').read_text())
    del manifest['digests']
    (short / 'manifest.json').write_text(json.dumps(manifest))
    with pytest.raises(SettingError, match='finish it with --cycles=2, after which'):
        train(short, '--cycles=4')


def test_a_trial_of_a_sweep_is_refused(short, train):
    name = identity('vae', parse('--cycles=2'))
    trial = short.rename(short.with_name(f'vae-{name}'))
    with pytest.raises(SettingError, match='is a trial of a sweep, which counts on'):
        train(trial, '--cycles=4')
    assert status_log.state_of(trial).name == 'done'


def scheduled(decay):
    """The VAE, its steps scaled by a schedule that may know the length."""
    def task(values, data):
        def descent(hyper):
            blocks = plain.descent(hyper).blocks
            return cdgm.block_descent({name: block._replace(tx=optax.chain(
                block.tx, optax.scale_by_schedule(decay(values.cycles))))
                for name, block in blocks.items()})

        plain = vae.task(values, data)
        return plain._replace(descent=descent)

    return vae.EXPERIMENT._replace(task=task)


@pytest.mark.parametrize('experiment, alike', [
    (scheduled(lambda cycles: optax.cosine_decay_schedule(1., cycles)), False),
    (scheduled(lambda cycles: lambda count: jnp.linspace(1., 0., 2000)[:cycles][count]),
     False),
    (scheduled(lambda cycles: optax.exponential_decay(1., 1, 0.5)), True),
    (vae.EXPERIMENT._replace(hyper=lambda values: {
        **vae.hyper(values), 'beta': 1 / values.cycles}), False),
    (vae.EXPERIMENT, True)])
@pytest.mark.sample(2)
def test_what_depends_on_the_length_is_refused(experiment, alike):
    longer = parse('--cycles=4', '--run_dir=there')
    shorter = cli.serialise(parse('--cycles=2')).splitlines()
    refused = pytest.raises(SettingError, match='a cycle of vae depends on how many')
    with contextlib.nullcontext() if alike else refused:
        execute.CompiledTask(experiment, longer).check_begins_alike(longer, shorter)
