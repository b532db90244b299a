"""Step policies, each against a NumPy loop over the steps that a block takes.

Two blocks of a quadratic, x' A x / 2, of which each is visited by a fixed order.
"""

from collections import namedtuple
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from jax import lax

import cdgm
from cdgm import Block, block_descent, transforms

NAMES = ('x', 'y')
ORDER = (0, 0, 1, 1, 1, 0, 1, 0, 0)
MATRIX = np.array([[3.0, 0.5, 0.2, 0.1], [0.5, 1.0, 0.3, 0.2],
                   [0.2, 0.3, 2.0, 0.4], [0.1, 0.2, 0.4, 0.7]])
START = np.array([1.0, -2.0, 0.5, 1.5])


def quadratic(params, batch, key):
    both = jnp.concatenate([params['x'], params['y']])
    return both @ MATRIX @ both / 2, None


def descended(rule, order=ORDER):
    """The two blocks after each step, and the last state, by block descent."""
    descent = block_descent({name: Block(name, quadratic, rule) for name in NAMES})

    @jax.jit
    def run(params):
        def body(state, index):
            state, _ = descent.step(state, None, None, index)
            return state, jnp.concatenate([state.params['x'], state.params['y']])
        return lax.scan(body, descent.init(params), jnp.asarray(order))

    state, path = run({'x': START[:2], 'y': START[2:]})
    return path, state


def transformed(rule, order=ORDER):
    """The same by the optax face."""
    tx = cdgm.coordinate_descent(rule, {name: name for name in NAMES},
                                 schedule=cdgm.sequence(order, 2))

    @jax.jit
    def run(params):
        def body(carry, _):
            params, state = carry
            grads, _ = jax.grad(quadratic, has_aux=True)(params, None, None)
            updates, state = tx.update(grads, state, params)
            params = optax.apply_updates(params, updates)
            return (params, state), jnp.concatenate([params['x'], params['y']])
        return lax.scan(body, (params, tx.init(params)), length=len(order))

    return run({'x': START[:2], 'y': START[2:]})[1]


def by_loop(step, order=ORDER):
    """NumPy: `step(x, g, memory, away) -> x` moves one block, with its own memory."""
    point, memories, last, path = START.copy(), ({}, {}), [None, None], []
    for count, index in enumerate(order):
        own = slice(2 * index, 2 * index + 2)
        away = 0 if last[index] is None else count - last[index]
        point[own] = step(point[own], (MATRIX @ point)[own], memories[index], away)
        last[index] = count + 1
        path.append(point.copy())
    return np.array(path)


def assert_follows(rule, step, order=ORDER):
    expected = by_loop(step, order)
    np.testing.assert_allclose(descended(rule, order)[0], expected, 1e-12, 1e-14)
    np.testing.assert_allclose(transformed(rule, order), expected, 1e-12, 1e-14)


def momentum(x, g, memory, rho_to_the_away=1.0):
    memory['m'] = 0.9 * rho_to_the_away * memory.get('m', 0) + g
    return x - 0.05 * memory['m']


def test_kept_state_waits_where_it_was():
    assert_follows(optax.sgd(0.05, momentum=0.9),
                   lambda x, g, memory, away: momentum(x, g, memory))


@pytest.mark.parametrize('rho', [0.0, 0.5, 1.0])
def test_state_decays_by_the_steps_away(rho):
    assert_follows(
        transforms.decay_stale_state(optax.sgd(0.05, momentum=0.9), rho),
        lambda x, g, memory, away: momentum(x, g, memory, rho ** away))


def test_only_moments_decay():
    """Adam's two moments, but neither its count nor an injected learning rate."""
    rule = transforms.decay_stale_state(
        optax.inject_hyperparams(optax.adam)(learning_rate=0.1), 0.5)

    def step(x, g, memory, away):
        n = memory['n'] = memory.get('n', 0) + 1
        m = memory['m'] = 0.9 * 0.5 ** away * memory.get('m', 0) + 0.1 * g
        v = memory['v'] = 0.999 * 0.5 ** away * memory.get('v', 0) + 0.001 * g ** 2
        return x - 0.1 * (m / (1 - 0.9 ** n)) / (np.sqrt(v / (1 - 0.999 ** n)) + 1e-8)

    assert_follows(rule, step)


