import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from cdgm.models import gan


def test_the_forward_pass_is_that_of_flax_layers(fill):
    model = gan((5, 6), 2, generator_widths=(3, 4), discriminator_channels=(2, 3))
    params = fill(model.init)

    def leaky(a):
        return np.where(a > 0, a, 0.2 * a)

    def dense(layer, inputs):
        return inputs @ layer['kernel'] + layer['bias']

    latent = np.random.default_rng(20).normal(size=(7, 2))
    generator = params['generator']
    hidden = leaky(dense(generator['Dense_0'], latent))
    hidden = leaky(dense(generator['Dense_1'], hidden))
    expected = 1 / (1 + np.exp(-dense(generator['Dense_2'], hidden)))
    images = np.asarray(jax.jit(model.generate)(params, latent))
    np.testing.assert_allclose(images, expected.reshape(7, 5, 6), rtol=1e-12)

    discriminator = params['discriminator']
    hidden = images[..., None]
    for layer, channels in enumerate((2, 3)):
        conv = jax.jit(nn.Conv(channels, (3, 3), (2, 2)).apply)
        hidden = leaky(conv({'params': discriminator[f'Conv_{layer}']}, hidden))
    expected = dense(discriminator['Dense_0'], hidden.reshape(7, -1))[:, 0]
    np.testing.assert_allclose(
        jax.jit(model.discriminate)(params, images), expected, rtol=1e-12)


@pytest.mark.parametrize('image_shape', [(8, 8), (8, 8, 1), (28, 28), (32, 32, 3)])
def test_fits_images_of_any_shape(image_shape, key):
    model = gan(image_shape)
    params = jax.eval_shape(model.init, key)
    latent = jax.ShapeDtypeStruct((5, 100), 'float32')
    images = jax.eval_shape(model.generate, params, latent)
    assert images.shape == (5, *image_shape) and images.dtype == jnp.float32
    assert jax.eval_shape(model.discriminate, params, images).shape == (5,)


def test_the_reference_sizes(key):
    params = jax.eval_shape(gan((28, 28)).init, key)
    kernels = jax.tree.map(lambda p: p.shape, params)
    assert [kernels['generator'][f'Dense_{i}']['kernel'] for i in range(5)] == [
        (100, 128), (128, 256), (256, 512), (512, 1024), (1024, 784)]
    assert [kernels['discriminator'][f'Conv_{i}']['kernel'] for i in range(3)] == [
        (3, 3, 1, 64), (3, 3, 64, 128), (3, 3, 128, 128)]
    assert kernels['discriminator']['Dense_0']['kernel'] == (4 * 4 * 128, 1)


def test_images_are_in_the_range_of_the_data(fill):
    model = gan((8, 8), 4, generator_widths=(8,))
    latent = 100 * np.random.default_rng(20).normal(size=(50, 4))
    images = jax.jit(model.generate)(fill(model.init), latent)
    assert 0 <= images.min() < 0.1 and 0.9 < images.max() <= 1


def test_parameters_are_single_and_plain(key):
    params = jax.jit(gan((4, 4), 2, (3,), (2,)).init)(key)
    assert type(params) is type(params['generator']) is dict
    chex.assert_trees_all_equal(
        jax.tree.map(lambda p: p.dtype, params),
        jax.tree.map(lambda p: jnp.dtype('float32'), params))


def test_each_function_reads_its_own_block(fill):
    model = gan((4, 4), 2, (3,), (2,))
    params = fill(model.init)
    images = jax.eval_shape(
        model.generate, {'generator': params['generator']}, np.ones((1, 2)))
    jax.eval_shape(
        model.discriminate, {'discriminator': params['discriminator']}, images)


def test_a_vector_is_not_an_image():
    with pytest.raises(ValueError, match=r'image_shape is \(784,\)'):
        gan((784,))


@pytest.mark.thorough
def test_a_discriminator_of_packs_reads_their_channels():
    model = gan((8, 8, 1), 2, (4,), (2,), packing=3)
    params = model.init(jax.random.key(0))
    assert model.generate(params, jnp.zeros((2, 2))).shape == (2, 8, 8, 1)
    assert model.discriminate(params, jnp.zeros((5, 8, 8, 3))).shape == (5,)
    with pytest.raises(ValueError, match='images are packed as channels'):
        gan((8, 8), packing=2)
