"""How far samples are from data, without a likelihood: maximum mean discrepancy.

    MMD^2 = mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j)
            - 2 mean_{i, j} k(x_i, y_j),      k(a, b) = exp(-|a - b|^2 / (2 sigma^2))

Shapes   x float32[M, D], y float32[N, D]; memory is O((M + N)^2), for a few thousand.
Sources  Gretton et al. 2012 (JMLR 13) eq. 3, unbiased; median heuristic: section 8.
"""

import jax
import jax.numpy as jnp

from cdgm.metrics.distances import centred, square_distances


def mmd2(x, y, bandwidths) -> jax.Array:
    """Unbiased squared maximum mean discrepancy with Gaussian kernels.

    Args:
      x: float32[M, D], M >= 2.
      y: float32[N, D], N >= 2.
      bandwidths: sigma, a number or float32[K]; with K of them, the mean over them,
        which is the discrepancy of the mean kernel.

    Returns:
      float32[], no unit; zero in expectation iff the distributions are equal, and
      negative for about half of the samples when they are.

    Raises:
      ValueError: x and y are not matrices of at least two rows and equal width.

    >>> x = jnp.arange(4.).reshape(4, 1)
    >>> bool(mmd2(x, x + 3, 1.) > mmd2(x, x + 1, 1.))
    True
    """
    x, y = _checked(x, y)
    within_x, within_y, between = (
        square_distances(a, b) for a, b in ((x, x), (y, y), (x, y)))

    def discrepancy(sigma):
        def kernel(square_distances):
            return jnp.exp(-square_distances / (2 * sigma ** 2))
        return (_mean_off_diagonal(kernel(within_x))
                + _mean_off_diagonal(kernel(within_y)) - 2 * jnp.mean(kernel(between)))

    sigmas = jnp.atleast_1d(jnp.asarray(bandwidths, x.dtype))
    return jnp.mean(jax.lax.map(discrepancy, sigmas))


def median_bandwidth(x, y) -> jax.Array:
    """Median distance between two points of the pooled samples, a usual sigma.

    Args:
      x: float32[M, D].
      y: float32[N, D].

    Returns:
      float32[], in the unit of x; zero if more than half of the points coincide.

    Raises:
      ValueError: x and y are not matrices of at least two rows and equal width.

    >>> float(median_bandwidth(jnp.array([[0.], [1.]]), jnp.array([[3.], [7.]])))
    3.5
    """
    pooled = jnp.concatenate(_checked(x, y))
    pairs = jnp.triu_indices(len(pooled), k=1)
    return jnp.median(jnp.sqrt(square_distances(pooled, pooled)[pairs]))


def _checked(x, y):
    x, y = jnp.asarray(x), jnp.asarray(y)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f'x has shape {x.shape} and y {y.shape}; give two matrices '
                         'of equal width, one flattened sample a row.')
    if min(len(x), len(y)) < 2:
        raise ValueError(f'x has {len(x)} rows and y {len(y)}; give each at least two.')
    # Distances do not change, and lose fewer digits near the origin.
    return centred(x, y)


def _mean_off_diagonal(matrix):
    n = len(matrix)
    return (jnp.sum(matrix) - jnp.trace(matrix)) / (n * (n - 1))
