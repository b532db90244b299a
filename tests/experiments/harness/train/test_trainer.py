"""The training loop on a toy whose losses tell which images and noise they were given.

Nine images, each the unit vector of its number, so that a minibatch sums to how often
it holds each; two blocks, 'a' and 'b', in float64.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cdgm
from cdgm.selection import SelectionRule
from experiments.harness.block_choice import Choice, Probe
from experiments.harness.errors import DivergedError
from experiments.harness.runs.run_folder import RunFolder, read_rows
from experiments.harness.task import TracedInputs, Task
from experiments.harness.train import block_updates, flops, trainer
from experiments.harness.train.progress import Progress
from experiments.harness.train.run_batch import RunHandle
from experiments.harness.train.trainer import CheckpointPolicy, Trainer
from experiments.harness.training_flags import UpdatePlan

IMAGES, BATCH, SWEEPS, WIDTH = 9, 2, 8, 32
MINIBATCHES = IMAGES // BATCH
RATE = 0.1


class StepStats(NamedTuple):
    """What a loss was given: how often each image, and a draw from its key."""

    images: jax.Array
    noise: jax.Array


def loss(params, batch, key):
    noise = jax.random.normal(key)
    error = jnp.tanh(batch @ params['a']) @ params['b'] - noise
    return jnp.mean(jnp.square(error)), StepStats(
        jnp.sum(jnp.abs(batch), axis=0), noise)


def init(key):
    a, b = jax.random.split(key)
    return {'a': jax.random.normal(a, (IMAGES, WIDTH)),
            'b': jax.random.normal(b, (WIDTH,))}


def prepare(images, key):
    return images * jnp.where(jax.random.bernoulli(key), 1, -1)


def blocks(hyper):
    return cdgm.block_descent({
        name: cdgm.Block(name, loss, optax.sgd(hyper['rate'])) for name in 'ab'})


def ordered(*updates, choice=None):
    return UpdatePlan(updates, ('a', 'b'), {}, choice)


def traced_inputs(keys, rate=RATE):
    return TracedInputs(keys, {'rate': jnp.full(len(keys), rate)})


STUDY = Task(
    init=init, descent=blocks, order=ordered('b', 'a'), examples=jnp.eye(IMAGES),
    prepare=prepare,
    evaluate=lambda params, hyper: {'norm': jnp.linalg.norm(params['b'])},
    draw=lambda folder, params: None, batch_size=BATCH, fresh=True)
KEYS = jax.random.split(jax.random.key(3), 2)

STUDIES = {'fresh': STUDY, 'shared': STUDY._replace(fresh=False),
           'simultaneous': STUDY._replace(order=ordered('simultaneous'))}


def train_in(path, task, evaluations=2, keys=KEYS, cycles=SWEEPS, grad_norms=True):
    """Parameters, or the error that ended the run."""
    one = jax.tree.map(lambda x: x[0], traced_inputs(keys))
    ended, = Trainer(task, cycles, evaluations, one, grad_norms).train(
        [RunHandle(RunFolder(path), traced_inputs(keys))], CheckpointPolicy(),
        Progress('toy', cycles))
    return ended if isinstance(ended, Exception) else ended[0]


@pytest.fixture(scope='module')
def train(tmp_path_factory, cheap_compilation):
    """(task, …) -> (params, rows) after `SWEEPS` cycles."""
    def train(task, **more):
        path = tmp_path_factory.mktemp('run')
        with cheap_compilation():
            params = train_in(path, task, **more)
        return params, read_rows(path)
    return train


@pytest.fixture(scope='module')
def trained(train):
    """name -> (params, rows) of a task."""
    return {name: train(task) for name, task in STUDIES.items()}


def assert_equal_trees(got, wanted, **tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance),
                 got, wanted)


def descend(params, name, batch, key):
    """Update one block as one would write it, reporting what a step reports."""
    def objective(leaf):
        return loss({**params, name: leaf}, batch, key)

    (value, given), grad = jax.value_and_grad(objective, has_aux=True)(params[name])
    seen = value, given, jnp.sqrt(jnp.sum(jnp.square(grad)))
    return params[name] - RATE * grad, seen


def cycle_in_order(params, batches, keys):
    b, second = descend(params, 'b', batches[0], keys[0])
    params = {**params, 'b': b}
    a, first = descend(params, 'a', batches[-1], keys[-1])
    return {**params, 'a': a}, (first, second)


def cycle_from_one_point(params, batches, keys):
    a, first = descend(params, 'a', batches[0], keys[0])
    b, second = descend(params, 'b', batches[0], keys[0])
    return {'a': a, 'b': b}, (first, second)


SWEEPS_BY_HAND = {'fresh': cycle_in_order, 'shared': cycle_in_order,
                  'simultaneous': cycle_from_one_point}


def minibatches_by_hand(key, cycle, per_cycle):
    """Minibatches of a cycle and the keys of their noise."""
    pixels, noise = jax.random.split(
        jax.random.fold_in(jax.random.fold_in(key, 2), cycle), (2, per_cycle))
    batches = []
    for update in range(per_cycle):
        epoch, number = divmod(cycle * per_cycle + update, MINIBATCHES)
        order = jax.random.permutation(
            jax.random.fold_in(jax.random.fold_in(key, 1), epoch), IMAGES)
        chosen = order[number * BATCH:(number + 1) * BATCH]
        batches.append(prepare(STUDY.examples[chosen], pixels[update]))
    return jnp.stack(batches), noise


@pytest.mark.parametrize('name', STUDIES)
@pytest.mark.sample(1)
def test_equals_a_loop_in_python(name, trained):
    final, rows = trained[name]
    cycle_once = jax.jit(SWEEPS_BY_HAND[name])
    for seed, key in enumerate(KEYS):
        params = init(jax.random.fold_in(key, 0))
        for cycle in range(SWEEPS):
            data = minibatches_by_hand(key, cycle, 2 if name == 'fresh' else 1)
            params, seen = cycle_once(params, *data)
            for block, (value, _, norm) in zip('ab', seen):
                row = rows[cycle + 1]
                np.testing.assert_allclose(row['loss'][block][seed], value, rtol=1e-12)
                np.testing.assert_allclose(row['grad_norm'][block][seed], norm,
                                           rtol=1e-12)
        assert_equal_trees(jax.tree.map(lambda x: x[seed], final), params, rtol=1e-12)


def test_an_epoch_sees_every_image_once(trained):
    # Two updates a cycle on their own minibatches: an epoch of four is two cycles.
    for name, blocks, cycles in ('fresh', 'ab', 2), ('shared', 'a', 4):
        rows = trained[name][1][1:]
        seen = np.array([sum(np.array(row['aux'][b]['images']) for b in blocks)
                         for row in rows]).reshape(-1, cycles, 2, IMAGES)
        for epoch in seen.sum(axis=1).reshape(-1, IMAGES):
            # Nine images are four minibatches of two, and one is left over.
            assert sorted(epoch) == [0] + [1] * 8
        orders = seen.transpose(0, 2, 1, 3).reshape(-1, cycles * IMAGES)
        assert len(np.unique(orders, axis=0)) == len(orders), 'not one for all'


def test_a_sweep_draws_once_or_for_every_update(trained):
    for row in trained['shared'][1][1:]:
        assert row['aux']['a'] == row['aux']['b']
    for row in trained['fresh'][1][1:]:
        for name in StepStats._fields:
            assert row['aux']['a'][name] != row['aux']['b'][name]


def test_rows_count_sweeps_and_passes_over_the_data(trained):
    for name, per_cycle in ('fresh', 2), ('shared', 1), ('simultaneous', 1):
        rows = trained[name][1]
        assert [row['cycle'] for row in rows] == list(range(SWEEPS + 1))
        assert [row['cycle'] for row in rows if 'test' in row] == [0, 4, 8]
        assert rows[-1]['epoch'] == SWEEPS * per_cycle / MINIBATCHES


@pytest.mark.thorough
def test_norms_are_reported_where_asked_for_and_change_nothing(trained, train):
    params, rows = trained['fresh']
    without, fewer = train(STUDY, grad_norms=False)
    assert_equal_trees(without, params, rtol=0)
    for row, other in zip(fewer[1:], rows[1:]):
        assert 'grad_norm' not in row and row['loss'] == other['loss']


@pytest.mark.thorough
def test_numbers_do_not_depend_on_the_chunks(trained, train, monkeypatch):
    params, rows = trained['fresh']
    monkeypatch.setattr(trainer, '_NUM_ROWS', 3)
    chunked, fewer = train(STUDY, evaluations=4)
    assert [row['cycle'] for row in fewer] == [0, 2, 3, 4, 6, 8]
    assert_equal_trees(chunked, params, rtol=0)
    for row in fewer:
        other = rows[row['cycle']]
        assert row['epoch'] == other['epoch']
        assert row.get('test', other.get('test')) == other.get('test', row.get('test'))
    np.testing.assert_allclose(
        fewer[1]['loss']['a'],
        np.mean([row['loss']['a'] for row in rows[1:3]], axis=0), rtol=1e-14)


@pytest.mark.thorough
def test_seeds_side_by_side_do_not_meet(trained, train):
    params, rows = trained['fresh']
    alone, own_rows = train(STUDY, keys=KEYS[1:])
    assert_equal_trees(alone, jax.tree.map(lambda x: x[1:], params), rtol=1e-12)
    for own, both in zip(own_rows[1:], rows[1:], strict=True):
        assert own['aux']['a']['images'] == both['aux']['a']['images'][1:]
        assert own['gflop'] == both['gflop'], 'of one seed, however many there are'


@pytest.mark.thorough
def test_driven_by_a_schedule_is_in_order(train, trained):
    params, rows = trained['fresh']
    schedule = cdgm.sequence((1, 0), num_blocks=2)
    driven, driven_rows = train(STUDY._replace(
        order=ordered('b', 'a', choice=Choice(lambda costs, key: schedule))))
    assert_equal_trees(driven, params, rtol=1e-12)
    for own, other in zip(driven_rows[1:], rows[1:], strict=True):
        for part in 'loss', 'aux':
            assert_equal_trees(own[part], other[part], rtol=1e-12)


@pytest.mark.parametrize('name', STUDIES)
def test_flops_are_those_of_a_sweep_by_hand(name, trained):
    count = 2 if name == 'fresh' else 1
    by_hand = flops.flops_of_program(
        SWEEPS_BY_HAND[name], init(KEYS[0]), jnp.zeros((count, BATCH, IMAGES)),
        KEYS[:count])
    for row in trained[name][1]:
        np.testing.assert_allclose(row['gflop'] * 1e9, row['cycle'] * by_hand,
                                   rtol=0.03)


def test_flops_of_repeated_visits_and_of_probes_are_added_up(cheap_compilation):
    arguments = init(KEYS[0]), jnp.zeros((BATCH, IMAGES)), KEYS[0]
    choice = Choice(lambda costs, key: None, (Probe('secant', 4), Probe('decrease', 2)))
    with cheap_compilation():
        a, b = (flops.flops_of_program(
            lambda params, *data: descend(params, name, *data), *arguments)
            for name in 'ab')
        forward = flops.flops_of_program(lambda *given: loss(*given)[0], *arguments)
        repeated, probed = (
            flops.count_costs(STUDY._replace(order=ordered('a', 'a', 'b', choice=some)),
                              jax.tree.map(lambda x: x[0], traced_inputs(KEYS)))
            for some in (None, choice))
    np.testing.assert_allclose(repeated.spent(5, np.array([10, 5])), 10 * a + 5 * b,
                               rtol=0.03)
    # A secant costs two gradients, one step in four; a decrease one loss in two.
    np.testing.assert_allclose(probed.spent(5, np.array([4, 0])),
                               4 * a + 2 * a + 2 * forward, rtol=0.03)


@pytest.mark.parametrize('fresh', [True, False])
def test_a_rule_that_listens_hears_the_seeds_mean_once_an_epoch(fresh):
    """Its state is what it heard: how often, and the sum."""
    def observe(state, seen):
        return state + jnp.where(seen.heard, jnp.array([1., seen.signal]), 0.)

    rule = SelectionRule(lambda: jnp.zeros(2),
                         lambda state, norms: (jnp.int32(1), state),
                         observe, 2)
    choice = Choice(lambda costs, key: rule, listens='sum')
    task = STUDY._replace(order=ordered('a', 'b', choice=choice), fresh=fresh,
                          signals={'sum': lambda params, hyper: jnp.sum(params['a'])})
    given = traced_inputs(KEYS)
    params = jax.vmap(init)(KEYS)
    cycles = block_updates.choose_cycles(task, [1., 1.])
    keys = jnp.broadcast_to(KEYS[:, None], (2, 2 if fresh else 1))
    batches = jnp.zeros((*keys.shape, BATCH, IMAGES))
    state = cycles.init(params, None, given)
    run = jax.jit(cycles.cycle)
    for _ in range(9):
        state, _ = run(state, batches, keys, given)
    # Before steps 4, 8, 12 and 16 of 18; with minibatches that two share, 8 and 16.
    often = 4 if fresh else 2
    assert task.updates_per_epoch == 16 // often
    mean = np.mean(np.sum(params['a'], axis=(1, 2)))  # 'a' stays
    np.testing.assert_allclose(state.rule, [often, often * mean], rtol=1e-12)
    deaf = task._replace(order=ordered('a', 'b', choice=choice._replace(listens='')))
    assert deaf.signal is None
    one = jax.tree.map(lambda x: x[0], given)
    more = flops.count_costs(task, one).probe - flops.count_costs(deaf, one).probe
    np.testing.assert_allclose(more * task.updates_per_epoch, IMAGES * WIDTH, rtol=0.01)


def test_stops_where_a_loss_is_not_finite(tmp_path, cheap_compilation):
    def climbing(params, batch, key):
        return -jnp.sum(params['a']), StepStats(jnp.zeros(()), jnp.zeros(()))

    def failing(params, batch, key):
        loss, aux = climbing(params, batch, key)
        return jnp.where(params['a'] > 3, jnp.nan, params['b'] + 0 * loss), aux

    # 'a' climbs by one a cycle; that of the second seed, ahead, passes 3 in cycle 3.
    task = STUDY._replace(
        init=lambda key: {'a': jnp.where(key == jax.random.fold_in(KEYS[0], 0),
                                         -9., 0.), 'b': jnp.zeros(())},
        descent=lambda hyper: cdgm.block_descent({
            'a': cdgm.Block('a', climbing, optax.sgd(1.)),
            'b': cdgm.Block('b', failing, optax.sgd(1.))}),
        evaluate=lambda params, hyper: params, order=ordered('a', 'b'))
    with cheap_compilation():
        error = train_in(tmp_path, task)
    assert isinstance(error, DivergedError)
    assert str(error).startswith(
        "the loss of block 'b' is not finite at cycle 3 (seed number 1)")
    assert str(tmp_path) in str(error)
    assert [row['cycle'] for row in read_rows(tmp_path)] == [0, 1, 2, 3]


def test_stops_where_an_exact_move_finds_no_minimum(tmp_path, cheap_compilation):
    """Its loss is finite and its block stays where it is: nothing else would tell."""
    def saddle(params, batch, key):
        return params['a'] - params['a'] ** 2 + 0 * params['b'], StepStats(
            jnp.zeros(()), jnp.zeros(()))

    task = STUDY._replace(
        init=lambda key: {'a': jnp.zeros(()), 'b': jnp.zeros(())},
        descent=lambda hyper: cdgm.block_descent({
            'a': cdgm.Block('a', saddle, cdgm.moves.exact_minimisation()),
            'b': cdgm.Block('b', saddle, optax.sgd(1.))}),
        evaluate=lambda params, hyper: params, order=ordered('b', 'a'))
    with cheap_compilation():
        error = train_in(tmp_path, task)
    assert isinstance(error, DivergedError)
    assert str(error).startswith('the move of a block, as an exact minimisation, was '
                                 'not made at cycle 0 (seed number 0)')


def test_stops_where_only_the_last_update_is_not_finite(tmp_path, cheap_compilation):
    def flat(params, batch, key):
        # The loss is finite where its slope is not.
        return jnp.sqrt(jnp.sum(params['a'])), StepStats(jnp.zeros(()), jnp.zeros(()))

    task = STUDY._replace(
        init=lambda key: {'a': jnp.zeros(1)}, prepare=lambda images, key: images,
        descent=lambda hyper: cdgm.block_descent({
            'a': cdgm.Block('', flat, optax.sgd(RATE))}),
        order=UpdatePlan(('a',), ('a',), {}, None),
        evaluate=lambda params, hyper: {'a': params['a'][0]})
    with cheap_compilation():
        error = train_in(tmp_path, task, 1, cycles=1)
    assert isinstance(error, DivergedError) and 'the last cycle' in str(error)
    assert [row['cycle'] for row in read_rows(tmp_path)] == [0, 1]
