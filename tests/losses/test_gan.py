from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import special
from scipy.spatial.distance import jensenshannon

from cdgm.losses import (
    GAN_LOSSES, discriminator_loss, generator_loss, hinge, least_squares, minimax,
    non_saturating, relativistic, smoothed, wasserstein)

# Two distributions on three points as samples in exactly their proportions, so that a
# mean over the samples is the expectation.
P, Q = np.array([4, 3, 1]), np.array([1, 2, 5])
REAL, FAKE = np.repeat(np.arange(3), P), np.repeat(np.arange(3), Q)
OPTIMAL = np.log(P / Q)
RNG = np.random.default_rng(20)

every_loss = pytest.mark.parametrize('name', GAN_LOSSES)


@partial(jax.jit, static_argnums=0)
def value_and_slopes(player, real, fake):
    return jax.value_and_grad(player, (0, 1))(real, fake)


def value(player, real, fake):
    return value_and_slopes(player, np.asarray(real), np.asarray(fake))[0]


def test_the_optimal_discriminator_measures_jensen_shannon():
    divergence = jensenshannon(P, Q) ** 2
    for loss in (minimax, non_saturating):
        np.testing.assert_allclose(
            value(loss.discriminator, OPTIMAL[REAL], OPTIMAL[FAKE]),
            np.log(4) - 2 * divergence, rtol=1e-12)
    # The game's value is 2 JS - log 4; the generator's is the part that it can change.
    real_part = special.log_expit(OPTIMAL[REAL]).mean()
    np.testing.assert_allclose(
        value(minimax.generator, OPTIMAL[REAL], OPTIMAL[FAKE]),
        2 * divergence - np.log(4) - real_part, rtol=1e-12)


def test_equal_distributions_give_minus_log_four():
    zeros = np.zeros(8)
    np.testing.assert_allclose(value(minimax.discriminator, zeros, zeros), np.log(4))
    np.testing.assert_allclose(value(minimax.generator, zeros, zeros), -np.log(2))
    np.testing.assert_allclose(value(non_saturating.generator, zeros, zeros), np.log(2))


@pytest.mark.parametrize('loss, optimal, least', [
    (minimax, OPTIMAL, np.log(4) - 2 * jensenshannon(P, Q) ** 2),
    # E_p (1 - D)^2 + E_q D^2 at D = p / (p + q) is the sum of p q / (p + q).
    (least_squares, P / (P + Q), np.sum(P * Q / (P + Q)) / 8 / 2)])
def test_the_optimal_discriminator_is_a_minimum(loss, optimal, least):
    def of_table(table):
        return loss.discriminator(table[REAL], table[FAKE])

    function = jax.jit(jax.value_and_grad(of_table))
    at_optimum, slope = function(optimal)
    np.testing.assert_allclose(at_optimum, least, rtol=1e-12)
    np.testing.assert_allclose(slope, np.zeros(3), atol=1e-15)
    for other in optimal + RNG.normal(size=(5, 3)):
        assert function(other)[0] > at_optimum


def test_cross_entropies_are_those_of_optax():
    real, fake = 4 * RNG.normal(size=(2, 6))

    def mean(logits, label):
        labels = np.full(logits.shape, label)
        return optax.sigmoid_binary_cross_entropy(jnp.asarray(logits), labels).mean()

    expected = mean(real, 1.) + mean(fake, 0.)
    for loss in (minimax, non_saturating):
        np.testing.assert_allclose(value(loss.discriminator, real, fake), expected)
    np.testing.assert_allclose(value(minimax.generator, real, fake), -mean(fake, 0.))
    np.testing.assert_allclose(
        value(non_saturating.generator, real, fake), mean(fake, 1.))


def test_least_squares_is_written_out():
    real, fake = RNG.normal(size=(2, 6))
    np.testing.assert_allclose(value(least_squares.discriminator, real, fake),
                               (np.mean((real - 1) ** 2) + np.mean(fake ** 2)) / 2)
    np.testing.assert_allclose(value(least_squares.generator, real, fake),
                               np.mean((fake - 1) ** 2) / 2)


def test_hinge_is_written_out():
    real, fake = 2 * RNG.normal(size=(2, 20))
    np.testing.assert_allclose(
        value(hinge.discriminator, real, fake),
        np.maximum(0, 1 - real).mean() + np.maximum(0, 1 + fake).mean())
    np.testing.assert_allclose(value(hinge.generator, real, fake), -fake.mean())


def test_smoothed_labels_are_those_of_optax():
    real, fake = 4 * RNG.normal(size=(2, 6))
    ends = [optax.sigmoid_binary_cross_entropy(jnp.asarray(logits), np.full(6, label))
            for logits, label in ((real, 0.9), (fake, 0.))]
    for loss in (minimax, non_saturating):
        gentle = smoothed(loss, 0.1)
        np.testing.assert_allclose(value(gentle.discriminator, real, fake),
                                   sum(end.mean() for end in ends))
        assert gentle.generator is loss.generator
    np.testing.assert_allclose(
        value(smoothed(least_squares, 0.1).discriminator, real, fake),
        (np.mean((real - 0.9) ** 2) + np.mean(fake ** 2)) / 2)


