"""A variational autoencoder whose errors are measured by a discriminator: three losses.

With q(z|x) = N(mean, diag exp logvar), x~ a decoded posterior sample, x' a decoded
prior sample, d the discriminator's logits and h its hidden features:

    encoder         beta KL(q(z|x) || N(0, I)) + R
    decoder         gamma R + (L_G(d(x), d(x~)) + L_G(d(x), d(x'))) / 2
    discriminator   (L_D(d(x), d(x~)) + L_D(d(x), d(x'))) / 2 + penalties(d, x, x')

    R = E -log N(h(x); h(x~), I) without its constant = E |h(x) - h(x~)|^2 / 2

so likeness is a matter of what the discriminator looks at, not of pixels. The paper's
GAN loss is the sum over x, x~ and x'; here both kinds of fakes weigh a half each beside
the real ones, so that any loss of `GAN_LOSSES` does. One key gives all three losses the
same two draws of z, so a cycle on one minibatch is the paper's algorithm 1 but for the
blocks' turns: there all three gradients are taken before the first step.

Shapes   B batch, D data axes, Z latent, F features.
Units    nats, R of the unit Gaussian in feature space; summed over dimensions, averaged
         over the batch.
Source   Larsen et al. 2016 (arXiv:1512.09300) eq. 7 to 10, algorithm 1.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cdgm.losses.gan import GanLoss, non_saturating
from cdgm.losses.gan_game import DiscriminatorTerms
from cdgm.losses.inputs import check_equal_shapes, widen
from cdgm.losses.penalties import Penalty
from cdgm.losses.vae import gaussian_kl, sample_latent


class VaeGanNets(NamedTuple):
    """The nets, as functions of {'encoder': ..., 'decoder': ..., 'discriminator': ...}.

    Attributes:
      encode: (params, float32[B, *D]) -> (mean, logvar), float32[B, Z] each.
      decode: (params, float32[B, Z]) -> float32[B, *D].
      discriminate: (params, float32[B, *D]) -> (logits float32[B], features float32[B,
        F]).
    """

    encode: Callable[[Any, jax.Array], tuple[jax.Array, jax.Array]]
    decode: Callable[[Any, jax.Array], jax.Array]
    discriminate: Callable[[Any, jax.Array], tuple[jax.Array, jax.Array]]


class EncoderTerms(NamedTuple):
    """Attributes: the KL, and R, float32[] each."""

    kl: jax.Array
    likeness: jax.Array


class DecoderTerms(NamedTuple):
    """Attributes: R, and the mean logit of both kinds of fakes, float32[] each."""

    likeness: jax.Array
    fake_logit: jax.Array


class _Views(NamedTuple):
    """A step's images as the discriminator sees them, and what they were made of.

    Attributes:
      mean: of the posterior.
      logvar: the same.
      sampled: decoded prior samples.
      real: logits and features of the images.
      rebuilt: of the decoded posterior samples.
      made: of the decoded prior samples.
    """

    mean: jax.Array
    logvar: jax.Array
    sampled: jax.Array
    real: tuple[jax.Array, jax.Array]
    rebuilt: tuple[jax.Array, jax.Array]
    made: tuple[jax.Array, jax.Array]


def vae_gan(nets: VaeGanNets, *, gamma: jax.typing.ArrayLike = 1.,
            beta: jax.typing.ArrayLike = 1., loss: GanLoss = non_saturating,
            penalties: Sequence[Penalty] = ()) -> dict[str, Callable[..., Any]]:
    """Make the losses of the three blocks.

    There is no stop_gradient: block descent differentiates the active block only.

    Args:
      nets: the three.
      gamma: weight of likeness against realism, for the decoder; may be traced.
      beta: weight of the KL, for the encoder; may be traced.
      loss: of the game, such as `non_saturating`.
      penalties: of the discriminator, such as `r1(1.)`, at the images and at decoded
        prior samples.

    Returns:
      {'encoder': ..., 'decoder': ..., 'discriminator': ...}, each (params, batch, key)
      -> (float32[], terms).

    Raises:
      ValueError: a penalty is lazy, which needs a count that these losses do not keep;
        while tracing, if the decoder's images are not of the data's shape.
    """
    penalties = tuple(penalties)
    lazy = [penalty for penalty in penalties if penalty.every > 1]
    if lazy:
        raise ValueError(f'the penalty {lazy[0].name} is computed every '
                         f'{lazy[0].every} steps, and these losses count none; give '
                         'every=1.')

    def encoder(params, batch, key):
        seen = _look(nets, params, batch, key)
        kl = jnp.mean(gaussian_kl(seen.mean, seen.logvar))
        likeness = feature_error(seen.real[1], seen.rebuilt[1])
        return beta * kl + likeness, EncoderTerms(kl, likeness)

    def decoder(params, batch, key):
        seen = _look(nets, params, batch, key)
        likeness = feature_error(seen.real[1], seen.rebuilt[1])
        value = gamma * likeness + _played(loss.generator, seen)
        return value, DecoderTerms(likeness, _fake_logit(seen))

    def discriminator(params, batch, key):
        seen = _look(nets, params, batch, key)
        value = _played(loss.discriminator, seen)
        for index, penalty in enumerate(penalties):
            value += penalty.weight * penalty.value(
                lambda x: nets.discriminate(params, x)[0], batch, seen.sampled,
                jax.random.fold_in(key, index))
        return value, DiscriminatorTerms(jnp.mean(widen(seen.real[0])),
                                         _fake_logit(seen))

    return {'encoder': encoder, 'decoder': decoder, 'discriminator': discriminator}


def feature_error(real: jax.Array, rebuilt: jax.Array) -> jax.Array:
    """Half the squared distance, summed over features, averaged over the batch.

    Args:
      real: float32[B, F].
      rebuilt: of the same shape, row by row the same image's.

    Returns:
      float32[], nats of N(rebuilt, I) at `real`, without the constant F log(2 pi) / 2.

    Raises:
      ValueError: the shapes differ.

    >>> float(feature_error(jnp.array([[3., 4.]]), jnp.zeros((1, 2))))
    12.5
    """
    check_equal_shapes(real=real, rebuilt=rebuilt)
    squares = jnp.square(widen(real) - widen(rebuilt))
    return jnp.mean(jnp.sum(squares, axis=tuple(range(1, squares.ndim)))) / 2


def _look(nets: VaeGanNets, params, batch, key) -> _Views:
    """Encode, decode, and decode a prior sample; what is not used is not computed."""
    posterior, prior = jax.random.split(key)
    mean, logvar = nets.encode(params, batch)
    rebuilt = nets.decode(params, sample_latent(mean, logvar, posterior))
    made = nets.decode(params, jax.random.normal(prior, mean.shape, mean.dtype))
    if rebuilt.shape != batch.shape:
        raise ValueError(f'the decoder makes images of shape {rebuilt.shape[1:]} and '
                         f'the data are {batch.shape[1:]}; give it that shape.')
    return _Views(mean, logvar, made, *(nets.discriminate(params, x)
                                        for x in (batch, rebuilt, made)))


def _played(player, seen: _Views) -> jax.Array:
    return (player(seen.real[0], seen.rebuilt[0])
            + player(seen.real[0], seen.made[0])) / 2


def _fake_logit(seen: _Views) -> jax.Array:
    return (jnp.mean(widen(seen.rebuilt[0])) + jnp.mean(widen(seen.made[0]))) / 2