def test_an_initial_state_is_not_stale():
    """Adagrad starts from an accumulator of 0.1, however late its first visit."""
    rule = transforms.decay_stale_state(optax.adagrad(0.1), 0.5)

    def step(x, g, memory, away):
        v = memory['v'] = 0.5 ** away * memory.get('v', 0.1) + g ** 2
        return x - 0.1 * g / np.sqrt(v + 1e-7)

    assert_follows(rule, step)


def test_decay_counts_the_steps_of_visits_and_of_simultaneous_steps(key):
    rule = transforms.decay_stale_state(optax.sgd(0.05, momentum=0.9), 0.5)
    descent = block_descent({name: Block(name, quadratic, rule) for name in NAMES})
    keys = jax.random.split(key, 3)

    @jax.jit
    def run(params):
        state = descent.init(params)
        state, _ = descent.visit(state, None, keys[:2], 'x')
        state, _ = descent.visit(state, None, keys, 'y')
        state, _ = descent.visit(state, None, keys[:1], 'x')
        return state, descent.simultaneous(state, None, key)[0]

    state, after = run({'x': START[:2], 'y': START[2:]})
    expected, _ = descended(rule, (0, 0, 1, 1, 1, 0))
    np.testing.assert_allclose(state.params['x'], expected[-1, :2], 1e-12)
    assert [int(state.opt_state[name].last) for name in NAMES] == [6, 5]
    assert [int(after.opt_state[name].last) for name in NAMES] == [7, 7]


def test_a_schedule_counts_the_blocks_own_steps():
    def step(x, g, memory, away):
        n = memory['n'] = memory.get('n', -1) + 1
        return x - 0.3 / (1 + n) * g

    assert_follows(optax.sgd(lambda count: 0.3 / (1 + count)), step)


def test_clipping_and_weight_decay_see_the_active_block():
    def step(x, g, memory, away):
        g = g * min(1, 0.5 / np.linalg.norm(g))
        return x - 0.1 * (g + 0.2 * x)

    assert_follows(optax.chain(optax.clip_by_global_norm(0.5),
                               optax.add_decayed_weights(0.2), optax.sgd(0.1)), step)


def secant(x, g, memory, growth=2.0, initial=0.05):
    """The step length by the guarded secant rule."""
    if memory:
        moved = np.linalg.norm(x - memory['x'])
        bent = np.linalg.norm(g - memory['g'])
        if 0 < moved < np.inf and 0 < bent < np.inf:
            initial = min(moved / bent, growth * memory['step'])
        else:
            initial = memory['step']
    memory.update(x=x.copy(), g=g.copy(), step=initial)
    return initial


def test_secant_steps_are_one_over_the_curvature():
    rule = optax.chain(transforms.scale_by_secant(0.05), optax.scale(-0.5))
    assert_follows(rule, lambda x, g, memory, away: x - 0.5 * secant(x, g, memory) * g)


def test_a_secant_is_the_curvature_of_a_sphere():
    """f = 2 |x|^2, so 1 / L = 1/4 at once, and the second step lands on the optimum."""
    tx = optax.chain(transforms.scale_by_secant(0.2), optax.scale(-1.0))
    x = jnp.asarray([1.0, -3.0])
    state = tx.init(x)
    for _ in range(2):
        updates, state = tx.update(4 * x, state, x)
        x = optax.apply_updates(x, updates)
    np.testing.assert_allclose(x, 0, atol=1e-15)
    np.testing.assert_allclose(state[0].step, 0.25, 1e-14)


@pytest.mark.parametrize('grads, params, step', [
    (1.0, 2.0, 0.1),        # no bend: L = 0
    (2.0, 1.0, 0.1),        # no move: L is infinite
    (1.0, 1.0, 0.1),        # neither: 0 / 0
    (np.nan, 2.0, 0.1),
    (np.inf, 2.0, 0.1),
    (1.001, 2.0, 0.3),      # 1 / L = 1000 is more than the growth allows
    (3.0, 1.5, 0.25),       # a secant in bounds: 0.5 / 2
    (1e6 + 1, 1.01, 1e-8),  # it may shrink at once
])
def test_the_guard_of_the_secant(grads, params, step):
    tx = transforms.scale_by_secant(0.1, max_growth=3.0)
    _, state = tx.update(jnp.ones(1), tx.init(jnp.ones(1)), jnp.ones(1))
    updates, state = tx.update(jnp.full(1, grads), state, jnp.full(1, params))
    np.testing.assert_allclose(state.step, step, 1e-9)
    np.testing.assert_allclose(updates, step * grads, 1e-9)


