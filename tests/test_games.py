import collections

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cdgm import Block, block_descent
from cdgm.games import (
    check_step_size, consensus, extragradient, stability_limit)

STEP = 0.3
KEY = jax.random.key(0)  # the games below draw nothing


def value(params, batch):
    """A game that is neither quadratic nor symmetric, and scaled by the batch."""
    x, y = params['x'], params['y']
    return batch * jnp.sum(jnp.sin(x) * y) + jnp.sum(x ** 4) / 8 - jnp.sum(y ** 2) / 3


def game(rule, **options):
    def loss(params, batch, key):
        return value(params, batch), {'payoff': value(params, batch)}

    def opposed(params, batch, key):
        return -value(params, batch), {'payoff': value(params, batch)}

    return block_descent({'x': Block('x', loss, rule, **options),
                          'y': Block('y', opposed, rule, **options)})


def field(x, y, batch):
    """The gradient field v and its Jacobian J, by hand."""
    v = np.concatenate([batch * np.cos(x) * y + x ** 3 / 2,
                        -batch * np.sin(x) + 2 * y / 3])
    jacobian = np.block([
        [np.diag(-batch * np.sin(x) * y + 3 * x ** 2 / 2), np.diag(batch * np.cos(x))],
        [np.diag(-batch * np.cos(x)), np.diag(np.full_like(y, 2 / 3))]])
    return v, jacobian


@pytest.fixture
def params():
    return {'x': jnp.array([0.7, -1.1]), 'y': jnp.array([0.4, 1.3])}


def flat(params):
    return np.concatenate([params['x'], params['y']])


def run(step, state, batches=(1.0, 0.5, -0.8)):
    step = jax.jit(step)
    for batch in batches:
        state, infos = step(state, jnp.asarray(batch), KEY)
    return state, infos


def by_hand(direction, params, batches=(1.0, 0.5, -0.8)):
    w = flat(params)
    for batch in batches:
        w = w - STEP * direction(w, batch)
    return w


def test_extragradient_is_the_textbook_loop(params):
    def direction(w, batch):
        ahead = w - STEP * field(*np.split(w, 2), batch)[0]
        return field(*np.split(ahead, 2), batch)[0]

    descent = game(optax.sgd(STEP))
    state, _ = run(extragradient(descent), descent.init(params))
    np.testing.assert_allclose(flat(state.params), by_hand(direction, params),
                               rtol=1e-13)
    assert state.count == 3


def test_consensus_adds_the_transposed_jacobian(params):
    def direction(w, batch):
        v, jacobian = field(*np.split(w, 2), batch)
        return v + 0.7 * jacobian.T @ v

    descent = game(optax.sgd(STEP))
    state, infos = run(consensus(descent, 0.7), descent.init(params))
    np.testing.assert_allclose(flat(state.params), by_hand(direction, params),
                               rtol=1e-13)
    assert state.count == 3
    chex.assert_shape(infos.loss, (2,))


def test_optax_is_optimistic_from_the_first_step_on(params):
    """Without optax's correction (its issue 1082) the first step would be doubled."""
    memory = {}

    def direction(w, batch):
        v, _ = field(*np.split(w, 2), batch)
        before = memory.get('v', v)
        memory['v'] = v
        return 2 * v - before

    descent = game(optax.optimistic_gradient_descent(STEP))
    state, _ = run(descent.simultaneous, descent.init(params))
    np.testing.assert_allclose(flat(state.params), by_hand(direction, params),
                               rtol=1e-13)


def test_optax_has_negative_momentum(params):
    descent = game(optax.sgd(STEP, momentum=-0.5))
    state, _ = run(descent.simultaneous, descent.init(params))
    w = before = flat(params)
    for batch in (1.0, 0.5, -0.8):
        v, _ = field(*np.split(w, 2), batch)
        w, before = w - STEP * v - 0.5 * (w - before), w
    np.testing.assert_allclose(flat(state.params), w, rtol=1e-13)


def test_extragradient_with_adam_has_moments_of_one_gradient_a_step(params):
    adam = optax.adam(STEP)
    descent = game(adam)
    state, _ = run(extragradient(descent), descent.init(params))

    w, opt_state = flat(params), adam.init(jnp.zeros(4))
    for batch in (1.0, 0.5, -0.8):
        slope = jnp.asarray(field(*np.split(w, 2), batch)[0])
        ahead = w + adam.update(slope, opt_state)[0]
        slope = jnp.asarray(field(*np.split(np.asarray(ahead), 2), batch)[0])
        updates, opt_state = adam.update(slope, opt_state)
        w = np.asarray(w + updates)
    np.testing.assert_allclose(flat(state.params), w, rtol=1e-12)
    assert state.opt_state['x'][0].count == 3


@pytest.mark.parametrize('dynamic', [
    extragradient, lambda descent: consensus(descent, 0.7)])
@pytest.mark.parametrize('shared', [False, True])
def test_a_step_traces_each_loss_twice_at_most(dynamic, shared):
    traces = collections.Counter()

    def loss_of(name):
        def loss(params, batch, key):
            traces[name] += 1
            return sum(jnp.sum(x ** 4) for x in params.values()), None
        return loss

    names, one = 'abcdef', loss_of('all')
    descent = block_descent({
        name: Block(name, one if shared else loss_of(name), optax.sgd(0.1))
        for name in names})
    state = descent.init({name: jnp.ones(2) for name in names})
    jax.make_jaxpr(dynamic(descent))(state, None, None)
    most = 2 * len(names) if shared and dynamic is extragradient else 2
    assert traces and max(traces.values()) <= most


