"""Squared Euclidean distances between all rows of two matrices."""

import jax
import jax.numpy as jnp


def square_distances(x: jax.Array, y: jax.Array) -> jax.Array:
    """|x_i - y_j|^2 of all pairs; memory is O(M N + (M + N) D).

    Args:
      x: float32[M, D]; near the origin fewer digits are lost.
      y: float32[N, D].

    Returns:
      float32[M, N], >= 0.

    >>> square_distances(jnp.zeros((1, 2)), jnp.array([[3., 4.]])).tolist()
    [[25.0]]
    """
    norms = [jnp.sum(jnp.square(a), axis=1) for a in (x, y)]
    # Devices that multiply in fewer bits by default would lose small distances.
    products = jnp.matmul(x, y.T, precision='highest')
    return jnp.maximum(norms[0][:, None] + norms[1][None] - 2 * products, 0)


def centred(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Move both so that the mean of x is the origin, which leaves all distances."""
    centre = jnp.mean(x, axis=0, keepdims=True)
    return x - centre, y - centre
