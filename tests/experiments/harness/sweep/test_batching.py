"""Trials that share a program are one group; side by side only where it pays."""

import json
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import vae
from experiments.harness.sweep import batching, spec
from experiments.harness.sweep.batching import Plan
from experiments.harness.task import TracedInputs
from experiments.harness.train.scan_loop import Carry, Sums
from experiments.image_vae import blocks

TABLE = '''
title = 'T'
[[table]]
title = 'A'
experiment = '{}'
metric = '{}'
label = 'x'
{}
'''


@pytest.fixture
def read(tmp_path):
    """(choices, experiment) -> the trials of a sweep."""
    def read(choices, experiment='vae'):
        path = tmp_path / 'some.toml'
        path.write_text(TABLE.format(
            experiment, {'vae': 'neg_elbo', 'gan': 'mmd2'}[experiment], choices))
        return spec.read(path).trials
    return read


def sizes(trials):
    return [len(members) for members in batching.group(trials).values()]


@pytest.mark.parametrize('choices, experiment', [
    ('seed = [0, 1]', 'vae'),
    ('beta = [0, 0.5, 1]', 'vae'),
    ("learning_rate = [1e-3, 3e-3, 'decoder=1e-3,encoder=5e-4']", 'vae'),
    ("likelihood = ['gaussian']\nsigma = [0.1, 0.2]", 'vae'),
    ('seed = [0, 1]\nbeta = [1, 2]\nlearning_rate = [1e-3, 1e-2]', 'vae'),
    ('seed = [0, 1]\nr1 = [0.1, 1, 10]', 'gan'),
    ("learning_rate = [1e-3, 'generator=1e-3,discriminator=1e-4']", 'gan')])
def test_trials_that_differ_in_what_is_traced_share_a_group(read, choices, experiment):
    trials = read('[table.product]\n' + choices, experiment)
    assert sizes(trials) == [len(trials)] and len(trials) > 1


@pytest.mark.parametrize('choices, experiment', [
    ('hidden = [8, 4, [8, 4]]', 'vae'),
    ('latent = [2, 3]', 'vae'),
    ("order = ['joint', 'decoder,encoder', 'encoder,decoder']", 'vae'),
    ("dataset = ['digits', 'mnist']", 'vae'),
    ('cycles = [3, 4]', 'vae'),
    ('evaluations = [3, 4]', 'vae'),
    ('batch_size = [32, 64]', 'vae'),
    ('samples = [1, 2]', 'vae'),
    ('fresh_minibatches = [true, false]', 'vae'),
    ("likelihood = ['bernoulli', 'gaussian']", 'vae'),
    ("schedule = ['bandit', 'plateau']", 'vae'),
    ('r1 = [0, 1]', 'gan'),
    ("loss = ['non_saturating', 'least_squares']", 'gan'),
    ('beta1 = [0.5, 0.9]', 'gan')])
def test_trials_that_differ_in_anything_else_do_not(read, choices, experiment):
    trials = read('[table.product]\n' + choices, experiment)
    assert sizes(trials) == [1] * len(trials) and len(trials) > 1


def test_groups_keep_the_order_of_the_sweep(read):
    trials = read("product = {seed = [0, 1], order = ['joint', 'decoder,encoder']}")
    groups = batching.group(trials)
    assert [[member.trial for member in members] for members in groups.values()] == [
        [trials[0], trials[2]], [trials[1], trials[3]]]


def test_where_a_trial_is_run_makes_no_group(read):
    trials = read('product = {seed = [0, 1]}')
    groups = batching.group(trials, lambda trial: (
        f'--run_dir={trial.folder}', '--tensorboard', '--checkpoint_every=3'))
    assert list(groups) == list(batching.group(trials))
    assert [member.values.run_dir for member in groups.popitem()[1]] == [
        trial.folder for trial in trials]


class Clock:
    """A clock that goes on when it is told to."""

    now = 0.

    def perf_counter(self):
        return self.now


