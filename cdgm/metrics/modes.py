"""Which modes of a known mixture samples reach, and how evenly.

A sample belongs to the mode whose centre is nearest, and is of high quality within
three standard deviations of it; of N samples n_k are of high quality and of mode k:

    captured       number of k with n_k >= 1
    high_quality   sum_k n_k / N
    reverse_kl     KL(p || uniform) = log K - H(p),  p_k = n_k / sum_j n_j     nats

In the plane the data themselves have 1 - exp(-9/2) = 98.9 % of high quality. Without a
sample of high quality p is nowhere; the divergence is then set to its largest value,
log K, that of a single mode.

Shapes   N samples, K modes, D dimensions.
Sources  Srivastava et al. 2017 (arXiv:1705.07761) section 4.1 (modes, three standard
         deviations); Lin et al. 2018 (arXiv:1712.04086) section 4.1 (at least one
         sample; reverse KL). Errors: binomial; bootstrap, Efron 1979.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from cdgm.metrics.estimate import Estimate

_CHUNK = 4096  # samples whose distances to all modes are held at a time


class ModeScores(NamedTuple):
    """Samples compared with a mixture; errors are those of drawing N samples.

    Attributes:
      captured: modes with a sample of high quality, 0 to K; bootstrap error.
      high_quality: share of the samples, 0 to 1; binomial error.
      reverse_kl: nats, 0 to log K; biased by about (K - 1) / 2N; bootstrap error.
      counts: int32[K], samples of high quality of each mode.
    """

    captured: Estimate
    high_quality: Estimate
    reverse_kl: Estimate
    counts: jax.Array


def mode_scores(samples: jax.Array, centres: jax.Array, std: float, key: jax.Array, *,
                radius: float = 3., resamples: int = 100) -> ModeScores:
    """Count the modes that samples reach.

    Args:
      samples: float32[N, D]; one that is not finite is of low quality.
      centres: float32[K, D].
      std: of a mode in every direction.
      key: PRNG key of the bootstrap; the numbers themselves do not depend on it.
      radius: in standard deviations, up to which a sample is of high quality.
      resamples: of the bootstrap, at least two.

    Raises:
      ValueError: the shapes do not match, or there are too few resamples.

    >>> centres = jnp.array([[0., 0.], [1., 0.]])
    >>> samples = jnp.array([[0., 0.], [0.01, 0.], [1., 0.02], [0.5, 0.]])
    >>> scores = mode_scores(samples, centres, 0.01, jax.random.key(0))
    >>> int(scores.captured.mean), float(scores.high_quality.mean)
    (2, 0.75)
    """
    samples, centres = jnp.asarray(samples), jnp.asarray(centres)
    if samples.ndim != 2 or centres.ndim != 2 or (
            samples.shape[1] != centres.shape[1]) or not len(samples):
        raise ValueError(f'samples are {samples.shape} and centres {centres.shape}; '
                         'give [N, D] and [K, D], N >= 1.')
    if resamples < 2:
        raise ValueError(f'resamples is {resamples}; give two at least.')
    number, modes = len(samples), len(centres)
    assigned = assign_modes(samples, centres, radius * std)

    def redraw(key):
        chosen = assigned[jax.random.randint(key, (number,), 0, number)]
        return _captured_and_kl(_count(chosen, modes))

    counts = _count(assigned, modes)
    captured, divergence = _captured_and_kl(counts)
    redrawn = jax.lax.map(redraw, jax.random.split(key, resamples))
    share = jnp.sum(counts) / number
    return ModeScores(
        Estimate(captured, jnp.std(redrawn[0].astype(float), ddof=1)),
        Estimate(share, jnp.sqrt(share * (1 - share) / number)),
        Estimate(divergence, jnp.std(redrawn[1], ddof=1)), counts)


def assign_modes(samples: jax.Array, centres: jax.Array, reach: float) -> jax.Array:
    """Find the mode of each sample.

    Args:
      samples: float32[N, D].
      centres: float32[K, D].
      reach: distance up to which a sample belongs to its nearest mode.

    Returns:
      int32[N], the index of the mode, or K of a sample that is beyond reach.
    """
    def nearest(sample):
        # Differences, not products: a mode is narrow beside its distance from zero.
        squares = jnp.sum(jnp.square(sample[None] - centres), axis=1)
        mode = jnp.argmin(squares)
        return jnp.where(squares[mode] <= reach ** 2, mode, len(centres))

    return jax.lax.map(nearest, samples, batch_size=_CHUNK).astype(jnp.int32)


def reverse_kl(counts: jax.Array) -> jax.Array:
    """KL of a histogram over modes to the uniform distribution.

    Args:
      counts: int or float[K], >= 0.

    Returns:
      float[], nats: log K where all counts are zero.

    >>> round(float(reverse_kl(jnp.array([1, 1, 0, 0]))), 4)
    0.6931
    """
    share = counts / jnp.maximum(jnp.sum(counts), 1)
    return jnp.log(float(len(counts))) + jnp.sum(jax.scipy.special.xlogy(share, share))


def _captured_and_kl(counts):
    return jnp.sum(counts > 0), reverse_kl(counts)


def _count(assigned, modes):
    return jnp.bincount(assigned, length=modes + 1)[:modes]
