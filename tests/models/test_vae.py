import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdgm.models import vae


def test_the_forward_pass_is_written_out(fill):
    model = vae((2, 3), latent_size=2, hidden=(4, 5))
    params = fill(model.init)
    x = np.random.default_rng(20).uniform(size=(7, 2, 3))

    def dense(layer, inputs):
        return inputs @ layer['kernel'] + layer['bias']

    def leaky(a):
        return np.where(a > 0, a, 0.01 * a)

    encoder, decoder = params['encoder'], params['decoder']
    hidden = leaky(dense(encoder['Dense_0'], x.reshape(7, 6)))
    hidden = leaky(dense(encoder['Dense_1'], hidden))
    mean, logvar = map(np.asarray, jax.jit(model.encode)(params, x))
    np.testing.assert_allclose(mean, dense(encoder['mean'], hidden), rtol=1e-12)
    np.testing.assert_allclose(logvar, dense(encoder['logvar'], hidden), rtol=1e-12)
    hidden = leaky(dense(decoder['Dense_0'], mean))
    hidden = leaky(dense(decoder['Dense_1'], hidden))
    np.testing.assert_allclose(
        jax.jit(model.decode)(params, mean),
        dense(decoder['logits'], hidden).reshape(7, 2, 3), rtol=1e-12)


@pytest.mark.parametrize('image_shape', [(8, 8), (8, 8, 1), (28, 28), (4, 4, 3)])
def test_fits_images_of_any_shape(image_shape, key):
    model = vae(image_shape)
    params = jax.eval_shape(model.init, key)
    images = jax.ShapeDtypeStruct((5, *image_shape), 'float32')
    mean, logvar = jax.eval_shape(model.encode, params, images)
    assert mean.shape == logvar.shape == (5, 20)
    assert jax.eval_shape(model.decode, params, mean).shape == images.shape


def test_the_reference_sizes(key):
    params = jax.eval_shape(vae((28, 28)).init, key)
    sizes = jax.tree.map(lambda layer: layer.shape, params)
    assert sizes['encoder'] == {
        'Dense_0': {'kernel': (784, 128), 'bias': (128,)},
        'mean': {'kernel': (128, 20), 'bias': (20,)},
        'logvar': {'kernel': (128, 20), 'bias': (20,)}}
    assert sizes['decoder'] == {
        'Dense_0': {'kernel': (20, 128), 'bias': (128,)},
        'logits': {'kernel': (128, 784), 'bias': (784,)}}


def test_widths_are_mirrored(key):
    params = jax.eval_shape(vae((8, 8), 3, hidden=(32, 16)).init, key)
    assert params['encoder']['Dense_1']['kernel'].shape == (32, 16)
    assert params['decoder']['Dense_1']['kernel'].shape == (16, 32)


def test_parameters_are_single_plain_and_each_block_has_its_own_noise(key):
    params = jax.jit(vae((4, 4), 16, hidden=(16,)).init)(key)
    assert type(params) is type(params['encoder']) is dict
    chex.assert_trees_all_equal(
        jax.tree.map(lambda p: p.dtype, params),
        jax.tree.map(lambda p: jnp.dtype('float32'), params))
    assert jnp.any(params['encoder']['Dense_0']['kernel']
                   != params['decoder']['Dense_0']['kernel'])


def test_each_function_reads_its_own_block(fill):
    model = vae((4, 4), 2, hidden=(3,))
    params = fill(model.init)
    mean, _ = jax.eval_shape(
        model.encode, {'encoder': params['encoder']}, np.ones((1, 4, 4)))
    jax.eval_shape(model.decode, {'decoder': params['decoder']}, mean)
