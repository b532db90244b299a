"""The Frechet distance between two clouds of points, taken for Gaussians.

    d^2 = |m - n|^2 + tr A + tr B - 2 tr (A^1/2 B A^1/2)^1/2

with means m, n and covariances A, B. On the features of an Inception network it is
known as FID; on another network's features it is another number, and comparable only
with the same network and the same numbers of points: it is biased, upwards, the more
the fewer they are.

Both roots are of symmetric matrices, by their eigenvalues, of which those that are
rounding count as zero: nothing can become complex, as the root of A B may.

Sources  Dowson & Landau 1982, J. Multivariate Anal. 12(3) eq. 4; Heusel et al. 2017
         (arXiv:1706.08500).
"""

import jax
import jax.numpy as jnp


def frechet_distance(x: jax.Array, y: jax.Array) -> jax.Array:
    """Squared Frechet distance.

    Args:
      x: float32[M, D], M >= 2; fewer than D are no trouble, but for the bias.
      y: float32[N, D], N >= 2.

    Returns:
      float32[], in squared units of x; >= 0 to rounding.

    Raises:
      ValueError: x and y are not matrices of at least two rows and equal width.

    >>> x = jnp.array([[0., 0.], [2., 0.], [0., 2.], [2., 2.]])
    >>> round(float(frechet_distance(x, x + jnp.array([[3., 4.]]))), 3)
    25.0
    """
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(
            len(x), len(y)) < 2:
        raise ValueError(f'x has shape {x.shape} and y {y.shape}; give two matrices '
                         'of equal width and two or more rows, one point a row.')
    mean = [jnp.mean(a, axis=0) for a in (x, y)]
    a, b = (_covariance(points) for points in (x, y))
    values, vectors = jnp.linalg.eigh(a)
    root = (vectors * _roots(values)[None]) @ vectors.T
    cross = jnp.linalg.eigvalsh(root @ b @ root)
    return (jnp.sum(jnp.square(mean[0] - mean[1])) + jnp.trace(a) + jnp.trace(b)
            - 2 * jnp.sum(_roots(cross)))


def _roots(values: jax.Array) -> jax.Array:
    """Square roots of eigenvalues; zero of rounding, whose root would not be small."""
    noise = len(values) * jnp.finfo(values.dtype).eps * jnp.max(jnp.abs(values))
    return jnp.sqrt(jnp.where(values > noise, values, 0))


def _covariance(points: jax.Array) -> jax.Array:
    apart = points - jnp.mean(points, axis=0, keepdims=True)
    return jnp.matmul(apart.T, apart, precision='highest') / (len(points) - 1)
