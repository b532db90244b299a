"""A stack at rest: 16 bits without bias, and bytes as the law says."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cdgm
from cdgm import layers, losses, models

WIDTH, BATCH, LENGTH, VOCABULARY = 256, 1, 32, 65
TOKENS = jax.ShapeDtypeStruct((BATCH, LENGTH + 1), jnp.int32)


def descent(depth, along=None, **sizes):
    model = models.transformer(VOCABULARY, depth=depth, **{
        'width': WIDTH, 'heads': 4, 'context': LENGTH, **sizes})
    loss = partial(losses.next_token_loss, hidden=model.hidden,
                   unembedding=model.unembedding)
    adam = optax.adam(1e-3)
    return model, cdgm.block_descent({
        'embedding': cdgm.Block(('embedding', 'head'), loss, adam, ephemeral=True),
        **layers.blocks('layers', depth, loss, adam, **(along or {}))})


def size(tree):
    return sum(x.size for x in jax.tree.leaves(tree))


@pytest.mark.parametrize('half, most', [(False, 4.9), (True, 2.9)])
@pytest.mark.parametrize('depth', [
    pytest.param(6, marks=pytest.mark.slow), pytest.param(12, marks=pytest.mark.slow),
    24, pytest.param(48, marks=pytest.mark.slow)])
@pytest.mark.sample(1)
def test_a_visit_takes_what_the_law_says(depth, half, most):
    """At rest, 16 bytes for each number of the layer that moves, and activations.

    Of a layer are held float32 parameters, their gradient, and two moments (where it
    rests in float32, that copy too); of the activations what each layer is given, and
    the inside of one: norms, queries to values, scores, four widths of the MLP twice.
    """
    with jax.enable_x64(False):
        model, steps = descent(depth)
        params = jax.eval_shape(model.init, jax.random.key(0))
        if half:
            params = {**params, 'layers': jax.eval_shape(layers.encode,
                                                         params['layers'])}
        own, joint = cdgm.memory(steps, params, TOKENS)
    count, layer = size(params), size(params['layers']) / depth
    tokens = 4 * BATCH * LENGTH * WIDTH
    activations = (depth + 2 + 3 + 2 * 4 + 2) * tokens + 2 * 4 * 4 * BATCH * LENGTH ** 2
    law = ((2 if half else 4) * depth * layer + 4 * (count - depth * layer)
           + 16 * layer + activations)
    assert own.peak == pytest.approx(law, rel=0.05)
    assert joint.peak / count >= 16
    if depth == 24:
        assert own.peak / count <= most


@pytest.mark.parametrize('half, most', [(False, 5.1), (True, 3.2)])
@pytest.mark.parametrize('reach', ['deeper', 'all'])
@pytest.mark.thorough
def test_layers_that_ride_move_in_place(reach, half, most):
    """A second copy of the stack would be two bytes a parameter more, or four."""
    sign = optax.chain(optax.scale_by_sign(), optax.scale(-1e-3))
    with jax.enable_x64(False):
        model, steps = descent(24, {'riders': {'layers': sign}, 'reach': reach})
        params = jax.eval_shape(model.init, jax.random.key(0))
        if half:
            params = {**params, 'layers': jax.eval_shape(layers.encode,
                                                         params['layers'])}
        own, _ = cdgm.memory(steps, params, TOKENS)
    assert own.peak / size(params) <= most


def test_rounding_has_no_bias(key):
    values = jnp.array([1.001, -3.7e-3, 2.5, 1e-30, 6.02e23], jnp.float32)
    rounded = jax.vmap(lambda key: layers.round_stochastically(values, key))(
        jax.random.split(key, 4000)).astype(jnp.float32)
    down = jnp.minimum(rounded.min(0), rounded.max(0))
    assert all(len(np.unique(column)) <= 2 for column in np.asarray(rounded).T)
    gap = np.asarray(rounded.max(0) - down, np.float64)
    error = np.asarray(rounded, np.float64).mean(0) - np.asarray(values, np.float64)
    # A Bernoulli variable's standard deviation is at most half the gap.
    assert (np.abs(error) <= 4 * 0.5 * gap / 4000 ** 0.5).all()
    assert rounded[:, 2].tolist() == [2.5] * 4000, 'what fits is not moved'


def test_the_noise_of_neighbours_is_independent(key):
    """Rounded copies of one number next to each other agree no more than by chance."""
    up = layers.round_stochastically(jnp.full((200, 200), 1 + 2 ** -9, jnp.float32),
                                     key) > 1
    share = up.mean()
    for neighbour in (jnp.roll(up, 1, 0), jnp.roll(up, 1, 1), jnp.roll(up, 16, 1)):
        both = (up & neighbour).mean()
        assert abs(both - share ** 2) < 4 * 0.25 / 200
    other = layers.round_stochastically(jnp.full((200, 200), 1 + 2 ** -9, jnp.float32),
                                        jax.random.fold_in(key, 1)) > 1
    assert abs((up & other).mean() - share ** 2) < 4 * 0.25 / 200


@pytest.mark.parametrize('value', [jnp.inf, -jnp.inf, jnp.nan, 0., -0.])
def test_what_is_not_finite_stays(value, key):
    rounded = layers.round_stochastically(jnp.float32(value), key)
    np.testing.assert_array_equal(rounded.astype(jnp.float32), jnp.float32(value))
    assert jnp.signbit(rounded) == jnp.signbit(jnp.float32(value))


def test_small_updates_survive_in_16_bits(key):
    """1,000 steps of 1e-4 of the values: the way in 16 bits is that in float32."""
    start = jax.random.normal(key, (64, 64), jnp.float32)
    towards = jnp.sign(jax.random.normal(jax.random.fold_in(key, 1), start.shape,
                                         jnp.float32))

    def walk(rounding):
        def step(x, key):
            moved = x.astype(jnp.float32) + jnp.float32(1e-4) * towards
            return rounding(moved, key), None
        first = rounding(start, key)
        end, _ = jax.lax.scan(step, first, jax.random.split(key, 1000))
        return end.astype(jnp.float32) - first.astype(jnp.float32)

    def cosine(a, b):
        return jnp.vdot(a, b) / (jnp.linalg.norm(a) * jnp.linalg.norm(b) + 1e-30)

    exact = walk(lambda x, key: x)
    assert cosine(walk(layers.round_stochastically), exact) > 0.95
    assert cosine(walk(lambda x, key: x.astype(jnp.bfloat16)), exact) < 0.5


@pytest.mark.thorough
def test_a_coded_stack_trains_as_a_float_stack_does(key):
    """One visit in float32 of what 16 bits hold, rounded once at its end."""
    model, steps = descent(2, width=16, heads=2, context=8)
    params = jax.tree.map(lambda x: x.astype(jnp.float32), model.init(key))
    coded = {**params, 'layers': layers.encode(params['layers'])}
    held = {**params, 'layers': layers.decode(coded['layers'])}
    tokens = jax.random.randint(key, (3, 2, 9), 0, VOCABULARY)
    program = jax.jit(lambda state: steps.visit(
        state, tokens, jax.random.split(key, 3), ('layers', 1)))
    ends = [program(steps.init(start))[0].params['layers'] for start in (coded, held)]
    assert {x.dtype.name for x in jax.tree.leaves(ends[0])} == {'uint16'}
    for at_rest, exact, before in zip(*map(jax.tree.leaves, (
            layers.decode(ends[0]), ends[1], coded['layers']))):
        np.testing.assert_allclose(at_rest[1], exact[1], rtol=2 ** -7)
        np.testing.assert_array_equal(layers.decode(before)[0], at_rest[0])


def test_what_a_descent_puts_back_is_rounded_without_bias():
    """Steps of 1/5 of the gap to the next number; to the nearest none would be left."""
    depth, steps = 2, 50
    gap = 2 ** -7  # between 1 and the next bfloat16

    def slope(params, batch, key):
        return -jnp.sum(layers.apply(lambda p, x: x + p['w'], params['layers'],
                                     jnp.zeros(400, jnp.float32))), None

    climbing = cdgm.block_descent(layers.blocks('layers', depth, slope,
                                                optax.sgd(gap / 5)))
    state = climbing.init({'layers': layers.encode(
        {'w': jnp.ones((depth, 400), jnp.float32)})})
    step = jax.jit(lambda state: climbing.step(state, None, None, ('layers', 1))[0])
    for _ in range(steps):
        state = step(state)
    rested, climbed = layers.decode(state.params['layers'])['w']
    assert (rested == 1).all()
    # Each step rounds a Bernoulli(1/5) of the gap.
    error = (0.16 * steps / climbed.size) ** 0.5 * gap
    assert abs(climbed.mean() - 1 - steps * gap / 5) < 4 * error


def test_a_stack_in_half_that_something_else_moves_is_refused():
    _, steps = descent(2, width=16, heads=2, context=8)
    block = steps.blocks['layers/0']
    joint = cdgm.block_descent({'joint': block._replace(leaves='', layers=None)})
    model, _ = descent(2, width=16, heads=2, context=8)
    params = model.init(jax.random.key(0))
    with pytest.raises(TypeError, match='is uint16'):
        joint.init({**params, 'layers': layers.encode(params['layers'])})
