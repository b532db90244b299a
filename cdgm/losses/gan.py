"""Losses of a generative adversarial network: two players, two opposed losses.

With discriminator logits l = logit D (for least squares D = l itself), x real and g
fake, both minimised:

    loss             discriminator                          generator
    minimax          E_x softplus(-l) + E_g softplus(l)     -E_g softplus(l)
    non_saturating   the same                               E_g softplus(-l)
    least_squares    E_x (l - 1)^2 / 2 + E_g l^2 / 2        E_g (l - 1)^2 / 2

since -log D = softplus(-l) and -log(1 - D) = softplus(l). With the optimal l = log p/q
the first discriminator loss is log 4 - 2 JS(p, q).

Shapes   B batch, Z latent; the batches of real and fake logits may differ.
Units    nats (least squares: squared logits), averaged over the batch.
Sources  Goodfellow et al. 2014 (arXiv:1406.2661) eq. 1, theorem 1 and section 3 (non-
         saturating); Mao et al. 2017 (arXiv:1611.04076) eq. 9, labels a = 0, b = c = 1.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cdgm.losses.inputs import widen

LogitsLoss = Callable[[jax.Array, jax.Array], jax.Array]


class GanLoss(NamedTuple):
    """What each player minimises.

    Both functions are (real_logits float32[B], fake_logits float32[B]) -> float32[],
    finite in value and gradient for any finite logits below 1e15. The generator is
    given the real logits as well, which relativistic losses use.

    >>> zeros = jnp.zeros(3)
    >>> [round(float(f(zeros, zeros)), 4) for f in minimax]
    [1.3863, -0.6931]
    """

    discriminator: LogitsLoss
    generator: LogitsLoss


class DiscriminatorTerms(NamedTuple):
    """Attributes: mean logits of the real and of the fake images, float32[] each."""

    real_logit: jax.Array
    fake_logit: jax.Array


class GeneratorTerms(NamedTuple):
    """Attributes: mean logit of the fake images, float32[].

    The real logits are not among them: a step of the generator would have to run the
    discriminator on the real images only to report them.
    """

    fake_logit: jax.Array


def _mean_softplus(logits):
    return jnp.mean(jax.nn.softplus(widen(logits)))


def _half_square(logits, label):
    return jnp.mean(jnp.square(widen(logits) - label)) / 2


def _cross_entropy(real_logits, fake_logits):
    return _mean_softplus(-real_logits) + _mean_softplus(fake_logits)


minimax = GanLoss(
    discriminator=_cross_entropy,
    generator=lambda real_logits, fake_logits: -_mean_softplus(fake_logits))

non_saturating = GanLoss(
    discriminator=_cross_entropy,
    generator=lambda real_logits, fake_logits: _mean_softplus(-fake_logits))

least_squares = GanLoss(
    discriminator=lambda real_logits, fake_logits: (
        _half_square(real_logits, 1) + _half_square(fake_logits, 0)),
    generator=lambda real_logits, fake_logits: _half_square(fake_logits, 1))

GAN_LOSSES = {'minimax': minimax, 'non_saturating': non_saturating,
              'least_squares': least_squares}


def discriminator_loss(
        params, batch, key, *, generate: Callable[[Any, jax.Array], jax.Array],
        discriminate: Callable[[Any, jax.Array], jax.Array], latent_size: int,
        loss: GanLoss) -> tuple[jax.Array, DiscriminatorTerms]:
    """What the discriminator minimises; bind the keywords with `functools.partial`.

    There is no stop_gradient: block descent differentiates the discriminator only, and
    the generator then runs forward alone. Whoever differentiates all of the parameters
    gets the generator's gradient of this loss as well, and must not apply it.

    Args:
      params: {'discriminator': ..., 'generator': ...}; generate and discriminate are
        given all of it.
      batch: float32[B, ...], real images.
      key: PRNG key of the latents, z ~ N(0, I), float32[B, Z].
      generate: (params, latent) -> images.
      discriminate: (params, images) -> logits, float32[B].
      latent_size: Z.
      loss: such as `non_saturating`.

    Returns:
      (float32[], DiscriminatorTerms), averaged over the batch.
    """
    real_logits, fake_logits = _logits(
        params, batch, key, generate, discriminate, latent_size)
    terms = DiscriminatorTerms(jnp.mean(widen(real_logits)),
                               jnp.mean(widen(fake_logits)))
    return loss.discriminator(real_logits, fake_logits), terms


def generator_loss(
        params, batch, key, *, generate: Callable[[Any, jax.Array], jax.Array],
        discriminate: Callable[[Any, jax.Array], jax.Array], latent_size: int,
        loss: GanLoss) -> tuple[jax.Array, GeneratorTerms]:
    """What the generator minimises; arguments as `discriminator_loss` takes them.

    For the losses of this module the value does not depend on the real images, and a
    compiled step does not run the discriminator on them.

    Returns:
      (float32[], GeneratorTerms), averaged over the batch.
    """
    real_logits, fake_logits = _logits(
        params, batch, key, generate, discriminate, latent_size)
    terms = GeneratorTerms(jnp.mean(widen(fake_logits)))
    return loss.generator(real_logits, fake_logits), terms


def _logits(params, batch, key, generate, discriminate, latent_size):
    latent = jax.random.normal(key, (len(batch), latent_size), batch.dtype)
    # Two calls, not one on both batches: the real one can be dropped when unused.
    return (discriminate(params, batch),
            discriminate(params, generate(params, latent)))
