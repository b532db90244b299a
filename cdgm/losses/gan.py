"""Losses of a generative adversarial network: two players, two opposed losses.

With discriminator logits l = logit D (for least squares D = l itself), x real and g
fake, both minimised:

    loss             discriminator                          generator
    minimax          E_x softplus(-l) + E_g softplus(l)     -E_g softplus(l)
    non_saturating   the same                               E_g softplus(-l)
    least_squares    E_x (l - 1)^2 / 2 + E_g l^2 / 2        E_g (l - 1)^2 / 2
    hinge            E_x max(0, 1 - l) + E_g max(0, 1 + l)  -E_g l

since -log D = softplus(-l) and -log(1 - D) = softplus(l). With the optimal l = log p/q
the first discriminator loss is log 4 - 2 JS(p, q).

Shapes   B batch, Z latent; the batches of real and fake logits may differ.
Units    nats (least squares: squared logits; hinge: logits), averaged over the batch.
Sources  Goodfellow et al. 2014 (arXiv:1406.2661) eq. 1, theorem 1 and section 3 (non-
         saturating); Mao et al. 2017 (arXiv:1611.04076) eq. 9, labels a = 0, b = c = 1;
         Miyato et al. 2018 (arXiv:1802.05957) eqs. 16 and 17 (hinge); Salimans et al.
         2016 (arXiv:1606.03498) section 3.4 (one-sided smoothing of labels).
"""

from collections.abc import Callable
from typing import NamedTuple

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


def _mean_softplus(logits):
    return jnp.mean(jax.nn.softplus(widen(logits)))


def _half_square(logits, label):
    return jnp.mean(jnp.square(widen(logits) - label)) / 2


def _mean_hinge(logits):
    return jnp.mean(jax.nn.relu(1 - widen(logits)))


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

hinge = GanLoss(
    discriminator=lambda real_logits, fake_logits: (
        _mean_hinge(real_logits) + _mean_hinge(-fake_logits)),
    generator=lambda real_logits, fake_logits: -jnp.mean(widen(fake_logits)))


def smoothed(loss: GanLoss, amount: jax.typing.ArrayLike) -> GanLoss:
    """Tell the discriminator that real images are real by 1 - amount, no more.

    The labels of fake images stay 0, for the optimum would otherwise depend on where
    fakes are (one-sided smoothing). With cross-entropy it moves to
    l = log((1 - amount) p / (q + amount p)).

    Args:
      loss: `minimax`, `non_saturating` or `least_squares`.
      amount: float in [0, 1), such as 0.1; may be traced.

    Raises:
      ValueError: the loss has no labels.

    >>> zeros = jnp.zeros(3)
    >>> round(float(smoothed(least_squares, 0.5).discriminator(zeros, zeros)), 4)
    0.125
    """
    if loss.discriminator is _cross_entropy:
        # (1 - a) softplus(-l) + a softplus(l) = softplus(-l) + a l
        def discriminator(real_logits, fake_logits):
            return (_cross_entropy(real_logits, fake_logits)
                    + amount * jnp.mean(widen(real_logits)))
    elif loss is least_squares:
        def discriminator(real_logits, fake_logits):
            return (_half_square(real_logits, 1 - amount)
                    + _half_square(fake_logits, 0))
    else:
        raise ValueError('smoothing changes the labels of real images, and this loss '
                         'has none; take minimax, non_saturating or least_squares, or '
                         'smooth by 0.')
    return GanLoss(discriminator, loss.generator)