def test_the_optimum_of_smoothed_labels_is_flat():
    optimum = np.log(0.9 * P / (Q + 0.1 * P))
    _, slope = jax.value_and_grad(lambda table: smoothed(
        non_saturating, 0.1).discriminator(table[REAL], table[FAKE]))(optimum)
    np.testing.assert_allclose(slope, np.zeros(3), atol=1e-15)


@pytest.mark.parametrize('loss', (hinge, wasserstein, relativistic))
def test_a_loss_without_labels_smooths_none(loss):
    with pytest.raises(ValueError, match='this loss has none; take minimax'):
        smoothed(loss, 0.1)


@every_loss
def test_players_pull_apart(name):
    """The discriminator raises real and lowers fake logits, the generator raises."""
    real, fake = RNG.uniform(0.1, 0.9, size=(2, 6))
    discriminator, generator = GAN_LOSSES[name]
    _, (to_real, to_fake) = value_and_slopes(discriminator, real, fake)
    _, (unused, up) = value_and_slopes(generator, real, fake)
    assert np.all(to_real < 0) and np.all(to_fake > 0) and np.all(up < 0)
    # Only the relativistic generator is told what real logits are.
    assert np.all(unused > 0) if name == 'relativistic' else np.all(unused == 0)


def test_only_the_minimax_generator_saturates():
    sure = np.full(6, -20.)  # the discriminator is sure that these are fakes
    slopes = {name: abs(value_and_slopes(loss.generator, sure, sure)[1][1].sum())
              for name, loss in GAN_LOSSES.items()}
    assert slopes['minimax'] < 1e-8
    assert slopes['non_saturating'] > 0.99 and slopes['least_squares'] > 0.99


@every_loss
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_finite_at_any_logit(name, dtype):
    logits = np.array([-1e4, -110, -1e-3, 0, 1e-3, 110, 1e4]).astype(dtype)
    for player in GAN_LOSSES[name]:
        loss, slopes = value_and_slopes(player, logits, logits[::-1])
        assert loss.dtype == jnp.float32 and slopes[1].dtype == dtype
        chex.assert_tree_all_finite((loss, slopes))


def generate(params, latent):
    return latent @ params['generator']


def discriminate(params, images):
    return jnp.tanh(images @ params['discriminator']).sum(axis=1)


nets = {'generate': generate, 'discriminate': discriminate, 'latent_size': 2}
PARAMS = {'generator': RNG.normal(size=(2, 5)),
          'discriminator': RNG.normal(size=(5, 3))}
BATCH = RNG.uniform(size=(4, 5))


@pytest.mark.thorough
def test_losses_of_the_blocks_are_written_out(key):
    def losses(params, batch, key):
        return {name: [function(params, batch, key, **nets, loss=loss)
                       for function in (discriminator_loss, generator_loss)]
                for name, loss in GAN_LOSSES.items()}

    arguments = jax.tree.map(jnp.asarray, (PARAMS, BATCH)) + (key,)
    latent = np.asarray(jax.random.normal(key, (4, 2)))
    real = np.asarray(discriminate(PARAMS, BATCH))
    fake = np.asarray(discriminate(PARAMS, generate(PARAMS, latent)))
    for got in (losses(*arguments), jax.jit(losses)(*arguments)):
        for name, (discriminator, generator) in GAN_LOSSES.items():
            expected = [
                (value(discriminator, real, fake), (real.mean(), fake.mean())),
                (value(generator, real, fake), (fake.mean(),))]
            chex.assert_trees_all_close(
                [(scalar, tuple(terms)) for scalar, terms in got[name]], expected,
                rtol=1e-12)


def test_latents_are_standard_normal_in_the_type_of_the_images(key):
    seen = []

    def spy(params, latent):
        seen.append(latent)
        return generate(params, latent)

    single = jax.tree.map(lambda leaf: leaf.astype('float32'), PARAMS)
    scalar, _ = discriminator_loss(single, np.zeros((5000, 5), 'float32'), key,
                                   **nets | {'generate': spy}, loss=minimax)
    (latent,) = map(np.asarray, seen)
    assert latent.dtype == scalar.dtype == np.float32
    error = 1 / np.sqrt(latent.size)
    assert abs(latent.mean()) < 4 * error
    assert abs(latent.var() - 1) < 4 * np.sqrt(2) * error


def test_a_generator_step_does_not_run_the_discriminator_on_real_images(key):
    def by_hand(params, batch, key):
        latent = jax.random.normal(key, (4, 2), batch.dtype)
        fake = discriminate(params, generate(params, latent))
        return non_saturating.generator(jnp.zeros(4), fake), fake.mean()

    def flops(function):
        compiled = jax.jit(function).lower(PARAMS, BATCH, key).compile()
        return compiled.cost_analysis()['flops']

    assert flops(partial(generator_loss, **nets, loss=non_saturating)) == flops(by_hand)
