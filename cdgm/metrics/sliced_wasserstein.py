"""How far samples are from data along random directions: the sliced Wasserstein
distance.

    SW_p^p(x, y) = E_u W_p^p(u'x, u'y),   u uniform on the sphere
    W_p^p(a, b)  = integral_0^1 |A(q) - B(q)|^p dq,   A, B the quantile functions

On a line the best transport pairs the sorted values, so it costs a sort.

Shapes   x float32[M, D], y float32[N, D]; P projections, one held at a time.
Sources  Bonneel et al. 2015 (JMIV 51) section 3; Kolouri et al. 2019
         (arXiv:1902.00434) eq. 9.
"""

import jax
import jax.numpy as jnp

from cdgm.metrics.estimate import Estimate, mean_and_error


def sliced_wasserstein(x: jax.Array, y: jax.Array, key: jax.Array, *,
                       projections: int = 128, order: float = 2.) -> Estimate:
    """Sliced Wasserstein distance of two samples, over random directions.

    Args:
      x: float32[M, D].
      y: float32[N, D]; M and N may differ.
      key: PRNG key of the directions; one key, one set of directions.
      projections: P >= 2.
      order: p >= 1.

    Returns:
      Estimate in the unit of x; the error is that of the directions alone.

    Raises:
      ValueError: x and y are not matrices of equal width, or P or p is too small.

    >>> x = jnp.arange(6.).reshape(3, 2)
    >>> float(sliced_wasserstein(x, x, jax.random.key(0)).mean)
    0.0
    """
    x, y = jnp.asarray(x), jnp.asarray(y)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f'x has shape {x.shape} and y {y.shape}; give two matrices '
                         'of equal width, one flattened sample a row.')
    if projections < 2 or not order >= 1:
        raise ValueError(f'projections is {projections} and order {order}; give two '
                         'projections at least, and an order of at least one.')
    powers = jax.lax.map(lambda u: wasserstein_power(x @ u, y @ u, order),
                         directions(key, projections, x.shape[1], x.dtype))
    mean, error = mean_and_error(powers)
    distance = mean ** (1 / order)
    # The derivative of the root; where the distance is zero, so is every direction's.
    slope = jnp.where(mean > 0, distance / (order * jnp.where(mean > 0, mean, 1)), 0)
    return Estimate(distance, slope * error)


def directions(key: jax.Array, count: int, size: int, dtype=jnp.float32) -> jax.Array:
    """Draw unit vectors, float[count, size], uniform on the sphere."""
    normal = jax.random.normal(key, (count, size), dtype)
    return normal / jnp.linalg.norm(normal, axis=1, keepdims=True)


def wasserstein_power(a: jax.Array, b: jax.Array, order: float) -> jax.Array:
    """W_p^p of two samples on a line.

    Args:
      a: float[M].
      b: float[N].
      order: p.

    >>> float(wasserstein_power(jnp.array([0., 1.]), jnp.array([3.]), 1.))
    2.5
    """
    a, b = jnp.sort(a), jnp.sort(b)
    if len(a) == len(b):
        return jnp.mean(jnp.abs(a - b) ** order)
    # Both quantile functions are constant between neighbours of these levels, counted
    # in units of 1 / (M N), which are exact.
    ends = jnp.sort(jnp.concatenate([jnp.arange(1, len(a) + 1) * len(b),
                                     jnp.arange(1, len(b) + 1) * len(a)]))
    starts = jnp.concatenate([jnp.zeros(1, ends.dtype), ends[:-1]])
    gaps = jnp.abs(a[jnp.minimum(starts // len(b), len(a) - 1)]
                   - b[jnp.minimum(starts // len(a), len(b) - 1)]) ** order
    return jnp.sum(gaps * (ends - starts)) / (len(a) * len(b))
