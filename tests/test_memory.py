"""What a descent holds: a donated state once, and the active block's rule alone."""

import jax
import jax.numpy as jnp
import optax
import pytest

import cdgm

SIZE = 128
NAMES = tuple(f'layer{i}' for i in range(8))
PARAMS = {name: jax.ShapeDtypeStruct((SIZE, SIZE), jnp.float32) for name in NAMES}
BATCH = jax.ShapeDtypeStruct((4, SIZE), jnp.float32)
KEY = jax.eval_shape(lambda: jax.random.key(0))
LEAF = 4 * SIZE * SIZE  # bytes of one block


def loss(params, x, key):
    del key
    for name in NAMES:
        x = jnp.tanh(x @ params[name])
    return jnp.mean(jnp.square(x)), None


def descent(ephemeral):
    return cdgm.block_descent({name: cdgm.Block(name, loss, optax.adam(1e-3), ephemeral)
                               for name in NAMES})


def size(tree):
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def memory(function, state):
    return jax.jit(function, donate_argnums=0).lower(
        state, BATCH, KEY).compile().memory_analysis()


@pytest.mark.parametrize('ephemeral', [False, True])
@pytest.mark.parametrize('kind', ['named', 'visit', 'cycle'])
def test_a_donated_state_is_updated_in_place(ephemeral, kind):
    steps = descent(ephemeral)
    state = jax.eval_shape(steps.init, PARAMS)
    program = {
        'named': lambda *data: steps.step(*data, 'layer1'),
        'visit': lambda *data: steps.visit(*data, 'layer1', steps=5),
        'cycle': lambda *data: steps.cycle(*data, NAMES[::-1])}[kind]
    used = memory(program, state)
    assert used.alias_size_in_bytes == size(state)
    # A second copy of the parameters would be 8 leaves.
    assert used.temp_size_in_bytes < 6 * LEAF


def test_a_traced_block_is_updated_in_place_and_holds_no_copy_of_the_state():
    """Through the conditional passes what a block changes, here three leaves."""
    steps = descent(False)
    state = jax.eval_shape(steps.init, PARAMS)
    used = memory(lambda state, *data: steps.step(state, *data, state.count % 8), state)
    assert used.alias_size_in_bytes == size(state)
    assert used.temp_size_in_bytes < 6 * LEAF


def test_ephemeral_blocks_carry_no_state():
    kept, reset = (jax.eval_shape(descent(ephemeral).init, PARAMS)
                   for ephemeral in (False, True))
    assert size(reset.opt_state) == 0 and not reset.opt_state
    assert size(kept.opt_state) == len(NAMES) * (2 * LEAF + 4)


def test_a_visit_holds_the_rule_of_the_active_block_alone():
    """The block, its gradient and its two moments; those of all would be 16 leaves."""
    steps = descent(True)
    used = memory(lambda *data: steps.visit(*data, 'layer1', steps=5),
                  jax.eval_shape(steps.init, PARAMS))
    assert 2 * LEAF <= used.temp_size_in_bytes < 5 * LEAF