def test_consensus_measures_the_field_at_the_state_of_the_start():
    """Each loss scales by a state that it doubles; the oracle is NumPy."""
    def loss_of(name, sign):
        def loss(params, scale, batch, key):
            return sign * scale * params['x'] * params['y'], (scale, 2 * scale)
        return Block(name, loss, optax.sgd(STEP))

    descent = block_descent({'x': loss_of('x', 1), 'y': loss_of('y', -1)})
    state = descent.init({'x': 1., 'y': 3.}, jnp.asarray(1.))
    state, info = jax.jit(consensus(descent, 0.7))(state, None, KEY)
    # v = (s y, -s x) with s = 1 in |v|^2 / 2, and s = 1, then 2, in the losses.
    np.testing.assert_allclose(state.params['x'], 1 - STEP * (3 + 0.7 * 1), 1e-13)
    np.testing.assert_allclose(state.params['y'], 3 - STEP * (-2 + 0.7 * 3), 1e-13)
    assert info.aux == {'x': 1, 'y': 2} and state.model_state == 4


@pytest.mark.parametrize('dynamic', [
    extragradient, lambda descent: consensus(descent, 0.)])
def test_a_step_reports_the_point_it_starts_from(params, dynamic):
    descent = game(optax.sgd(STEP))
    state = descent.init(params)
    _, expected = jax.jit(descent.simultaneous)(state, 0.5, KEY)
    _, infos = jax.jit(dynamic(descent))(state, 0.5, KEY)
    chex.assert_trees_all_close(infos, expected, rtol=1e-13)


@pytest.mark.parametrize('dynamic', [
    extragradient, lambda descent: consensus(descent, 0.7)])
def test_a_step_keeps_the_type_of_the_state(params, dynamic):
    descent = game(optax.sgd(STEP, momentum=0.9), ephemeral=True)
    state = descent.init(params)
    after, _ = jax.eval_shape(dynamic(descent), state, 0.5, KEY)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, after)
    assert after.opt_state == {}


def test_the_strength_of_consensus_may_be_traced(params):
    descent = game(optax.sgd(STEP))
    state = descent.init(params)

    @jax.jit
    def end(strength):
        return consensus(descent, strength)(state, 0.5, KEY)[0].params

    together = jax.vmap(end)(jnp.array([0., 0.7]))
    for i, strength in enumerate((0., 0.7)):
        chex.assert_trees_all_close(jax.tree.map(lambda leaf, i=i: leaf[i], together),
                                    end(strength), rtol=1e-13)


# Matrices of one step of min_x max_y mu/2 x^2 + a x y - mu/2 y^2, by hand.
def matrix(dynamic, h, a, mu=0., strength=0., momentum=0.):
    one, jacobian = np.eye(2), np.array([[mu, a], [-a, mu]])
    first, second = np.array([[1 - h * mu, -h * a], [0, 1]]), np.array(
        [[1, 0], [h * a, 1 - h * mu]])
    match dynamic:
        case 'simultaneous':
            return one - h * jacobian
        case 'alternating':
            return second @ first
        case 'extragradient':
            return one - h * jacobian @ (one - h * jacobian)
        case 'consensus':
            return one - h * (jacobian + strength * jacobian.T @ jacobian)
        case 'optimistic':
            return np.block([[one - 2 * h * jacobian, h * jacobian],
                             [one, np.zeros((2, 2))]])
    # x+ = x - h m+ with m+ = a y + beta m, then y+ = y + h a x+; order x, y, m.
    x = np.array([1, -h * a, -h * momentum])
    return np.stack([x, [0, 1, 0] + h * a * x, [0, a, momentum]])


@pytest.mark.parametrize('dynamic, constants', [
    ('simultaneous', {'curvature': 0.4}),
    ('alternating', {'curvature': 0.4}),
    ('extragradient', {}),
    ('optimistic', {}),
    ('consensus', {'strength': 0.3}),
    ('consensus', {'strength': 0.3, 'curvature': 0.4}),
    ('negative momentum', {'momentum': -0.5}),
    ('negative momentum', {'momentum': -0.1})])
@pytest.mark.parametrize('interaction', (0.5, 3.))
def test_the_limit_parts_convergence_from_divergence(dynamic, constants, interaction):
    limit = stability_limit(dynamic, interaction, **constants)
    names = {'curvature': 'mu'}
    own = {names.get(name, name): c for name, c in constants.items()}

    def radius(h):
        eigenvalues = np.linalg.eigvals(matrix(dynamic, h, interaction, **own))
        return np.abs(eigenvalues).max()

    assert radius(0.5 * limit) < 1 - 1e-4
    assert radius(0.999 * limit) < 1 < radius(1.001 * limit)


def test_a_step_beyond_the_limit_warns_with_the_limit():
    with pytest.warns(UserWarning, match=r'step size 0.6 .* limit 0.57735 of optimist'):
        check_step_size('optimistic', 0.6, 1.)
    with pytest.warns(UserWarning, match='no step size converges'):
        check_step_size('simultaneous', 1e-9, 1.)
    check_step_size('optimistic', 0.57, 1.)  # warnings are errors here
    check_step_size('simultaneous', 0.19, 3., curvature=1.)


def test_unknown_limits_are_errors():
    with pytest.raises(ValueError, match="for 'lookahead'; dynamics are simultaneous"):
        stability_limit('lookahead', 1.)
    with pytest.raises(ValueError, match="'extragradient' with curvature 0.4"):
        stability_limit('extragradient', 1., curvature=0.4)
