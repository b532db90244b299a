"""One program for all layers gives each layer's own gradient, for each layer's cost."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cdgm
from cdgm.layers import chain, put, take

LENGTH, SIZE, BATCH, STEPS = 5, 6, 4, 3


def layer(params, x):
    """A residual layer with a list of parameters and a pair that passes through."""
    x, skip = x
    weights, bias = params
    return jnp.tanh(x @ weights + bias[None]) + 0.1 * skip, skip


@pytest.fixture
def stack(key):
    return [jax.random.normal(key, (LENGTH, SIZE, SIZE)) / 2,
            jax.random.normal(key, (LENGTH, SIZE))]


@pytest.fixture
def x(key):
    return jax.random.normal(jax.random.fold_in(key, 1), (BATCH, SIZE))


def plain_loss(stack, x):
    x = x, x
    for i in range(LENGTH):
        x = layer([leaf[i] for leaf in stack], x)
    return jnp.mean(jnp.square(x[0] - 1))


def chain_loss(own, stack, index, x):
    return jnp.mean(jnp.square(chain(layer, stack, own, index, (x, x))[0] - 1))


def assert_equal(one, other):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=0, atol=1e-12), one, other)


def test_every_layer_has_its_gradient_by_one_program(stack, x):
    expected = jax.grad(plain_loss)(stack, x)
    program = jax.jit(lambda stack, index: jax.value_and_grad(chain_loss)(
        take(stack, index), stack, index, x))
    for index in range(LENGTH):
        loss, grads = program(stack, index)
        assert_equal(loss, plain_loss(stack, x))
        assert_equal(grads, take(expected, index))
    assert program._cache_size() == 1


@pytest.mark.thorough
def test_seeds_side_by_side(stack, x):
    pair = jax.tree.map(lambda x: jnp.stack([x, x / 2]), stack)
    grads = jax.vmap(lambda stack: jax.grad(chain_loss)(take(stack, 2), stack, 2, x))(
        pair)
    half = jax.tree.map(lambda x: x / 2, stack)
    for i, one in enumerate((stack, half)):
        assert_equal([leaf[i] for leaf in grads],
                     take(jax.grad(plain_loss)(one, x), 2))


def test_put_is_the_inverse_of_take(stack):
    moved = put(stack, jax.tree.map(jnp.zeros_like, take(stack, 3)), 3)
    assert_equal(take(moved, 3), jax.tree.map(jnp.zeros_like, take(stack, 3)))
    assert_equal(put(moved, take(stack, 3), 3), stack)


def test_a_visit_moves_one_layer_as_adam_does(stack, x, key):
    def loss(params, batch, key):
        x, index = batch
        return chain_loss(params['own'], params['stack'], index, x), None

    descent = cdgm.block_descent({
        'own': cdgm.Block('own', loss, optax.adam(0.1), ephemeral=True),
        'frozen': cdgm.Block('stack', loss, optax.set_to_zero(), ephemeral=True)})

    @jax.jit
    def visit(stack, index):
        state = descent.init({'own': take(stack, index), 'stack': stack})
        state, info = descent.visit(state, (x, index), key, 'own', steps=STEPS)
        return put(stack, state.params['own'], index), info.loss

    moved, losses = visit(stack, 2)
    rule, own = optax.adam(0.1), take(stack, 2)
    opt_state = rule.init(own)
    for step in range(STEPS):
        value, grads = jax.value_and_grad(plain_loss)(put(stack, own, 2), x)
        assert_equal(losses[step], value)
        updates, opt_state = rule.update(take(grads, 2), opt_state, own)
        own = optax.apply_updates(own, updates)
    assert_equal(moved, put(stack, own, 2))


def opened(jaxpr):
    """The equations of a program, with those of functions that have rules."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == 'custom_vjp_call':
            yield from opened(eqn.params['call_jaxpr'].jaxpr)
        else:
            yield eqn


def products(jaxpr):
    """Matrix products in each loop of a program, in order, and outside of them."""
    inside = [sum(eqn.primitive.name == 'dot_general' for eqn in
                  eqn.params['body_jaxpr'].jaxpr.eqns)
              for eqn in opened(jaxpr) if eqn.primitive.name == 'while']
    outside = sum(eqn.primitive.name == 'dot_general' for eqn in jaxpr.eqns)
    return inside, outside


def test_the_loops_hold_one_product_each(x):
    """i before, 2 (own and its gradient), L - 1 - i there and as many back: 2 L - i."""
    def dense(params, x):
        return jnp.tanh(x @ params)

    def loss(own, stack, index):
        return jnp.sum(chain(dense, stack, own, index, x))

    stack = jnp.zeros((LENGTH, SIZE, SIZE))
    jaxpr = jax.make_jaxpr(jax.grad(loss))(stack[0], stack, 2).jaxpr
    assert products(jaxpr) == ([1, 1, 1], 2)
    # The weights are not saved a second time: only what depends on x is.
    _, after, _ = [eqn for eqn in opened(jaxpr) if eqn.primitive.name == 'while']
    assert stack.shape not in [var.aval.shape for var in after.outvars]
