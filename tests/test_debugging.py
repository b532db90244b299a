"""Both faces under JAX's debugging switches, against momentum written out in NumPy."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cdgm

RATE, MOMENTUM = 0.1, 0.9
TX = optax.sgd(RATE, MOMENTUM)
NAMES = ('a', 'b')


def loss(params, count, batch, key):
    """|b a - x|^2 / 2, and a model state that counts its calls."""
    rest = params['b'] @ params['a'] - batch
    return jnp.sum(rest ** 2) / 2, ({'rest': rest}, count + 1)


def plain_loss(params, batch):
    return loss(params, 0, batch, None)[0]


DESCENT = cdgm.block_descent({name: cdgm.Block(name, loss, TX) for name in NAMES})
OPTAX_FACE = cdgm.coordinate_descent(TX, {k: k for k in NAMES},
                                     schedule=cdgm.sequence((1, 0, 0), 2))
BATCH = np.array([1.0, -2.0])


def start():
    return {'a': jnp.array([1.0, 0.5]), 'b': jnp.array([[1.0, 0.2], [-0.4, 2.0]])}


def named(state):
    for name in ('b', 'a', 'a'):
        state, _ = DESCENT.step(state, BATCH, None, name)
    return state.params


def traced(state):
    for index in (1, 0, 0):
        state, _ = DESCENT.step(state, BATCH, None, jnp.int32(index))
    return state.params


def visits(state):
    state, _ = DESCENT.visit(state, BATCH, None, 'b', steps=1)
    return DESCENT.visit(state, BATCH, None, 'a', steps=2)[0].params


def cycle(state):
    return DESCENT.cycle(state, BATCH, None, ('b', 'a', 'a'))[0].params


def driven(state):
    run = cdgm.drive(DESCENT, cdgm.sequence((1, 0, 0), 2))
    state = cdgm.selection.SelectedDescentState(state, jnp.int32(0))
    for _ in range(3):
        state, _ = run.step(state, BATCH, None)
    return state.descent.params


def optax_face(state):
    params, inner = state.params, OPTAX_FACE.init(state.params)
    for _ in range(3):
        updates, inner = OPTAX_FACE.update(jax.grad(plain_loss)(params, BATCH), inner,
                                           params)
        params = optax.apply_updates(params, updates)
    return params


WAYS = (named, traced, visits, cycle, driven, optax_face)


def by_hand():
    """b once, then a twice."""
    a, b = (np.asarray(start()[name], float) for name in NAMES)
    b = b - RATE * np.outer(b @ a - BATCH, a)
    first = b.T @ (b @ a - BATCH)
    a = a - RATE * first
    return {'a': a - RATE * (b.T @ (b @ a - BATCH) + MOMENTUM * first), 'b': b}


SWITCHES = {
    'jax_debug_nans': jax.debug_nans(True),
    'jax_debug_infs': jax.debug_infs(True),
    'jax_enable_x64': jax.enable_x64(True),
    'not jax_enable_x64': jax.enable_x64(False),
    'jax_numpy_rank_promotion': jax.numpy_rank_promotion('raise'),
    'jax_numpy_dtype_promotion': jax.numpy_dtype_promotion('strict'),
    'jax_disable_jit': jax.disable_jit(),
    'jax.checking_leaks': jax.checking_leaks(),
}


@pytest.mark.parametrize('switch', SWITCHES)
@pytest.mark.sample(2)
def test_both_faces_are_momentum_by_hand(switch):
    with contextlib.ExitStack() as stack:
        stack.enter_context(SWITCHES[switch])
        state = jax.jit(DESCENT.init)(start(), jnp.int32(0))
        ends = jax.jit(lambda state: [way(state) for way in WAYS])(state)
        dtype = 'float32' if switch.startswith('not') else 'float64'
    for way, end in zip(WAYS, ends):
        assert end['a'].dtype == dtype, way
        jax.tree.map(lambda x, y: np.testing.assert_allclose(
            x, y, 1e-5 if dtype == 'float32' else 1e-13, err_msg=way.__name__),
            end, by_hand())
