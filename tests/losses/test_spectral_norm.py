import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from cdgm.losses import spectral_norm, spectral_vectors


def test_iterations_end_at_the_largest_singular_value(key):
    kernel = jax.random.normal(key, (3, 3, 2, 5))
    params = {'conv': {'kernel': kernel, 'bias': jnp.ones(5)}}
    divided, vectors = spectral_norm(params, spectral_vectors(params, key), steps=300)
    _, singular, right = np.linalg.svd(kernel.reshape(-1, 5))
    chex.assert_trees_all_close(divided['conv']['kernel'], kernel / singular[0],
                                rtol=1e-10)
    np.testing.assert_allclose(abs(right[0] @ vectors[0]), 1.)
    assert divided['conv']['bias'] is params['conv']['bias']


@pytest.mark.thorough
def test_value_gradient_and_vectors_are_those_of_flax(key):
    class Layer(nn.Module):
        @nn.compact
        def __call__(self, x):
            dense = nn.Dense(4, use_bias=False, param_dtype=jnp.float64)
            return nn.SpectralNorm(dense, param_dtype=jnp.float64)(x, update_stats=True)

    x, layer = jax.random.normal(key, (5, 3)), Layer()
    variables = layer.init(key, x)
    statistics = variables['batch_stats']
    u, = (leaf for leaf in jax.tree.leaves(statistics) if leaf.ndim == 2)

    def of_flax(params):
        out, changed = layer.apply({'params': params, 'batch_stats': statistics}, x,
                                   mutable=['batch_stats'])
        return jnp.sum(jnp.sin(out)), changed['batch_stats']

    def of_ours(params):
        divided, moved = spectral_norm(params, (u[0],))
        return jnp.sum(jnp.sin(x @ jax.tree.leaves(divided)[0])), moved

    (value, changed), slope = jax.value_and_grad(of_flax, has_aux=True)(
        variables['params'])
    (ours, moved), our_slope = jax.value_and_grad(of_ours, has_aux=True)(
        variables['params'])
    chex.assert_trees_all_close((ours, our_slope), (value, slope), rtol=1e-12)
    new, = (leaf for leaf in jax.tree.leaves(changed) if leaf.ndim == 2)
    chex.assert_trees_all_close(moved[0], new[0], rtol=1e-12)


def test_a_kernel_of_zeros_stays_zero(key):
    params = {'kernel': jnp.zeros((2, 3))}
    divided, vectors = spectral_norm(params, spectral_vectors(params, key))
    chex.assert_trees_all_equal(divided, params)
    chex.assert_tree_all_finite(vectors)
