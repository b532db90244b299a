"""Runs side by side are what they are alone: parameters, rows and digests, to the bit.

On a CPU, XLA itself rounds the program of three seeds otherwise than that of one: it
hands reductions and products to YNNPACK by their size, and contracts products and sums
as the form of a fused loop has it. So here it does neither, and what is left is ours;
the runner compares the bits of what it puts side by side (test_batching.py).
"""

import contextlib
import functools
import importlib
import threading

import jax
import numpy as np
import pytest

from experiments.harness import cli, execute
from experiments.harness.errors import DivergedError
from experiments.harness.report import figures
from experiments.harness.runs import preemption, status_log
from experiments.harness.runs.run_folder import load_params, read_rows
from experiments.harness.runs.status_log import State
from experiments.harness.sweep import batching
from experiments.harness.train.progress import Progress

OPTIONS = {'xla_cpu_experimental_ynn_fusion_type': ''}
SHORT = '--cycles=8', '--evaluations=2'

# name -> experiment, the flags that three runs share, and those of each.
CASES = {
    'in order': ('vae', ('--hidden=8', '--latent=3', '--likelihood=gaussian'), (
        ('--seed=0', '--learning_rate=1e-3'),
        ('--seed=7', '--learning_rate=3e-3', '--beta=2', '--sigma=0.5'),
        ('--seed=0', '--learning_rate=decoder=1e-2,encoder=1e-3'))),
    'fresh minibatches': ('vae', ('--hidden=8', '--latent=3', '--fresh_minibatches'), (
        ('--seed=0',), ('--seed=1', '--learning_rate=1e-2'), ('--beta=0',))),
    'gan': ('gan', ('--widths=4', '--channels=2', '--latent=3', '--seeds=2', '--r1=0',
                    '--order=simultaneous'), (
        ('--seed=0',), ('--seed=1',), ('--learning_rate=1e-3',)))}


class Runs:
    """Runs of one case, which share their programs."""

    def __init__(self, name, plain, folder):
        experiment, shared, self.own = CASES[name]
        self._module = importlib.import_module(f'experiments.{experiment}')
        self._shared, self._plain, self._folder = (*SHORT, *shared), plain, folder
        with plain():
            self.bench = execute.CompiledTask(self._module.EXPERIMENT, self._parse(''))
        self.alone, self.compiled = [], []
        for number, own in enumerate(self.own):
            before = len(COMPILED)
            self.alone += self.run(f'alone{number}', own)[0]
            self.compiled.append(len(COMPILED) - before)

    def _parse(self, folder, *own):
        return cli.parse(self._module.define_flags, [
            *self._shared, *own, f'--run_dir={self._folder / folder}'])

    @functools.cached_property
    def exact(self):
        """Whether this machine rounds alike side by side; the planner asks the same."""
        with self._plain():
            given = [self.bench.experiment.traced_inputs(self._parse('', *own))
                     for own in self.own]
            plan = batching.make_plan(self.bench.trainer, given, 1, 'vmapped')
        assert plan.width == len(given) or plan.reason.endswith('with other bits')
        return plan.width > 1

    def run(self, name, *own):
        """Folders and errors of runs side by side."""
        values = [self._parse(f'{name}-{at}', *flags) for at, flags in enumerate(own)]
        with self._plain():
            folders = [execute.open_folder(self.bench, one) for one in values]
            errors = execute.run(self.bench, values, folders,
                                 Progress('runs', 8, quiet=True))
        return [folder.path for folder in folders], errors

    def paths(self, name):
        """Folders of runs that may have been interrupted."""
        return [self._folder / f'{name}-{at}' for at in range(len(self.own))]

    def go_on_alone(self, name, at):
        """Resume one of several."""
        values = self._parse(f'{name}-{at}', *self.own[at])
        with self._plain():
            execute.run(self.bench, [values], [execute.open_folder(self.bench, values)],
                        Progress('runs', 8, quiet=True))


COMPILED: list[str] = []


@jax.monitoring.register_event_duration_secs_listener
def _listen(event, seconds, **kwargs):
    if event == '/jax/core/compile/backend_compile_duration':
        COMPILED.append(event)


@pytest.fixture(scope='module')
def runs(tmp_path_factory, cheap_compilation):
    """name -> the runs of a case."""
    @contextlib.contextmanager
    def plain():
        with pytest.MonkeyPatch.context() as monkeypatch, cheap_compilation(), \
                jax.enable_x64(False):
            monkeypatch.setattr(jax, 'jit', jit)
            monkeypatch.setattr(figures, 'loss_curves', lambda folder: None)
            yield

    jit = functools.partial(jax.jit, compiler_options=OPTIONS)
    return functools.cache(lambda name: Runs(name, plain, tmp_path_factory.mktemp('x')))