def test_a_secant_step_recovers_after_a_gradient_that_is_not_a_number():
    tx = transforms.scale_by_secant(0.1)
    state = tx.init(jnp.ones(1))
    for grads, params in ((1.0, 1.0), (np.nan, 0.9), (0.8, 0.8), (0.4, 0.6)):
        _, state = tx.update(jnp.full(1, grads), state, jnp.full(1, params))
    np.testing.assert_allclose(state.step, 0.2, 1e-12)  # not 0.2 / 0.4: twice 0.1


def test_secants_keep_the_dtypes_of_mixed_leaves():
    params = {'x': jnp.ones(2, jnp.bfloat16), 'y': jnp.ones(2, jnp.float32)}
    tx = transforms.scale_by_secant(0.1)
    updates, state = tx.update(params, tx.init(params), params)
    again, after = tx.update(updates, state, params)
    for one, other in ((updates, params), (again, params), (after, state)):
        assert jax.tree.map(lambda x: x.dtype, one) == jax.tree.map(
            lambda x: x.dtype, other)


def test_averages_are_of_the_active_block_and_its_own_steps():
    rule = optax.chain(optax.sgd(0.05), transforms.average_params(0.8))
    means = START.copy()

    path = by_loop(lambda x, g, memory, away: x - 0.05 * g)
    for index, point in zip(ORDER, path):
        own = slice(2 * index, 2 * index + 2)
        means[own] = 0.8 * means[own] + 0.2 * point[own]

    descended_path, state = descended(rule)
    np.testing.assert_allclose(descended_path, path, 1e-12)
    average = transforms.averaged(state.params, state.opt_state)
    np.testing.assert_allclose(np.concatenate([average['x'], average['y']]), means,
                               1e-12)


def test_a_block_without_an_average_gives_its_parameters():
    averaging = optax.chain(optax.sgd(0.1), transforms.average_params(0.5))
    descent = block_descent({'x': Block('x', quadratic, averaging),
                             'y': Block('y', quadratic, optax.sgd(0.1))})
    state, _ = descent.simultaneous(descent.init({
        'x': jnp.asarray(START[:2], jnp.bfloat16), 'y': START[2:]}), None, None)
    average = transforms.averaged(state.params, state.opt_state)
    np.testing.assert_array_equal(average['y'], state.params['y'])
    assert state.opt_state['x'][1].average['x'].dtype == jnp.float32
    assert average['x'].dtype == jnp.bfloat16
    assert (average['x'] != state.params['x']).all()


@pytest.mark.parametrize('act, words', [
    (lambda: transforms.scale_by_secant(0.1, max_growth=0.5), 'max_growth is 0.5'),
    (lambda: transforms.averaged({'x': START}, {'x': optax.sgd(0.1).init(START)}),
     'no block keeps an average'),
    (lambda: transforms.average_params(0.5).update(START, None),
     'average_params needs the parameters'),
    (lambda: transforms.scale_by_secant(0.5).update(START, None),
     'scale_by_secant needs the parameters'),
])
def test_errors_say_what_to_do(act, words):
    with pytest.raises(ValueError) as caught:
        act()
    assert words in str(caught.value) and '\n' not in str(caught.value)


class OwnState(NamedTuple):
    momentum: Any
    start: Any


def own_momentum(name='momentum'):
    """Momentum beside a copy of the parameters, as somebody's own transformation."""
    def init(params):
        return OwnState(jax.tree.map(jnp.zeros_like, params), params)

    def update(updates, state, params=None):
        momentum = jax.tree.map(lambda m, g: 0.9 * m + g, state.momentum, updates)
        return jax.tree.map(lambda m: -0.05 * m, momentum), OwnState(momentum,
                                                                     state.start)

    return optax.GradientTransformation(init, update)


def test_the_moments_of_a_state_of_ones_own_are_named():
    rule = transforms.decay_stale_state(own_momentum(), 0.5, {OwnState: ('momentum',)})
    assert_follows(rule, lambda x, g, memory, away: momentum(x, g, memory, 0.5 ** away))
    _, state = descended(rule)
    start = state.opt_state['x'].inner_state.start
    np.testing.assert_array_equal(start['x'], START[:2])


