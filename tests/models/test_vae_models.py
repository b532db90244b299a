"""Burda's nets, the convolutional one and the VampPrior."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from cdgm.models import (
    ONE_LAYER, TWO_LAYERS, burda_vae, convolutional_vae, one_layer, vamp_prior)


def dense(layer, x):
    return x @ layer['kernel'] + layer['bias']


def hidden(net, x):
    return np.tanh(dense(net['Dense_1'], np.tanh(dense(net['Dense_0'], x))))


def test_two_layers_are_written_out(fill):
    model = burda_vae((2, 3), ((5, 4), (6, 2)))
    params = fill(model.init)
    x = np.random.default_rng(20).uniform(size=(7, 2, 3))
    net = params['encoder']['layer_1']
    top = hidden(net, x.reshape(7, 6))
    first, logvar = map(np.asarray, jax.jit(model.encode[0])(params, x))
    np.testing.assert_allclose(first, dense(net['mean'], top), rtol=1e-12)
    np.testing.assert_allclose(logvar, dense(net['logvar'], top), rtol=1e-12)
    second, _ = map(np.asarray, jax.jit(model.encode[1])(params, first))
    down, _ = jax.jit(model.between[0])(params, second)
    net = params['decoder']['layer_1']
    np.testing.assert_allclose(down, dense(net['mean'], hidden(net, second)))
    net = params['decoder']['logits']
    np.testing.assert_allclose(
        jax.jit(model.decode)(params, first).reshape(7, 6),
        dense(net['logits'], hidden(net, first)), rtol=1e-12)


@pytest.mark.parametrize('layers, widths', [
    (ONE_LAYER, {'encoder': [200, 200, 50], 'decoder': [200, 200, 784]}),
    (TWO_LAYERS, {'encoder': [200, 200, 100, 100, 100, 50],
                  'decoder': [100, 100, 100, 200, 200, 784]})])
def test_sizes_are_those_of_the_paper(layers, widths, key):
    shapes = jax.eval_shape(burda_vae((28, 28, 1), layers).init, key)
    for block, expected in widths.items():
        seen = [layer['bias'].shape[0] for name, net in sorted(shapes[block].items())
                for unit, layer in sorted(net.items()) if unit != 'logvar']
        assert seen == expected


def test_the_output_starts_at_the_mean_image(key):
    mean = np.array([[0., 0.3], [0.5, 1.]])
    bias = burda_vae((2, 2), ((3, 2),), mean).init(key)['decoder']['logits']['logits'][
        'bias']
    np.testing.assert_allclose(special.expit(bias), [0.001, 0.3, 0.5, 0.999], rtol=1e-5)


def test_one_layer_is_a_vae_and_two_are_not(key):
    model = one_layer(burda_vae((2, 2), ((3, 2),)))
    assert model.latent_size == 2
    with pytest.raises(ValueError, match='2 layers of latents, not one'):
        one_layer(burda_vae((2, 2), ((3, 2), (3, 2))))


@pytest.mark.parametrize('build', [
    lambda: burda_vae((2, 2), ()), lambda: burda_vae((2, 2), ((3, 0),)),
    lambda: convolutional_vae((8, 8), 2), lambda: convolutional_vae((8, 8, 1), 2, ()),
    lambda: vamp_prior(None, (2,), components=0)])
def test_bad_sizes_are_refused(build):
    with pytest.raises(ValueError, match='at least one'):
        build()


@pytest.mark.parametrize('shape, channels', [
    ((28, 28, 1), (16, 32)), ((9, 6, 3), (4,)), ((8, 8, 1), (2, 3, 4))])
def test_convolutions_fit_images_of_any_size(shape, channels, key):
    model = convolutional_vae(shape, 5, channels)
    params = jax.eval_shape(model.init, key)
    images = jax.ShapeDtypeStruct((3, *shape), 'float32')
    mean, logvar = jax.eval_shape(model.encode, params, images)
    assert mean.shape == logvar.shape == (3, 5)
    assert jax.eval_shape(model.decode, params, mean).shape == images.shape


def test_the_vamp_prior_is_the_mixture_of_scipy(key):
    """At the posteriors of the pseudo-inputs, clipped to [0, 1]."""
    def encode(params, x):
        return x @ params['encoder'], 0.3 * x @ params['encoder'] - 1

    prior = vamp_prior(encode, (3,), components=4)
    rng = np.random.default_rng(20)
    params = {'encoder': rng.normal(size=(3, 2)),
              'prior': {'inputs': rng.normal(size=(4, 3))}}
    z = rng.normal(size=(6, 2))
    means, logvars = map(np.asarray, encode(
        params, np.clip(params['prior']['inputs'], 0, 1)))
    each = stats.norm.pdf(z[:, None], means, np.exp(logvars / 2)).prod(-1)
    np.testing.assert_allclose(jax.jit(prior.log_prior)(params, z),
                               np.log(each.mean(1)), rtol=1e-10)
    drawn = np.asarray(jax.jit(prior.sample, static_argnums=2)(params, key, 20_000))
    variance = np.exp(logvars).mean(0) + means.var(0)
    assert np.all(abs(drawn.mean(0) - means.mean(0)) < 4 * np.sqrt(variance / 20_000))
    np.testing.assert_allclose(drawn.var(0), variance, rtol=0.05)
    assert prior.init(key)['inputs'].shape == (4, 3)
    images = rng.random((4, 3))
    begun = vamp_prior(encode, (3,), components=4, mean=images).init(key)['inputs']
    assert 0 < abs(begun - images).max() < 0.05
    slope = jax.jit(jax.grad(lambda p: prior.log_prior(p, jnp.asarray(z)).sum()))
    grads = slope(params)
    assert np.any(grads['prior']['inputs'] != 0) and np.any(grads['encoder'] != 0)
