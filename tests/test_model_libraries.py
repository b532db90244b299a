"""Models of flax nnx and equinox: every way of descent is a loop of optax by hand.

The loop takes the full gradient, keeps the leaves of one block in a list, and updates
the list. It compares parameters, statistics, counters and keys.
"""

from functools import cache, partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import cdgm
from cdgm.losses import non_saturating

ORDER = ('discriminator', 'discriminator', 'generator')
TOLERANCE = {'float32': 1e-6, 'float64': 1e-12}


class GAN(nnx.Module):
    def __init__(self, dtype):
        made = {'rngs': nnx.Rngs(0), 'param_dtype': dtype}
        self.generator = nnx.Sequential(
            nnx.Linear(3, 8, use_bias=False, **made),
            nnx.BatchNorm(8, momentum=0.5, **made), nnx.relu,
            nnx.Linear(8, 4, use_bias=False, **made))
        self.discriminator = nnx.Sequential(
            # A bias before it has a gradient of rounding alone, which Adam blows up.
            nnx.Linear(4, 8, use_bias=False, **made),
            nnx.BatchNorm(8, momentum=0.5, **made),
            nnx.leaky_relu, nnx.Dropout(0.3, rngs=made['rngs']),
            nnx.Linear(8, 1, **made))


def nnx_case(dtype):
    graph, params, rest = nnx.split(GAN(dtype), nnx.Param, ...)
    # nnx makes the statistics float32, whatever the parameters are.
    rest = jax.tree.map(lambda x: x.astype(dtype) if jnp.issubdtype(
        x.dtype, jnp.floating) else x, rest)

    def loss(player, params, rest, batch, key):
        gan = nnx.merge(graph, params, rest, copy=True)
        fake = gan.generator(jax.random.normal(key, (len(batch), 3), batch.dtype))
        logits = gan.discriminator(batch), gan.discriminator(fake)
        return getattr(non_saturating, player)(*logits), (
            None, nnx.state(gan, nnx.Not(nnx.Param)))

    return params, rest, {name: partial(loss, name)
                          for name in ('discriminator', 'generator')}


class Pair(eqx.Module):
    generator: eqx.nn.MLP
    discriminator: eqx.nn.MLP


def equinox_case(dtype):
    keys = jax.random.split(jax.random.key(0))
    pair = Pair(eqx.nn.MLP(3, 4, 8, 1, key=keys[0], dtype=dtype),
                eqx.nn.MLP(4, 'scalar', 8, 1, key=keys[1], dtype=dtype))
    params, static = eqx.partition(pair, eqx.is_inexact_array)

    def loss(player, params, calls, batch, key):
        model = eqx.combine(params, static)
        latent = jax.random.normal(key, (len(batch), 3), batch.dtype)
        fake = jax.vmap(model.generator)(latent)
        logits = (jax.vmap(model.discriminator)(x) for x in (batch, fake))
        return getattr(non_saturating, player)(*logits), (None, calls + 1)

    return params, jnp.zeros((), jnp.int32), {
        name: partial(loss, name) for name in ('discriminator', 'generator')}


def tx():
    return optax.chain(optax.clip_by_global_norm(0.5), optax.adam(1e-2))


def by_hand(params, rest, losses, updates, batch, key):
    """Parameters and rest after the updates, by optax on lists of leaves."""
    paths = [jax.tree_util.keystr(path) for path, _ in
             jax.tree_util.tree_flatten_with_path(params)[0]]
    structure = jax.tree.structure(params)
    rows = {name: [i for i, path in enumerate(paths) if name in path]
            for name in losses}
    states = {name: tx().init([jax.tree.leaves(params)[i] for i in rows[name]])
              for name in losses}

    @partial(jax.jit, static_argnums=0)
    def update(name, params, rest, inner):
        def value(params):
            loss, (_, new) = losses[name](params, rest, batch, key)
            return loss, new

        grads, rest = jax.grad(value, has_aux=True)(params)
        leaves, grads = jax.tree.leaves(params), jax.tree.leaves(grads)
        mine = [leaves[i] for i in rows[name]]
        steps, inner = tx().update([grads[i] for i in rows[name]], inner, mine)
        for i, leaf in zip(rows[name], optax.apply_updates(mine, steps)):
            leaves[i] = leaf
        return jax.tree.unflatten(structure, leaves), rest, inner

    for name in updates:
        params, rest, states[name] = update(name, params, rest, states[name])
    return params, rest


@cache
def solved(case, dtype):
    """Where a case starts, its losses and data, and where the loop by hand ends."""
    params, rest, losses = case(jnp.dtype(dtype))
    data = jax.random.normal(jax.random.key(1), (16, 4), dtype), jax.random.key(20)
    return params, rest, losses, data, by_hand(params, rest, losses, ORDER * 2, *data)


def plain(leaf):
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf)


def cycle(descent, state, *data):
    return descent.cycle(state, *data, ORDER)[0]


def visit(descent, state, *data):
    state, _ = descent.visit(state, *data, 'discriminator', steps=2)
    return descent.visit(state, *data, 'generator', steps=1)[0]


def traced(descent, state, *data):
    def step(state, index):
        return descent.step(state, *data, index)
    return jax.lax.scan(step, state, jnp.array(
        [list(descent.blocks).index(name) for name in ORDER]))[0]


@pytest.mark.parametrize('dtype', [
    pytest.param('float32', marks=pytest.mark.slow), 'float64'])
@pytest.mark.parametrize('case', [nnx_case, equinox_case])
@pytest.mark.parametrize('way', [cycle, visit, traced])
@pytest.mark.sample(2)
def test_equals_optax_by_hand(case, way, dtype):
    params, rest, losses, data, want = solved(case, dtype)
    descent = cdgm.block_descent({
        name: cdgm.Block(name, loss, tx()) for name, loss in losses.items()})
    run = jax.jit(partial(way, descent))
    state = run(run(descent.init(params, rest), *data), *data)
    seen = state.params, state.model_state
    assert jax.tree.structure(seen) == jax.tree.structure(want)
    for mine, theirs in zip(*map(jax.tree.leaves, (seen, want))):
        assert mine.dtype == theirs.dtype
        np.testing.assert_allclose(plain(mine), plain(theirs), rtol=0,
                                   atol=TOLERANCE[dtype])
    moved = [(plain(a) != plain(b)).any() for a, b in zip(
        *map(jax.tree.leaves, ((params, rest), want)))]
    assert np.mean(moved) > 0.7  # dropout's key itself stays
