"""The VAE whose decoder sees the pixels before."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import signal, stats

from cdgm import losses
from cdgm.models import pixel_vae

SHAPE = (6, 5, 1)


def small(**others):
    return pixel_vae(SHAPE, latent_size=2, channels=(3,), features=4, **others)


def logits_of(model, params, latent):
    return jax.jit(lambda x: model.logits(model.decode(params, latent), x))


@pytest.mark.parametrize('size, depth', [(3, 0), (5, 1)])
def test_a_pixel_sees_what_is_before_and_no_further(fill, size, depth):
    model = small(kernel_size=size, depth=depth)
    params = fill(model.init)
    rng = np.random.default_rng(0)
    x, latent = rng.uniform(size=(1, *SHAPE)), rng.normal(size=(1, 2))
    pixels = SHAPE[0] * SHAPE[1]
    seen = np.asarray(jax.jacobian(logits_of(model, params, latent))(x)).reshape(
        pixels, pixels)
    rows, columns = np.divmod(np.arange(pixels), SHAPE[1])
    up = rows[:, None] - rows[None]
    field = size // 2 + depth
    assert not seen[np.triu_indices(pixels)].any()
    assert not seen[up > field].any()
    # The pixel above, and the one to the left, count for every pixel that has them.
    assert seen[(up == 1) & (columns[:, None] == columns[None])].all()
    assert seen[(up == 0) & (columns[:, None] == columns[None] + 1)].all()
    assert seen[(up == field) & (columns[:, None] == columns[None])].all()


def test_the_decoder_is_written_out(fill):
    model = small(kernel_size=3, depth=1)
    params = fill(model.init)
    rng = np.random.default_rng(1)
    x, latent = rng.uniform(size=(2, *SHAPE)), rng.normal(size=(2, 2))

    def convolve(x, layer, seen):
        mask = (np.arange(9) < seen).reshape(3, 3, 1, 1)
        kernel = np.asarray(layer['kernel']) * mask
        return layer['bias'] + np.stack([np.stack([sum(
            signal.correlate2d(image[..., c], kernel[..., c, f], 'same')
            for c in range(image.shape[-1])) for f in range(kernel.shape[-1])], axis=-1)
            for image in x])

    def leaky(x):
        return np.where(x > 0, x, 0.01 * x)

    net = params['decoder']
    decoded = jax.jit(model.decode)(params, latent)
    h = np.asarray(decoded.features) + convolve(x, net['of_pixels'], 4)
    h = h + convolve(leaky(h), net['layers_0'], 5)
    expected = leaky(h) @ net['logits']['kernel'][0, 0] + net['logits']['bias']
    np.testing.assert_allclose(logits_of(model, params, latent)(x), expected, rtol=1e-9)


@pytest.fixture(scope='module')
def tiny():
    """A model of 2 x 2 pixels, of which all 16 images can be listed."""
    model = pixel_vae((2, 2, 1), latent_size=2, channels=(3,), features=4, depth=1)
    rng = np.random.default_rng(2)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), jax.eval_shape(
        model.init, jax.random.key(0)))
    return model, params


def probabilities(model, params):
    images = np.array(list(itertools.product([0., 1.], repeat=4))).reshape(16, 2, 2, 1)
    latent = np.tile([[0.5, -1.]], (16, 1))
    logits = logits_of(model, params, latent)(images)
    return np.exp(losses.bernoulli_log_likelihood(jnp.asarray(logits),
                                                  jnp.asarray(images)))


def test_all_images_together_have_the_probability_one(tiny):
    np.testing.assert_allclose(probabilities(*tiny).sum(), 1, rtol=1e-12)


def test_samples_have_the_probabilities_of_the_model(tiny):
    model, params = tiny
    drawn = np.asarray(jax.jit(model.sample)(
        params, np.tile([[0.5, -1.]], (4000, 1)), jax.random.key(3)))
    assert set(np.unique(drawn)) <= {0., 1.}
    numbers = (drawn.reshape(-1, 4) @ [8, 4, 2, 1]).astype(int)
    counts = np.bincount(numbers, minlength=16)
    expected = 4000 * probabilities(model, params)
    # The seed is fixed; what is rare is counted together.
    rare = expected < 5
    counts, expected = (np.append(x[~rare], x[rare].sum()) for x in (counts, expected))
    assert stats.chisquare(counts, expected + 1e-9).pvalue > 1e-3


def test_a_latent_makes_a_difference(fill):
    model = small()
    params = fill(model.init)
    decoded = jax.jit(model.decode)(params, np.array([[0., 0.], [1., -1.]]))
    assert (np.abs(decoded.features[0] - decoded.features[1]) > 1e-3).any()


@pytest.mark.parametrize('arguments, said', [
    ({'image_shape': (4, 4)}, r'image_shape is \(4, 4\)'),
    ({'image_shape': (4, 4, 3)}, r'\(height, width, 1\)'),
    ({'channels': ()}, 'at least one convolution'),
    ({'kernel_size': 4}, 'kernel_size is 4'),
    ({'kernel_size': 1}, 'kernel_size is 1')])
def test_bad_calls(arguments, said):
    with pytest.raises(ValueError, match=said):
        pixel_vae(**{'image_shape': (4, 4, 1), **arguments})
