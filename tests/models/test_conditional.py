"""The conditional models: shapes, classes that matter, and their closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdgm import models
from cdgm.models.upsampling import shuffle_pixels

LABELS = jnp.array([0, 2, 1])


def moved(model_of, shape=(10, 6, 1)):
    """A model, compiled, and parameters that are all different from zero."""
    model = model_of(shape)
    model = model._replace(**{name: jax.jit(value) for name, value
                              in model._asdict().items() if callable(value)})
    params = model.init(jax.random.key(0))
    random = np.random.RandomState(1)
    return model, jax.tree.map(
        lambda leaf: np.asarray(leaf) + 0.1 * random.normal(size=leaf.shape).astype(
            leaf.dtype), params)


@pytest.mark.parametrize('channels', [(), (2, 3)], ids=['mlp', 'conv'])
@pytest.mark.parametrize('classes', [0, 3])
@pytest.mark.sample(1)
def test_vae(classes, channels):
    model, params = moved(lambda shape: models.conditional_vae(
        shape, classes, latent_size=2, hidden=(5,), channels=channels))
    assert sorted(params) == ['decoder', 'encoder']
    told = LABELS if classes else None
    images = jax.random.uniform(jax.random.key(2), (3, 10, 6, 1))
    mean, logvar = model.encode(params, images, told)
    again = model.decode(params, mean, told)
    assert mean.shape == logvar.shape == (3, 2) and again.shape == images.shape
    other = model.decode(params, mean, jnp.array([0, 1, 1]))
    same = [np.array_equal(a, b) for a, b in zip(again, other)]
    assert same == ([True, False, True] if classes else [True] * 3)


@pytest.mark.parametrize('channels', [(), (3, 2)], ids=['mlp', 'conv'])
@pytest.mark.parametrize('classes', [0, 3])
@pytest.mark.sample(1)
def test_gan(classes, channels):
    model, params = moved(lambda shape: models.conditional_gan(
        shape, classes, latent_size=2, widths=(5,), generator_channels=channels,
        channels=(2, 3), head=4))
    told = LABELS if classes else None
    latent = jax.random.normal(jax.random.key(2), (3, 2))
    images = model.generate(params, latent, told)
    assert images.shape == (3, 10, 6, 1)
    assert 0 < images.min() and images.max() < 1
    logits = model.discriminate(params, images, told)
    assert logits.shape == (3,)
    if classes:
        # Projection: the logit is linear in the class's vector.
        every = [model.discriminate(params, images, jnp.full_like(LABELS, c))
                 for c in range(3)]
        np.testing.assert_allclose(logits, [every[c][i] for i, c in enumerate(LABELS)])
        without = {**params['discriminator'],
                   'classes': {'kernel': jnp.zeros((3, 4))}}
        base = model.discriminate({**params, 'discriminator': without}, images, told)
        assert not np.allclose(base, logits)
        doubled = {**params['discriminator'], 'classes': {
            'kernel': 2 * params['discriminator']['classes']['kernel']}}
        twice = model.discriminate({**params, 'discriminator': doubled}, images, told)
        np.testing.assert_allclose(twice - base, 2 * (logits - base), rtol=1e-5)


def test_a_discriminator_is_shown_packs():
    model = models.conditional_gan((4, 6, 1), latent_size=2, widths=(3,), channels=(2,),
                                   packing=3)
    params = jax.eval_shape(model.init, jax.random.key(0))
    images = jax.eval_shape(model.generate, params, jnp.zeros((6, 2)))
    assert images.shape == (6, 4, 6, 1)
    packs = jnp.zeros((2, 4, 6, 3))
    assert jax.eval_shape(model.discriminate, params, packs).shape == (2,)
    with pytest.raises(ValueError, match='a pack has no one class'):
        models.conditional_gan((4, 6, 1), 10, packing=2)


def test_pixels_are_shuffled_as_published():
    """Shi et al. 2016 eq. 4: PS(T)[x, y, c] = T[x / r, y / r, C r (y % r) + ...]."""
    x = np.random.RandomState(0).normal(size=(2, 3, 4, 8))
    found = shuffle_pixels(jnp.asarray(x))
    assert found.shape == (2, 6, 8, 2)
    for i in range(6):
        for j in range(8):
            for c in range(2):
                np.testing.assert_array_equal(
                    found[:, i, j, c],
                    x[:, i // 2, j // 2, 4 * (i % 2) + 2 * (j % 2) + c])


def test_image_shapes_are_checked():
    with pytest.raises(ValueError, match='height, width, channels'):
        models.conditional_vae((8, 8))
    with pytest.raises(ValueError, match='height, width, channels'):
        models.conditional_gan((8, 8))


@pytest.mark.thorough
def test_codes_have_the_moments_of_the_mixture():
    random = np.random.RandomState(1)
    mean, logvar = random.normal(size=(2, 40, 3))
    labels = np.arange(40) % 2
    density = models.fit_codes(jnp.asarray(mean), jnp.asarray(logvar),
                               jnp.asarray(labels), 2)
    for c in range(2):
        mine = labels == c
        expected = (np.cov(mean[mine].T, ddof=0)
                    + np.diag(np.exp(logvar[mine]).mean(0)))
        np.testing.assert_allclose(density.mean[c], mean[mine].mean(0))
        np.testing.assert_allclose(density.root[c] @ density.root[c].T, expected,
                                   atol=1e-5)
    drawn = models.sample_codes(density, jnp.ones(20000, int), jax.random.key(0), 20000)
    spread = np.cov(drawn.T)
    error = np.sqrt(2 / 20000) * np.abs(spread).max()
    np.testing.assert_allclose(spread, expected, atol=5 * error)
    together = models.fit_codes(jnp.asarray(mean), jnp.asarray(logvar), None, 0)
    np.testing.assert_allclose(together.mean[0], mean.mean(0))
    assert models.sample_codes(together, None, jax.random.key(0), 4).shape == (4, 3)


def test_a_class_of_one_code_has_a_density():
    density = models.fit_codes(jnp.ones((1, 2)), jnp.full((1, 2), -50.), jnp.zeros(
        1, int), 2)
    assert np.isfinite(density.root).all()


@pytest.mark.thorough
def test_classifier_gives_features_and_logits():
    net = models.classifier((9, 7, 1), 4, channels=(2, 3), width=5)
    params = net.init(jax.random.key(0))
    features, logits = net.apply(params, jnp.ones((2, 9, 7, 1)))
    assert features.shape == (2, 5) and logits.shape == (2, 4)
    assert np.min(features) >= 0
    last = params['Dense_1']
    np.testing.assert_allclose(logits, features @ last['kernel'] + last['bias'][None],
                               rtol=1e-6)
