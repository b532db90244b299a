"""Likelihoods p(x|z) of what a decoder gives: log densities of one example each.

    bernoulli     sum_d x_d l_d - softplus(l_d)                         x in [0, 1]
    gaussian      -sum_d (x_d - m_d)^2 / (2 s^2) + log s + log(2 pi) / 2  x real
    logistic      sum_d log(F((x_d + h - m_d) / s) - F((x_d - h - m_d) / s))
                  x_d = i / (L - 1), h = 1 / (2 (L - 1)), F the logistic function; the
                  outermost levels take the tails, so that it sums to one over the L
    categorical   sum_d l_{d, x_d} - logsumexp_k l_{d, k}             x in 0 ... K - 1

They are `(decoded, x) -> floating[B]`, as `neg_elbo` takes them; `decoded` is what the
decoder returns, so a scale that is learned is a part of it. `check_support` says before
training whether data are what a likelihood is a law of.

Shapes   B batch, D data axes, K categories, L levels.
Units    nats, summed over all axes but the first. That of a density changes with the
         unit of x; bits per dimension compare only likelihoods of the same discrete x.
Sources  Kingma & Welling 2014 (arXiv:1312.6114) appendix C; discretised logistic:
         Kingma et al. 2016 (arXiv:1606.04934) appendix A, Salimans et al. 2017
         (arXiv:1701.05517) eq. 2; one learned sigma: Rybkin et al. 2021
         (arXiv:2006.13202) eq. 5.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cdgm.losses.inputs import check_equal_shapes, widen


def bernoulli_log_likelihood(logits: jax.Array, x: jax.Array) -> jax.Array:
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


def gaussian_log_likelihood(mean: jax.Array, x: jax.Array, sigma: Any) -> jax.Array:
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


def learned_gaussian_log_likelihood(decoded: Any, x: jax.Array) -> jax.Array:
    """log N(x; mean, sigma^2 I) with the sigma that the decoder gives.

    Args:
      decoded: (mean float32[B, *D], log sigma: a scalar or of the rank of x).
      x: float32[B, *D].

    Returns:
      float32[B], nats. It has no upper bound: with a mean that meets the data a sigma
      of its own for every pixel goes to zero, so share one.

    >>> log_p = learned_gaussian_log_likelihood(
    ...     (jnp.zeros((1, 1)), jnp.zeros(())), jnp.ones((1, 1)))
    >>> round(float(log_p[0]), 4)
    -1.4189
    """
    mean, log_sigma = decoded
    check_equal_shapes(mean=mean, x=x)
    error = widen(x) - widen(mean)
    return -_sum_but_first(jnp.square(error * jnp.exp(-log_sigma)) / 2
                           + log_sigma + math.log(2 * math.pi) / 2)


def logistic_log_likelihood(decoded: Any, x: jax.Array, levels: int = 256) -> jax.Array:
    """log of the mass that a logistic density has within half a level around x.

    Args:
      decoded: (mean float32[B, *D], log scale: a scalar or of the rank of x).
      x: float32[B, *D], multiples of 1 / (levels - 1) in [0, 1].
      levels: L, values that a pixel can have.

    Returns:
      float32[B], nats, <= 0; finite for any finite mean.

    Raises:
      ValueError: the shapes of mean and x differ, or there are fewer than two levels.

    >>> x = jnp.array([[0.], [0.5], [1.]])
    >>> log_p = logistic_log_likelihood((jnp.full((3, 1), 0.3), jnp.zeros(())), x, 3)
    >>> round(float(jnp.exp(log_p).sum()), 6)
    1.0
    """
    mean, log_scale = decoded
    check_equal_shapes(mean=mean, x=x)
    if levels < 2:
        raise ValueError(f'levels is {levels}; a pixel has at least two.')
    half, x = 0.5 / (levels - 1), widen(x)
    inverse = jnp.exp(-log_scale)
    centre = (x - widen(mean)) * inverse
    upper, lower = centre + half * inverse, centre - half * inverse
    # F(a) - F(b) = F(a) F(-b) (1 - exp(b - a)): no difference of nearly equal numbers.
    log_upper = jnp.where(x > 1 - half, 0, -jax.nn.softplus(-upper))
    log_lower = jnp.where(x < half, 0, -jax.nn.softplus(lower))
    inside = (x >= half) & (x <= 1 - half)
    gap = jnp.where(inside, jnp.log(-jnp.expm1(-2 * half * inverse)), 0)
    return _sum_but_first(log_upper + log_lower + gap)


def categorical_log_likelihood(logits: jax.Array, x: jax.Array, mask: Any = None
                               ) -> jax.Array:
    """log Categorical(x; softmax(logits)), summed over all axes of x but the first.

    Args:
      logits: float32[B, *D, K].
      x: int32[B, *D], in 0 ... K - 1.
      mask: bool[B, *D], which positions count, such as those before a sentence's end;
        all of them when left out.

    Returns:
      float32[B], nats, <= 0.

    Raises:
      ValueError: the shapes differ.

    >>> log_p = categorical_log_likelihood(jnp.zeros((1, 2, 4)), jnp.array([[0, 3]]))
    >>> round(float(log_p[0]), 4)  # 2 log 1/4
    -2.7726
    """
    check_equal_shapes(**{'logits[..., 0]': logits[..., 0], 'x': x},
                       **({} if mask is None else {'mask': mask}))
    log_p = jnp.take_along_axis(
        jax.nn.log_softmax(widen(logits)), x[..., None], axis=-1)[..., 0]
    return _sum_but_first(log_p if mask is None else jnp.where(mask, log_p, 0))


class Likelihood(NamedTuple):
    """A likelihood, and which data it is a law of.

    Attributes:
      log_likelihood: (decoded, x) -> floating[B], nats.
      support: in words.
      contains: NumPy array -> bool array, which values it can have.
      remedy: what to do about data outside.
    """

    log_likelihood: Callable[..., jax.Array]
    support: str
    contains: Callable[[Any], Any]
    remedy: str


LIKELIHOODS = {
    'bernoulli': Likelihood(
        bernoulli_log_likelihood, 'values in [0, 1]', lambda x: (x >= 0) & (x <= 1),
        'scale the pixels by their white value, or take another likelihood'),
    'binary': Likelihood(
        bernoulli_log_likelihood, 'zeros and ones', lambda x: (x == 0) | (x == 1),
        'binarise grey images (cdgm.data.binarize): the cross-entropy of grey pixels '
        'is no log likelihood'),
    'gaussian': Likelihood(
        gaussian_log_likelihood, 'finite numbers', np.isfinite,
        'remove what is not a number'),
    'logistic': Likelihood(
        logistic_log_likelihood, 'multiples of 1/255 in [0, 1]',
        lambda x: (x >= 0) & (x <= 1) & (np.abs(255 * x - np.round(255 * x)) < 1e-3),
        'give 8-bit pixels over 255, or the number of levels that they have'),
    'categorical': Likelihood(
        categorical_log_likelihood, 'whole numbers >= 0',
        lambda x: (x >= 0) & (x == np.round(x)), 'give indices into a vocabulary')}


def check_support(name: str, x: Any) -> None:
    """Raise a ValueError unless the data are what the likelihood is a law of.

    Args:
      name: a key of `LIKELIHOODS`.
      x: the data, a concrete array.

    >>> check_support('binary', np.array([0., 0.5]))
    Traceback (most recent call last):
        ...
    ValueError: the binary likelihood is of zeros and ones, and 1 of 2 values are not, \
such as 0.5; binarise grey images (cdgm.data.binarize): the cross-entropy of grey \
pixels is no log likelihood.
    """
    if name not in LIKELIHOODS:
        raise ValueError(f'unknown likelihood {name!r}; there are '
                         f'{", ".join(LIKELIHOODS)}.')
    likelihood, x = LIKELIHOODS[name], np.asarray(x)
    outside = x[~likelihood.contains(x)]
    if outside.size:
        raise ValueError(f'the {name} likelihood is of {likelihood.support}, and '
                         f'{outside.size} of {x.size} values are not, such as '
                         f'{outside.flat[0]:.6g}; {likelihood.remedy}.')


def _sum_but_first(array):
    return jnp.sum(array, axis=tuple(range(1, array.ndim)))
