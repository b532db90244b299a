"""The evidence lower bound of a variational autoencoder.

    -ELBO(x) = E_q(z|x)[-log p(x|z)] + beta KL(q(z|x) || N(0, I))

with q(z|x) = N(mean, diag exp logvar). The loss is one for both blocks, encoder and
decoder: descending it in turns is coordinate descent (with exact minimisation, EM).

Shapes   B batch, D data axes (such as height, width), Z latent, S samples of z.
Units    nats, summed over the dimensions and averaged over the batch; divide by
         (number of dimensions) ln 2 for bits per dimension.
Sources  Kingma & Welling 2014 (arXiv:1312.6114) eq. 10 and appendix B; beta: Higgins
         et al. 2017 (ICLR) eq. 4.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cdgm.losses.inputs import check_equal_shapes, widen


class ElboTerms(NamedTuple):
    """The two terms of -ELBO, in nats, averaged over the batch.

    Attributes:
      reconstruction: float32[], -log p(x|z), averaged over the samples of z.
      kl: float32[], KL(q(z|x) || N(0, I)), before beta.
    """

    reconstruction: jax.Array
    kl: jax.Array


def gaussian_kl(mean, logvar) -> jax.Array:
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
    check_equal_shapes(mean=mean, logvar=logvar)
    mean, logvar = widen(mean), widen(logvar)
    # expm1: exp(logvar) - 1 - logvar cancels where a latent has collapsed.
    return _sum_but_first(jnp.square(mean) + jnp.expm1(logvar) - logvar) / 2


def bernoulli_log_likelihood(logits, x) -> jax.Array:
    """log Bernoulli(x; sigmoid(logits)), summed over all axes but the first.

    Args:
      logits: float32[B, *D]; finite in value and gradient whatever they are.
      x: float32[B, *D] in [0, 1]. Strictly between 0 and 1 it is a cross-entropy, not
        the logarithm of a density: its integral over x is not one.

    Returns:
      float32[B], nats, <= 0.

    Raises:
      ValueError: the shapes differ.

    >>> log_p = bernoulli_log_likelihood(jnp.zeros((1, 2)), jnp.ones((1, 2)))
    >>> round(float(log_p[0]), 4)  # 2 log 1/2
    -1.3863
    """
    check_equal_shapes(logits=logits, x=x)
    logits, x = widen(logits), widen(x)
    # One softplus a pixel; the logarithm of a sigmoid by hand is NaN beyond about 104.
    return _sum_but_first(x * logits - jax.nn.softplus(logits))


def gaussian_log_likelihood(mean, x, sigma) -> jax.Array:
    """log N(x; mean, sigma^2 I), summed over all axes but the first.

    Args:
      mean: float32[B, *D].
      x: float32[B, *D].
      sigma: standard deviation > 0, a scalar or of the rank of x. A squared error is
        this with some sigma, and -ELBO means nothing until it is said which one.

    Returns:
      float32[B], nats, with the constant -log(sigma sqrt(2 pi)) of every dimension.

    Raises:
      ValueError: the shapes of mean and x differ.

    >>> log_p = gaussian_log_likelihood(jnp.zeros((1, 1)), jnp.ones((1, 1)), sigma=1.0)
    >>> round(float(log_p[0]), 4)  # -(1 + log 2 pi) / 2
    -1.4189
    """
    check_equal_shapes(mean=mean, x=x)
    standardised = (widen(x) - widen(mean)) / sigma
    constant = jnp.log(sigma) + math.log(2 * math.pi) / 2
    return -_sum_but_first(jnp.square(standardised) / 2 + constant)


def sample_latent(mean, logvar, key) -> jax.Array:
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


def neg_elbo(params, batch, key, *,
             encode: Callable[[Any, jax.Array], tuple[jax.Array, jax.Array]],
             decode: Callable[[Any, jax.Array], jax.Array],
             log_likelihood: Callable[..., jax.Array] = bernoulli_log_likelihood,
             beta=1.0, num_samples: int = 1) -> tuple[jax.Array, ElboTerms]:
    """-ELBO, averaged over the batch; bind the keywords with `functools.partial`.

    Args:
      params: {'encoder': ..., 'decoder': ...}; encode and decode are given all of it.
      batch: float32[B, *D].
      key: PRNG key of the latent noise.
      encode: (params, x) -> (mean, logvar), float32[B, Z] each.
      decode: (params, latent) -> the logits or means that log_likelihood takes.
      log_likelihood: (decoded, x) -> float32[B], nats; for a squared error
        `partial(gaussian_log_likelihood, sigma=...)`.
      beta: weight of the KL; may be traced.
      num_samples: samples of z for each example, over which the reconstruction is
        averaged.

    Returns:
      (float32[], ElboTerms), nats: reconstruction + beta kl.

    Raises:
      ValueError: num_samples is not positive.
    """
    if num_samples < 1:
        raise ValueError(f'num_samples is {num_samples}; draw at least one.')
    mean, logvar = encode(params, batch)
    latent = sample_latent(
        _copies(mean, num_samples), _copies(logvar, num_samples), key)
    log_p = log_likelihood(decode(params, latent), _copies(batch, num_samples))
    terms = ElboTerms(-jnp.mean(log_p), jnp.mean(gaussian_kl(mean, logvar)))
    return terms.reconstruction + beta * terms.kl, terms


def _copies(array, count):
    """The batch again and again, [count B, ...]; one copy is the array itself."""
    copies = jnp.broadcast_to(array, (count, *array.shape))
    return copies.reshape(-1, *array.shape[1:])


def _sum_but_first(array):
    return jnp.sum(array, axis=tuple(range(1, array.ndim)))