class Trainer:
    """One whose cycles take as long, and whose numbers are, as a test wants.

    Args:
      clock: goes on as it works.
      speed: how much longer a sweep takes for N trials than for one, of N.
      independent: whether seeds know nothing of each other.
      bytes: that a trial takes.
      compiling: seconds.
      spoil: Carry of trials side by side -> one with other bits.
    """

    cycles, longest_call, pace = 10_000, 100, 1e-4

    def __init__(self, clock, *, speed=0.5, independent=True, bytes=1000, compiling=1.,
                 spoil=lambda carry: carry):
        self._clock, self._speed, self._bytes = clock, speed, bytes
        self._compiling, self._spoil, self.independent = compiling, spoil, independent
        self._compiled, self._alone = set(), None
        self.task = types.SimpleNamespace(examples=np.zeros(10))
        self.widths = []

    def start(self, given):
        size = len(given.key)
        self._alone = self._alone or size  # the first to be measured is a trial alone
        return Carry({'x': np.zeros(size)}, Sums(
            None, np.zeros((size, 2)), {'a': np.zeros((size, 3))}), None)

    def program(self, carry, given):
        size = len(given.key)
        if size not in self._compiled:
            self._compiled.add(size)
            self._clock.now += self._compiling
        return types.SimpleNamespace(memory_analysis=lambda: types.SimpleNamespace(
            temp_size_in_bytes=self._bytes, output_size_in_bytes=0,
            argument_size_in_bytes=self.task.examples.nbytes))

    def call(self, carry, given, start, stop):
        size = len(given.key)
        assert 0 < stop - start <= self.longest_call and stop <= self.cycles
        self.widths.append(size)
        self._clock.now += (stop - start) * self.pace * (
            1 if size == self._alone else size / self._alone * self._speed)
        moved = carry._replace(state={'x': carry.state['x'] + np.asarray(
            given.hyper['rate']) * (stop - start)})
        return moved if size == self._alone else self._spoil(moved)


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(batching, 'time', clock)
    return clock


def waiting(number, seeds=1):
    """What trials are given; all their seeds differ."""
    return [TracedInputs(jnp.zeros(seeds),
                         {'rate': at + jnp.arange(1., 1 + seeds) / 10})
            for at in range(number)]


def test_side_by_side_where_it_is_faster(clock):
    plan = batching.make_plan(Trainer(clock), waiting(4), 1, 'auto')
    assert plan.width == 4
    assert plan.reason == ('1600 cycles of 4 trials: 0.640 s one after another, 0.320 '
                           's side by side')


def test_one_after_another_where_that_is_faster(clock):
    plan = batching.make_plan(Trainer(clock, speed=1.1), waiting(4), 1, 'auto')
    assert plan == (1, '1600 cycles of 4 trials: 0.640 s one after another, 0.704 s '
                    'side by side')
    clock.now = 0.
    assert batching.make_plan(
        Trainer(clock, speed=1.1), waiting(4), 1, 'vmapped').width == 4


def test_one_after_another_if_asked_to(clock):
    trainer = Trainer(clock)
    assert batching.make_plan(trainer, waiting(4), 1, 'sequential') == (
        1, 'as asked for')
    assert trainer.widths == [] and clock.now == 0


@pytest.mark.parametrize('mode', batching.MODES)
def test_a_rule_is_never_put_side_by_side(clock, mode):
    trainer = Trainer(clock, independent=False)
    assert batching.make_plan(trainer, waiting(4), 1, mode).width == 1
    assert trainer.widths == []


def test_a_rule_is_not_apart():
    """Nor is it for a real trainer, which the one of this test stands for."""
    from experiments.harness import cli
    from experiments.harness.train import block_updates
    from experiments.harness.task import Task
    for flags, apart in [('--schedule=bandit', False), ('--schedule=shuffled', False),
                         ('--order=joint', True), ('--order=decoder,encoder', True)]:
        order = blocks.read_order(cli.parse(vae.define_flags, [flags]))
        task = Task(*[None] * 2, order, *[None] * 6)
        assert block_updates.choose_cycles(task, [1., 1.]).independent is apart


def spoiled(where, lane):
    """What changes the last bit of a number of a trial."""
    def spoil(carry):
        carry = jax.tree.map(np.array, carry)
        leaf = {'state': carry.state['x'], 'loss': carry.sums.loss,
                'aux': carry.sums.aux['a']}[where]
        leaf[lane] = np.nextafter(leaf[lane], np.inf)
        return carry
    return spoil


@pytest.mark.parametrize('where', ['state', 'loss', 'aux'])
@pytest.mark.parametrize('lane', [0, 3])
@pytest.mark.parametrize('mode', ['auto', 'vmapped'])
def test_other_bits_are_not_taken(clock, where, lane, mode):
    trainer = Trainer(clock, spoil=spoiled(where, lane))
    plan = batching.make_plan(trainer, waiting(4), 1, mode)
    assert plan.width == 1 and plan.reason.endswith(', with other bits')


