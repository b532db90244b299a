"""Stateless rules, each against NumPy on one matrix at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cdgm import block_descent, layers, stateless

SHAPES = [(5, 8), (8, 5), (3, 5, 8), (2, 3, 8, 5)]


def unit(g, axis=None):
    return g / np.sqrt(np.mean(g ** 2, axis, keepdims=True))


def balanced(g):
    for _ in range(5):
        g = unit(unit(g, 1), 0)
    return g


def orthogonal(g):
    """The polynomial on the singular values alone."""
    left, values, right = np.linalg.svd(g, full_matrices=False)
    values = values / np.linalg.norm(values)
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values ** 3 + 2.0315 * values ** 5
    return max(g.shape) ** 0.5 * left @ np.diag(values) @ right


RULES = [(stateless.scale_by_rms, unit),
         (stateless.scale_by_columns, lambda g: unit(g, 0)),
         (stateless.scale_by_rows_and_columns, balanced),
         (stateless.orthogonalise, orthogonal)]


def updated(make, updates):
    tx = make()
    return tx.update(updates, tx.init(updates))[0]


def gradient(*shape):
    return np.random.default_rng(0).normal(size=shape)


@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('make, oracle', RULES)
def test_each_matrix_is_what_numpy_makes_of_it(make, oracle, shape):
    grads = gradient(*shape)
    expected = np.reshape([oracle(g) for g in grads.reshape(-1, *shape[-2:])], shape)
    np.testing.assert_allclose(updated(make, jnp.asarray(grads)), expected, 1e-9)


@pytest.mark.parametrize('make, oracle', RULES)
@pytest.mark.parametrize('factor', [1e-30, 1e30])
def test_the_size_of_a_gradient_does_not_matter(make, oracle, factor):
    grads = gradient(5, 8).astype(np.float32)
    moved = updated(make, jnp.asarray(factor * grads, jnp.float32))
    np.testing.assert_allclose(moved, oracle(grads.astype(float)), 1e-4, 1e-4)


@pytest.mark.parametrize('make, _', RULES)
def test_of_nothing_comes_nothing(make, _):
    """Also of a row of zeros, as of a token that no minibatch has."""
    np.testing.assert_array_equal(updated(make, jnp.zeros((3, 4))), np.zeros((3, 4)))
    grads = jnp.asarray(gradient(3, 4)).at[1].set(0)
    moved = updated(make, grads)
    assert np.all(np.isfinite(moved)) and not np.any(moved[1])


@pytest.mark.parametrize('make, _', RULES)
def test_vectors_and_scalars_go_by_sign(make, _):
    grads = {'gain': jnp.array([-3., 0., 2.]), 'scale': jnp.array(-0.5)}
    moved = updated(make, grads)
    np.testing.assert_array_equal(moved['gain'], [-1., 0., 1.])
    assert moved['scale'] == -1.


def test_a_balanced_matrix_has_rows_and_columns_of_one_size():
    moved = np.asarray(updated(stateless.scale_by_rows_and_columns,
                               jnp.asarray(gradient(30, 20))))
    np.testing.assert_allclose(np.mean(moved ** 2, 0), 1, 1e-9)
    np.testing.assert_allclose(np.mean(moved ** 2, 1), 1, 1e-3)


@pytest.mark.parametrize('shape', [(30, 20), (20, 30)])
def test_an_orthogonalised_matrix_has_directions_of_about_one_length(shape):
    moved = updated(stateless.orthogonalise, jnp.asarray(gradient(*shape)))
    values = np.linalg.svd(np.asarray(moved) / 30 ** 0.5, compute_uv=False)
    assert 0.65 < values.min() and values.max() < 1.25


@pytest.mark.parametrize('make, oracle', RULES)
def test_layers_may_ride_by_it_each_on_its_own(make, oracle):
    def loss(params, batch, key):
        x = layers.apply(lambda p, x: jnp.tanh(x @ p['w']), params['layers'], batch)
        return jnp.mean(x ** 2), None

    params = {'layers': {'w': jnp.asarray(gradient(3, 4, 4))}}
    batch = jnp.asarray(gradient(6, 4))
    descent = block_descent(layers.blocks(
        'layers', 3, loss, optax.sgd(0.),
        riders={'layers': optax.chain(make(), optax.scale(-0.1))}))
    state, _ = jax.jit(descent.step)(descent.init(params), batch, None, 0)
    grads = jax.grad(lambda p: loss(p, batch, None)[0])(params)['layers']['w']
    steps = np.stack([np.zeros((4, 4)), *map(oracle, np.asarray(grads[1:]))])
    np.testing.assert_allclose(state.params['layers']['w'],
                               params['layers']['w'] - 0.1 * steps, 1e-9)