@pytest.mark.parametrize('rule, holder', [
    (optax.contrib.schedule_free_sgd(0.1), 'ScheduleFreeState'),
    (optax.contrib.madgrad(0.1), 'MadgradState'),
    (optax.scale_by_lbfgs(), 'ScaleByLBFGSState'),
    (optax.contrib.prodigy(), 'ProdigyState'),
    (optax.MultiSteps(optax.adam(0.1), 2).gradient_transformation(), 'MultiStepsState'),
    (optax.chain(optax.sgd(0.1), transforms.average_params(0.5)), 'AverageState'),
    (transforms.scale_by_secant(0.1), 'SecantState'),
    (own_momentum(), 'OwnState'),
])
def test_what_may_be_no_moment_is_refused_by_the_name_of_its_state(rule, holder):
    Net = namedtuple('Net', 'x')
    with pytest.raises(ValueError) as caught:
        transforms.decay_stale_state(rule, 0.5).init(Net(START))
    assert f' of {holder} are moments' in str(caught.value)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('rule, kept', [
    (optax.adam(0.1), ()), (optax.amsgrad(0.1), ()), (optax.lion(0.1), ()),
    (optax.adan(0.1), ('g',)), (optax.adafactor(0.1, min_dim_size_to_factor=2), ()),
    (optax.adadelta(0.1), ()), (optax.adabelief(0.1), ()), (optax.yogi(0.1), ()),
    (optax.contrib.muon(0.1), ('ns_coeffs',)), (optax.sm3(0.1), ()),
    (optax.novograd(0.1), ()),
    (optax.contrib.ademamix(0.1), ()), (optax.rmsprop(0.1, centered=True), ()),
    (optax.inject_hyperparams(optax.adam)(0.1), ()),
    (optax.masked(optax.trace(0.9), {'w': True, 'b': False}), ()),
])
@pytest.mark.sample(4)
def test_rho_zero_leaves_no_moment_and_all_counts(rule, kept):
    """Oracle: the arrays of the state by shape; those of the parameters are moments."""
    params, seen = {'w': jnp.ones((4, 3)), 'b': jnp.ones(3)}, []

    def spy(updates, state, params=None, **extra):
        seen.append(state)
        return rule.update(updates, state, params)

    tx = transforms.decay_stale_state(optax.GradientTransformationExtraArgs(
        rule.init, spy), 0.0)
    state = tx.init(params)
    for _ in range(2):
        _, state = tx.update(params, state, params)
    tx.update(params, transforms.sync_global_count(state, state.count + 5), params)
    flat = jax.tree_util.tree_leaves_with_path
    for (path, before), (_, after) in zip(flat(state.inner_state), flat(seen[-1])):
        name = jax.tree_util.keystr(path)
        # Novograd has one second moment for all of a leaf.
        moment = (jnp.ndim(before) or '.nu' in name) and not any(
            f'.{entry}' in name for entry in kept)
        # Else nothing could be seen; what adafactor does not factor it holds as zero.
        assert not moment or jnp.all(before != 0) or '.v' in name
        np.testing.assert_array_equal(after, 0 * before if moment else before)


def test_an_average_of_a_part_of_a_block_is_read():
    """`optax.masked` keeps no average of what it hides, a leaf or a subtree."""
    def loss(params, batch, key):
        return sum(jnp.sum(leaf ** 2) for leaf in jax.tree.leaves(params)) / 2, None

    tree = {'w': jnp.ones(2), 'rest': {'u': jnp.ones(1), 'v': jnp.ones(1)}}
    start = {'a': tree, 'b': jnp.ones(1)}
    averaging = optax.chain(optax.sgd(0.1), optax.masked(
        transforms.average_params(0.5),
        {'a': {'w': True, 'rest': False}, 'b': False}))
    descent = block_descent({'a': Block('a', loss, averaging),
                             'b': Block('b', loss, optax.sgd(0.1))})
    state, _ = descent.step(descent.init(start), None, None, 'a')
    average = transforms.averaged(state.params, state.opt_state)
    np.testing.assert_allclose(average['a']['w'], np.full(2, 0.5 + 0.5 * 0.9), 1e-6)
    np.testing.assert_allclose(average['a']['rest']['u'], [0.9], 1e-6)
    np.testing.assert_array_equal(average['b'], [1.0])
    assert jax.tree.structure(average) == jax.tree.structure(start)


@pytest.mark.parametrize('make', [
    lambda step: transforms.average_params(0.5), transforms.scale_by_secant,
])
def test_a_state_shares_no_buffer_with_what_it_is_made_of(make):
    params, step = jnp.arange(4.0), jnp.asarray(0.1, float)
    state = make(step).init(params)
    pointers = [leaf.unsafe_buffer_pointer()
                for leaf in [params, step, *jax.tree.leaves(state)]]
    assert len(set(pointers)) == len(pointers)