def test_minus_zero_has_other_bits_than_zero(clock):
    for sign, width in (1, 4), (-1, 1):
        trainer = Trainer(clock, spoil=lambda carry: carry._replace(
            sums=carry.sums._replace(loss=np.copysign(carry.sums.loss, sign))))
        assert batching.make_plan(trainer, waiting(4), 1, 'auto').width == width


def test_several_seeds_of_a_trial_stay_together(clock):
    for spoil, width in (lambda carry: carry, 3), (spoiled('state', 5), 1):
        trainer = Trainer(clock, spoil=spoil)
        assert batching.make_plan(trainer, waiting(3, 2), 1, 'vmapped').width == width
        assert set(trainer.widths) == {2, 6}


@pytest.mark.parametrize('number, workers, width', [
    (0, 1, 1), (1, 1, 1), (2, 2, 1), (2, 1, 2), (3, 2, 2), (10, 4, 3), (5, 1, 5),
    (31, 1, 31), (100, 1, 32), (100, 5, 20)])
def test_never_more_than_the_share_that_waits(clock, number, workers, width):
    trainer = Trainer(clock)
    trainer.cycles = 10 ** 6  # so that it pays for all of them
    plan = batching.make_plan(trainer, waiting(number), workers, 'auto')
    assert plan.width == width and max(trainer.widths, default=1) == width
    if width == 1:
        assert plan.reason == 'nothing waits beside it'


@pytest.mark.parametrize('free, workers, width', [
    (1000., 1, 5), (1000., 2, 2), (1e9, 1, 8), (math.inf, 1, 8), (399., 1, 1),
    (100., 1, 1)])
def test_no_more_than_fit_into_memory(clock, monkeypatch, free, workers, width):
    monkeypatch.setattr(batching, '_free_bytes', lambda: free * 1e6)
    trainer = Trainer(clock, bytes=100e6)
    plan = batching.make_plan(trainer, waiting(8 * workers), workers, 'auto')
    assert plan.width == width and max(trainer.widths, default=1) == width
    if width == 1:
        assert plan.reason == 'a trial takes 100 MB'


def test_the_data_are_no_part_of_a_trial(clock):
    trainer = Trainer(clock, bytes=5)
    assert batching._bytes(trainer, waiting(1)[0]) == 5


def test_a_program_is_compiled_only_if_enough_is_left(clock):
    trainer = Trainer(clock, compiling=2.)  # and 4 s of cycles are left
    plan = batching.make_plan(trainer, waiting(4), 1, 'auto')
    assert plan == (1, '4.0 s are left, and another program takes about 2.0 s to '
                    'compile')
    assert set(trainer.widths) == {1}
    # It took one call to see that.
    assert len(trainer.widths) == 1
    # Of which another worker has its share.
    fast = Trainer(clock, compiling=1.)
    assert batching.make_plan(fast, waiting(4), 2, 'auto').width == 1
    assert batching.make_plan(trainer, waiting(4), 1, 'vmapped').width == 4


def test_measuring_many_takes_no_longer_than_measuring_few(clock):
    def seconds(number):
        trainer = Trainer(clock, compiling=0.)
        clock.now, trainer.cycles = 0., 10 ** 6
        assert batching.make_plan(trainer, waiting(number), 1, 'auto').width == number
        return clock.now

    longest = max(seconds(number) for number in (2, 8, 32))
    assert longest < 4 * 4 * batching._PROBE_SECONDS


def test_short_trainings_are_measured_to_their_end(clock):
    trainer = Trainer(clock)
    trainer.cycles, trainer.longest_call = 7, 1
    plan = batching.make_plan(trainer, waiting(2), 1, 'vmapped')
    assert plan.width == 2 and plan.reason.startswith('7 cycles of 2 trials: ')


def test_free_memory(monkeypatch):
    free = batching._free_bytes()
    assert 0 < free < 2 ** 50

    def refuse(name):
        raise ValueError(name)

    monkeypatch.setattr(batching.os, 'sysconf', refuse)
    assert batching._free_bytes() == math.inf
    device = types.SimpleNamespace(memory_stats=lambda: {
        'bytes_limit': 10, 'bytes_in_use': 3})
    monkeypatch.setattr(batching.jax, 'devices', lambda: [device])
    assert batching._free_bytes() == 7


def test_plans_are_kept(tmp_path):
    for plan in Plan(3, 'fast'), Plan(1, 'slow'):
        batching.note_plan(tmp_path, 'abc', plan)
    lines = (tmp_path / 'plans.jsonl').read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {'group': 'abc', 'width': 3, 'reason': 'fast'},
        {'group': 'abc', 'width': 1, 'reason': 'slow'}]
