"""The evidence lower bound of a variational autoencoder.

    -ELBO(x) = E_q(z|x)[-log p(x|z)] + beta KL(q(z|x) || p(z))

with q(z|x) = N(mean, diag exp logvar) and p(z) = N(0, I) unless another prior is given.
The loss is one for both blocks, encoder and decoder: descending it in turns is
coordinate descent (with exact minimisation, EM). `cdgm.losses.wake_sleep` has losses
that differ from block to block, `cdgm.losses.importance` the tighter bounds.

Shapes   B batch, D data axes (such as height, width), Z latent, S samples of z.
Units    nats, summed over the dimensions and averaged over the batch; divide by
         (number of dimensions) ln 2 for bits per dimension.
Sources  Kingma & Welling 2014 (arXiv:1312.6114) eq. 10 and appendix B; beta: Higgins
         et al. 2017 (ICLR) eq. 4; free bits: Kingma et al. 2016 (arXiv:1606.04934)
         eq. 15, with a group for each dimension; warm-up: Bowman et al. 2016
         (arXiv:1511.06349) section 3.1.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cdgm.losses.inputs import check_equal_shapes, widen
from cdgm.losses.likelihoods import bernoulli_log_likelihood


class ElboTerms(NamedTuple):
    """The two terms of -ELBO, in nats, averaged over the batch.

    Attributes:
      reconstruction: float32[], -log p(x|z), averaged over the samples of z.
      kl: float32[], KL(q(z|x) || p(z)), before beta and free bits.
    """

    reconstruction: jax.Array
    kl: jax.Array


def gaussian_kl(mean: jax.Array, logvar: jax.Array) -> jax.Array:
    """KL(N(mean, diag exp logvar) || N(0, I)), summed over all axes but the first.

    Args:
      mean: float32[B, Z].
      logvar: float32[B, Z], log variance (not log standard deviation).

    Returns:
      float32[B], nats, >= 0; zero iff mean = logvar = 0.

    Raises:
      ValueError: the shapes differ.

    >>> gaussian_kl(jnp.array([[0., 0.], [3., 4.]]), jnp.zeros((2, 2))).tolist()
    [0.0, 12.5]
    """
    return _sum_but_first(gaussian_kl_per_dimension(mean, logvar))


def gaussian_kl_per_dimension(mean: jax.Array, logvar: jax.Array) -> jax.Array:
    """The same of each dimension, float32[B, Z], nats, >= 0."""
    check_equal_shapes(mean=mean, logvar=logvar)
    mean, logvar = widen(mean), widen(logvar)
    # expm1: exp(logvar) - 1 - logvar cancels where a latent has collapsed.
    return (jnp.square(mean) + jnp.expm1(logvar) - logvar) / 2


def gaussian_log_density(z: jax.Array, mean: jax.Array, logvar: jax.Array) -> jax.Array:
    """log N(z; mean, diag exp logvar), summed over all axes but the first.

    Args:
      z: float32[B, Z].
      mean: float32[B, Z].
      logvar: float32[B, Z].

    Returns:
      float32[B], nats.

    >>> zeros = jnp.zeros((1, 2))
    >>> round(float(gaussian_log_density(zeros, zeros, zeros)[0]), 4)  # -log 2 pi
    -1.8379
    """
    check_equal_shapes(z=z, mean=mean, logvar=logvar)
    z, mean, logvar = widen(z), widen(mean), widen(logvar)
    return -_sum_but_first(jnp.square(z - mean) * jnp.exp(-logvar) + logvar
                           + math.log(2 * math.pi)) / 2


def standard_normal_log_density(params: Any, latent: jax.Array) -> jax.Array:
    """log N(z; 0, I), float32[B]; a prior without parameters."""
    del params
    zeros = jnp.zeros_like(latent)
    return gaussian_log_density(latent, zeros, zeros)


def sample_latent(mean: jax.Array, logvar: jax.Array, key: jax.Array) -> jax.Array:
    """Draw z ~ N(mean, diag exp logvar), reparameterised: gradients reach both.

    Args:
      mean: float32[..., Z].
      logvar: float32[..., Z].
      key: PRNG key.

    Returns:
      float32[..., Z].
    """
    noise = jax.random.normal(key, jnp.shape(mean), jnp.result_type(mean))
    return mean + jnp.exp(logvar / 2) * noise


def neg_elbo(params: Any, batch: jax.Array, key: jax.Array, *,
             encode: Callable[[Any, jax.Array], tuple[jax.Array, jax.Array]],
             decode: Callable[[Any, jax.Array], Any],
             log_likelihood: Callable[..., jax.Array] = bernoulli_log_likelihood,
             beta=1.0, free_bits=None,
             log_prior: Callable[[Any, jax.Array], jax.Array] | None = None,
             num_samples: int = 1) -> tuple[jax.Array, ElboTerms]:
    """-ELBO, averaged over the batch; bind the keywords with `functools.partial`.

    Args:
      params: {'encoder': ..., 'decoder': ...}; encode, decode and log_prior are given
        all of it.
      batch: float32[B, *D].
      key: PRNG key of the latent noise.
      encode: (params, x) -> (mean, logvar), float32[B, Z] each.
      decode: (params, latent) -> what log_likelihood takes first.
      log_likelihood: (decoded, x) -> float32[B], nats; for a squared error
        `partial(gaussian_log_likelihood, sigma=...)`.
      beta: weight of the KL; may be traced.
      free_bits: nats that each dimension of z may carry unpunished: a dimension whose
        KL, averaged over the batch, is lower counts as this; may be traced. The terms
        that are reported stay the true ones. None for no such thing.
      log_prior: (params, latent) -> log p(z), float32[B]; N(0, I) when left out. The
        KL is in closed form without it, and with it estimated from the samples.
      num_samples: samples of z for each example, over which the reconstruction (and
        the KL, where it is estimated) is averaged.

    Returns:
      (float32[], ElboTerms), nats: reconstruction + beta kl.

    Raises:
      ValueError: num_samples is not positive, or free bits meet a prior of its own,
        whose KL has no dimensions.
    """
    if num_samples < 1:
        raise ValueError(f'num_samples is {num_samples}; draw at least one.')
    if free_bits is not None and log_prior is not None:
        raise ValueError('free_bits is a share of every dimension of the KL, and with '
                         'log_prior the KL has no dimensions; leave one of them out.')
    mean, logvar = encode(params, batch)
    means, logvars = _copies(mean, num_samples), _copies(logvar, num_samples)
    latent = sample_latent(means, logvars, key)
    log_p = log_likelihood(decode(params, latent), _copies(batch, num_samples))
    if log_prior is None:
        kl = jnp.mean(gaussian_kl(mean, logvar))
    else:
        kl = jnp.mean(gaussian_log_density(latent, means, logvars)
                      - log_prior(params, latent))
    punished = kl if free_bits is None else jnp.sum(jnp.maximum(
        free_bits, jnp.mean(gaussian_kl_per_dimension(mean, logvar), axis=0)))
    terms = ElboTerms(-jnp.mean(log_p), kl)
    return terms.reconstruction + beta * punished, terms


def annealed(loss: Callable[..., tuple[jax.Array, Any]], clock: str = 'updates',
             **schedules: Callable[[jax.Array], jax.Array]) -> Callable[..., Any]:
    """Let arguments of a loss follow schedules, such as beta that of a KL warm-up.

    The count is a part of the model state, `{clock: int32[]}`, so it is in every
    checkpoint, and what counts is the updates of the blocks that descend this loss. A
    block with another loss (the decoder's gradient does not see the KL) hands the
    state on: give it an `annealed` without schedules and without a clock.

    Args:
      loss: (params, batch, key, **arguments) -> (scalar, aux).
      clock: entry of the model state that is counted; '' counts nothing.
      **schedules: argument -> optax schedule, count -> value, such as
        `beta=optax.linear_schedule(0., 1., 1000)`.

    Returns:
      (params, model_state, batch, key) -> (scalar, (aux, model_state)).

    >>> import optax
    >>> def loss(params, batch, key, beta):
    ...     return beta * params, None
    >>> warm = annealed(loss, beta=optax.linear_schedule(0., 1., 4))
    >>> value, (_, state) = warm(1., {'updates': jnp.array(2)}, None, None)
    >>> float(value), int(state['updates'])
    (0.5, 3)
    """
    def with_state(params, model_state, batch, key):
        values = {name: schedule(model_state[clock])
                  for name, schedule in schedules.items()}
        value, aux = loss(params, batch, key, **values)
        after = ({**model_state, clock: model_state[clock] + 1} if clock
                 else model_state)
        return value, (aux, after)

    return with_state


def _copies(array, count):
    """The batch again and again, [count B, ...]; one copy is the array itself."""
    return jax.tree.map(lambda leaf: jnp.broadcast_to(
        leaf, (count, *leaf.shape)).reshape(-1, *leaf.shape[1:]), array)


def _sum_but_first(array):
    return jnp.sum(array, axis=tuple(range(1, array.ndim)))
