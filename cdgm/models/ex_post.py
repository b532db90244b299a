"""A density on the codes of a trained autoencoder, in place of its prior.

    q(z | c) = mean over x of class c of N(z; mean(x), diag exp logvar(x))
             ~ N(z; m_c, S_c),   its mean and its covariance

A decoder knows the codes that the encoder sends; where those leave much of the prior
empty, samples of the prior are noise. To sample where the codes are needs no training:
the moments are known.

Shapes   N codes, Z latent, C classes (one where there are none).
Source   Ghosh et al. 2020 (arXiv:1903.12436) section 4 (ex-post density estimation).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

# Of the variance, so that a latent that has collapsed to a point has a root.
_FLOOR = 1e-6


class CodeDensity(NamedTuple):
    """A Gaussian for each class.

    Attributes:
      mean: float32[C, Z].
      root: float32[C, Z, Z], lower triangular, root root' is the covariance.
    """

    mean: jax.Array
    root: jax.Array


def fit_codes(mean: jax.Array, logvar: jax.Array, labels, num_classes: int
              ) -> CodeDensity:
    """Match the first two moments of the codes of each class.

    Args:
      mean, logvar: float32[N, Z] each, of the encoder.
      labels: int32[N], or None with num_classes = 0.
      num_classes: C; 0 takes all codes together.
    """
    if not num_classes:
        labels, num_classes = jnp.zeros(len(mean), jnp.int32), 1
    share = jax.nn.one_hot(labels, num_classes, dtype=mean.dtype)
    share = share / jnp.maximum(share.sum(axis=0, keepdims=True), 1)  # [N, C]
    centre = share.T @ mean
    spread = share.T @ jnp.exp(logvar) + _FLOOR
    apart = mean[:, None] - centre[None]  # [N, C, Z]
    covariance = jnp.einsum('nc,ncy,ncz->cyz', share, apart, apart)
    return CodeDensity(centre, jnp.linalg.cholesky(
        covariance + jax.vmap(jnp.diag)(spread)))


def sample_codes(density: CodeDensity, labels, key: jax.Array, count: int) -> jax.Array:
    """Draw codes.

    Args:
      density: of `fit_codes`.
      labels: int32[count], the classes to draw of; None for the only one.
      key: PRNG key.
      count: how many.

    Returns:
      float32[count, Z].
    """
    chosen = jnp.zeros(count, jnp.int32) if labels is None else labels
    noise = jax.random.normal(key, (count, density.mean.shape[1]), density.mean.dtype)
    return density.mean[chosen] + jnp.einsum('nyz,nz->ny', density.root[chosen], noise)