def without_seconds(path):
    return [{name: value for name, value in row.items() if name != 'seconds'}
            for row in read_rows(path)]


def numbers(rows):
    """Every number of rows of metrics, in an order that their names decide."""
    if isinstance(rows, dict):
        return [one for name in sorted(rows) for one in numbers(rows[name])]
    if isinstance(rows, list):
        return [one for row in rows for one in numbers(row)]
    return [rows]


def assert_same(path, other, exact):
    """Of equal bits where the planner finds that programs give them, else close."""
    mine, its = without_seconds(path), without_seconds(other)
    np.testing.assert_allclose(numbers(mine), numbers(its), rtol=0 if exact else 1e-3)
    for mine, its in zip(jax.tree.leaves_with_path(load_params(path)),
                         jax.tree.leaves_with_path(load_params(other)), strict=True):
        assert mine[0] == its[0] and mine[1].dtype == np.float32
        if exact:
            assert mine[1].tobytes() == its[1].tobytes(), mine[0]
        np.testing.assert_allclose(mine[1], its[1], rtol=1e-2, atol=1e-4)
    if exact:
        mine, its = (status_log.read_manifest(each)['digests']
                     for each in (path, other))
        assert mine == its


@pytest.mark.parametrize('name', CASES)
@pytest.mark.thorough
def test_side_by_side_as_alone(name, runs):
    case = runs(name)
    paths, errors = case.run('beside', *case.own)
    assert errors == [None] * 3
    for path, alone in zip(paths, case.alone):
        assert_same(path, alone, case.exact)
        assert status_log.state_of(path) == State('done', attempts=1)
        assert not (path / 'lease').exists()
    # They are three runs indeed.
    assert len({status_log.read_manifest(path)['digests']['params'] for path in paths}
               ) == 3


def test_one_program_serves_all_that_is_given(runs):
    first, *others = runs('in order').compiled
    assert first > 0 and others == [0, 0]


ABSURD = '--seed=7', '--learning_rate=encoder=1e15,decoder=1e-3'


@pytest.mark.thorough
def test_one_that_diverges_ends_alone(runs):
    case = runs('in order')
    first, _, last = case.own
    paths, errors = case.run('diverging', first, ABSURD, last)
    assert [type(error) for error in errors] == [type(None), DivergedError, type(None)]
    assert_same(paths[0], case.alone[0], case.exact)
    assert_same(paths[2], case.alone[2], case.exact)
    (alone,), (error,) = case.run('diverging-alone', ABSURD)
    assert str(errors[1]) == str(error).replace(str(alone), str(paths[1]))
    assert 'seed number 0' in str(error)
    np.testing.assert_allclose(numbers(without_seconds(paths[1])),
                               numbers(without_seconds(alone)),
                               rtol=0 if case.exact else 1e-3)
    assert [row['cycle'] for row in read_rows(alone)] == [0, 1]
    assert status_log.state_of(
        paths[1]) == State(
        'failed', 'diverged', str(
            errors[1]), 1)
    assert not (paths[1] / 'params.npz').exists()


def test_all_may_diverge(runs):
    paths, errors = runs('in order').run('lost', *[ABSURD] * 3)
    assert {type(error) for error in errors} == {DivergedError}
    assert {status_log.state_of(path).kind for path in paths} == {'diverged'}


@pytest.mark.thorough
def test_goes_on_alone_from_where_they_left_side_by_side(runs, monkeypatch, capsys):
    case = runs('in order')
    polls = iter(range(1000))
    monkeypatch.setattr(preemption, 'requested', lambda: next(polls) == 7)
    with pytest.raises(preemption.PreemptedError):
        case.run('left', *case.own)
    for at, path in enumerate(case.paths('left')):
        assert status_log.state_of(path) == State('preempted', attempts=1)
        case.go_on_alone('left', at)
        assert 'resuming at cycle 4\n' in capsys.readouterr().out
        assert_same(path, case.alone[at], case.exact)
        assert status_log.state_of(path) == State('done', attempts=2)


def test_leaves_between_two_that_end(runs, monkeypatch):
    """Whoever is complete by then is so, and the others are not lost."""
    case = runs('in order')
    requested = threading.Event()
    monkeypatch.setattr(preemption, '_requested', requested)
    monkeypatch.setattr(preemption, 'finished', requested.set)  # at the first's end
    monkeypatch.setattr(preemption, 'requested', lambda: False)  # not in training
    with pytest.raises(preemption.PreemptedError):
        case.run('between', *case.own)
    requested.clear()
    paths = case.paths('between')
    assert [status_log.state_of(path).name for path in paths] == [
        'done', 'preempted', 'preempted']
    case.go_on_alone('between', 1)
    assert_same(paths[1], case.alone[1], case.exact)
