"""Secants where riders move too, against the block of the Hessian by hand; no NaN."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cdgm
from cdgm import selection
from cdgm.selection._drive import _mean_of_finite, _mean_signal

KEY = jax.random.key(5)
QUICK = {'xla_backend_optimization_level': 0, 'xla_llvm_disable_expensive_passes': True}
quick_jit = partial(jax.jit, compiler_options=QUICK)
# Of 'x' the Hessian is 1; what 'y' does to its gradient is far larger.
HESSIAN = np.array([[1., 30.], [30., 1000.]])


def quadratic(params, batch, key):
    point = jnp.stack([params['x'], params['y']])
    return point @ HESSIAN @ point / 2, None


def driven_with_a_rider(rule, rate=1e-2):
    blocks = {'x': cdgm.Block('x', quadratic, optax.sgd(rate),
                              riders={'y': optax.sgd(rate)}),
              'y': cdgm.Block('y', quadratic, optax.sgd(rate))}
    return cdgm.drive(cdgm.block_descent(blocks), rule)


@pytest.mark.parametrize('rule', [
    selection.gauss_southwell(2, refresh=1, lipschitz='estimated'),
    selection.importance(2, KEY, refresh=1)], ids=['gsl', 'importance'])
def test_a_rider_does_not_enter_the_secant(rule):
    in_turn = rule._replace(select=lambda state, _: (state.steps % 2, state))
    driven = driven_with_a_rider(in_turn, rate=1e-3)
    state = driven.init({'x': jnp.array(3.), 'y': jnp.array(.1)})
    step = jax.jit(driven.step)
    state, _ = step(state, None, KEY)
    assert state.descent.params['y'] != .1  # the rider did move
    np.testing.assert_allclose(state.rule.lipschitz, [1., np.inf], rtol=1e-10)
    state, _ = step(state, None, KEY)
    np.testing.assert_allclose(state.rule.lipschitz, np.diag(HESSIAN), rtol=1e-10)


def test_the_secant_of_a_wide_block_is_its_own_part_of_the_hessian():
    rng = np.random.default_rng(3)
    factor = rng.normal(size=(5, 5))
    hessian, start, rate = factor @ factor.T, rng.normal(size=5), 1e-2

    def loss(params, batch, key):
        point = jnp.concatenate([params['x'], params['y']])
        return point @ hessian @ point / 2, None

    descent = cdgm.block_descent({
        'x': cdgm.Block('x', loss, optax.sgd(rate), riders={'y': optax.sgd(1.)}),
        'y': cdgm.Block('y', loss, optax.sgd(rate))})
    driven = cdgm.drive(descent, selection.from_schedule(cdgm.cyclic((1, 1)))._replace(
        observe=lambda state, seen: seen.secant(),
        init=lambda: jnp.zeros(()), select=lambda state, _: (jnp.int32(0), state)))
    state = driven.init({'x': jnp.asarray(start[:3]), 'y': jnp.asarray(start[3:])})
    state, _ = driven.step(state, None, KEY)
    move = -rate * (hessian @ start)[:3]
    want = np.linalg.norm(hessian[:3, :3] @ move) / np.linalg.norm(move)
    np.testing.assert_allclose(state.rule, want, rtol=1e-10)


# Nothing makes up a NaN.

RULES = {
    'gauss_southwell': selection.gauss_southwell(2, refresh=2),
    'given': selection.gauss_southwell(2, refresh=2, lipschitz=(1., np.inf)),
    'gsl': selection.gauss_southwell(2, refresh=2, lipschitz='estimated', decay=0.),
    'importance': selection.importance(2, KEY, refresh=2),
    'bandit': selection.bandit((1., 2.), KEY, floor=0.),
    'plateau': selection.plateau(2, patience=1),
    'aggressive': selection.aggressive(2, 0, 1, window=1),
    'schedule': cdgm.cyclic((1, 1)),
}


def kept_numbers(state):
    return [leaf for leaf in jax.tree.leaves(state.rule)
            if jnp.issubdtype(leaf.dtype, jnp.inexact)]


@pytest.mark.parametrize(('rate', 'seeds'), [(1e-4, False), (0., True)],
                         ids=['moves', 'seeds stand still'])
@pytest.mark.parametrize('name', RULES)
@pytest.mark.sample(4)
def test_a_rule_keeps_and_reports_no_nan(name, seeds, rate):
    """Of a block that stands still no secant is known."""
    driven = cdgm.drive(cdgm.block_descent({
        own: cdgm.Block(own, quadratic, optax.sgd(rate)) for own in 'xy'}),
        RULES[name], seeds=seeds)

    def many(x):
        return jnp.stack([x, x]) if seeds else x

    params, key = {'x': many(jnp.array(3.)), 'y': many(jnp.array(.1))}, many(KEY)
    state, step = driven.init(params), quick_jit(driven.step)
    with jax.debug_nans(True):
        for signal in (None, 1., 0.):
            state, info = step(state, None, key, signal)
    assert not any(np.isnan(leaf).any() for leaf in kept_numbers(state))
    assert not np.isnan(info.loss).any()


@pytest.mark.parametrize('name', RULES)
@pytest.mark.sample(2)
def test_a_rule_runs_under_debug_nans(name):
    """The rule alone, eagerly, so that every operation is looked at."""
    rule = RULES[name]
    if isinstance(rule, cdgm.Schedule):
        rule = selection.from_schedule(rule)
    with jax.debug_nans(True):
        state = rule.init()
        # Nothing measured is known at first, as of a block that stands still.
        for secant in (np.inf, 2., np.inf, 3.):
            block, state = rule.select(state, lambda: jnp.ones(2))
            seen = selection.StepStats(
                block, jnp.array(1.), jnp.array(1.), jnp.array(0.), jnp.array(False),
                decrease=lambda: jnp.array(.5), secant=lambda at=secant: jnp.array(at))
            state = rule.observe(state, seen)
    assert not any(np.isnan(leaf).any() for leaf in jax.tree.leaves(state))


def test_seeds_that_have_diverged_do_not_choose_and_none_known_is_no_nan():
    values = jnp.array([[1., 3.], [jnp.inf, jnp.inf], [jnp.nan, 2.]])
    np.testing.assert_array_equal([_mean_of_finite(row) for row in values],
                                  [2., np.inf, 2.])
    assert np.isnan(_mean_of_finite(jnp.array([jnp.nan, jnp.inf])))
    with jax.debug_nans(True):
        assert [float(x) for x in _mean_signal(None)] == [0., 0.]
        assert [float(x) for x in _mean_signal(jnp.array([jnp.inf, 2.]))] == [2., 1.]
        assert [float(x) for x in _mean_signal(jnp.array([jnp.inf]))] == [0., 0.]
