import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cdgm.losses.critics import relativistic, wasserstein
from cdgm.losses.gan import non_saturating
from cdgm.losses.penalties import (
    clip_weights, squared_gradient, weight_clipping, wgan_gp)


@pytest.fixture
def images(key):
    real, fake = jax.random.normal(key, (2, 5, 3, 2))
    return real, fake


def linear(weight):
    return lambda x: jnp.sum(x * weight, axis=tuple(range(1, x.ndim)))


def quadratic(x):
    """D(x) = |x|^2 / 2 has the slope x."""
    return jnp.sum(x ** 2, axis=tuple(range(1, x.ndim))) / 2


def test_penalties_of_a_linear_critic_are_functions_of_its_weight(images, key):
    weight = jax.random.normal(key, (1, 3, 2))
    length = np.linalg.norm(weight)
    for points in images:
        chex.assert_trees_all_close(
            squared_gradient(linear(weight), points), length ** 2, rtol=1e-14)
    chex.assert_trees_all_close(
        wgan_gp(linear(weight), *images, key), (length - 1) ** 2, rtol=1e-13)


def test_squared_gradient_sums_over_dimensions_and_averages_over_the_batch(images):
    real, _ = images
    expected = np.square(real).sum(axis=(1, 2)).mean()
    chex.assert_trees_all_close(squared_gradient(quadratic, real), expected)


def test_wgan_gp_asks_at_one_place_on_each_line(images, key):
    real, fake = images
    place = np.asarray(jax.random.uniform(key, (5, 1, 1)))
    points = place * real + (1 - place) * fake
    lengths = np.sqrt(np.square(points).sum(axis=(1, 2)))
    chex.assert_trees_all_close(
        wgan_gp(quadratic, real, fake, key), np.mean((lengths - 1) ** 2))
    with pytest.raises(ValueError, match=r'shapes differ.*\(5, 3, 2\).*\(4, 3, 2\)'):
        wgan_gp(quadratic, real, fake[:4], key)


def test_gradients_of_the_penalties_reach_the_weights(images, key):
    real, fake = images
    weight = jax.random.normal(key, (1, 3, 2))
    r1 = jax.grad(lambda w: squared_gradient(linear(w), real) / 2)(weight)
    chex.assert_trees_all_close(r1, weight, rtol=1e-13)
    slope = jax.grad(lambda w: wgan_gp(linear(w), real, fake, key) / 2)(weight)
    length = np.linalg.norm(weight)
    chex.assert_trees_all_close(slope, (length - 1) * weight / length, rtol=1e-12)


def test_wgan_gp_of_a_flat_critic_is_one_and_pulls_nowhere(images, key):
    value, slope = jax.value_and_grad(
        lambda w: wgan_gp(linear(w), *images, key))(jnp.zeros((1, 3, 2)))
    assert value == 1
    chex.assert_trees_all_equal(slope, jnp.zeros((1, 3, 2)))


def test_a_discriminator_gives_one_logit_an_example(images):
    with pytest.raises(ValueError, match=r'gave \(5, 3\).*one logit an example'):
        squared_gradient(lambda x: x.sum(-1), images[0])


def test_penalties_are_at_least_float32(images):
    half = images[0].astype(jnp.bfloat16)
    assert squared_gradient(quadratic, half).dtype == jnp.float32


def test_clipping_is_a_projection(key):
    params = {'w': 3 * jax.random.normal(key, (40,)), 'b': jnp.array(-0.0)}
    once = clip_weights(params, 0.7)
    chex.assert_trees_all_equal(once['w'], np.clip(params['w'], -0.7, 0.7))
    chex.assert_trees_all_equal(clip_weights(once, 0.7), once)
    assert jnp.signbit(once['b'])


def test_a_rule_with_clipping_ends_where_the_step_is_projected(key):
    params, grads = jax.random.normal(key, (2, 40))
    plain, clipped = optax.sgd(1.), optax.chain(optax.sgd(1.), weight_clipping(0.7))
    updates, _ = plain.update(grads, plain.init(params), params)
    expected = clip_weights(optax.apply_updates(params, updates), 0.7)
    updates, _ = clipped.update(grads, clipped.init(params), params)
    chex.assert_trees_all_close(
        optax.apply_updates(params, updates), expected, rtol=0, atol=1e-15)


def test_wasserstein_is_the_difference_of_means(key):
    real, fake = jax.random.normal(key, (2, 9))
    chex.assert_trees_all_close(
        wasserstein.discriminator(real, fake), np.mean(fake) - np.mean(real))
    chex.assert_trees_all_close(wasserstein.generator(real, fake), -np.mean(fake))


def test_relativistic_depends_on_paired_differences_only(key):
    real, fake, shift = jax.random.normal(key, (3, 9))
    for player, sign in zip(relativistic, (-1, 1)):
        expected = np.logaddexp(0, sign * (real - fake)).mean()
        chex.assert_trees_all_close(player(real, fake), expected)
        chex.assert_trees_all_close(player(real + shift, fake + shift), expected)
        with pytest.raises(ValueError, match='shapes differ'):
            player(real, fake[:1])


def test_relativistic_against_a_blind_real_logit_is_non_saturating(key):
    fake = jax.random.normal(key, (9,))
    zeros = jnp.zeros(9)
    chex.assert_trees_all_close(relativistic.generator(zeros, fake),
                                non_saturating.generator(zeros, fake))
    chex.assert_trees_all_close(
        relativistic.discriminator(zeros, fake) + jnp.log(2),
        non_saturating.discriminator(zeros, fake))


@pytest.mark.parametrize('loss', (wasserstein, relativistic))
def test_critics_losses_are_finite_at_any_logit(loss):
    logits = jnp.array([-1e4, 1e4], jnp.float32)
    for player in loss:
        for real in (logits, logits[::-1]):
            value, slope = jax.value_and_grad(player, 1)(real, logits)
            assert value.dtype == jnp.float32
            chex.assert_tree_all_finite((value, slope))
