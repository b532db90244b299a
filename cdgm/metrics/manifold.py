"""Precision, recall, density and coverage: fidelity and variety told apart.

With B(x) the ball around x that reaches to its k-th nearest neighbour of its own kind,
real x_i (N of them) and samples y_j (M of them),

    precision = share of samples y_j in any B(x_i)
    recall    = share of real x_i in any B(y_j)
    density   = mean_j (number of balls B(x_i) that hold y_j) / k
    coverage  = share of real x_i whose ball B(x_i) holds any y_j

Two sets of one law have a density of 1 and a coverage of 1 - (k-th share), 0.97 for
k = 5; one real point far off spoils precision and recall, and not the other two. They
depend on N and M: compare at equal ones.

Shapes   features float32[N, D]; memory is O(N^2 + M^2 + N M), for a few thousand.
Sources  Kynkaanniemi et al. 2019 (arXiv:1904.06991) eq. 1-2; Naeem et al. 2020
         (arXiv:2002.09797) eq. 3 and 5. The numbers are those of their package prdc.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from cdgm.metrics.distances import centred, square_distances


class Manifold(NamedTuple):
    """float32[] each, in [0, 1] but the density, which may exceed 1."""

    precision: jax.Array
    recall: jax.Array
    density: jax.Array
    coverage: jax.Array


def precision_recall_density_coverage(
        real: jax.Array, samples: jax.Array, neighbours: int = 5) -> Manifold:
    """Compare samples with real points.

    Args:
      real: float32[N, D], features.
      samples: float32[M, D].
      neighbours: k.

    Raises:
      ValueError: N or M is not larger than k.
    """
    if min(len(real), len(samples)) <= neighbours:
        raise ValueError(f'there are {len(real)} real points and {len(samples)} '
                         f'samples; give more than neighbours={neighbours} of each.')
    real, samples = centred(real, samples)
    real_radii, sample_radii = (_radii(points, neighbours)
                                for points in (real, samples))
    apart = square_distances(real, samples)  # [N, M]
    inside = apart < real_radii[:, None]
    return Manifold(
        precision=jnp.mean(inside.any(axis=0)),
        recall=jnp.mean((apart < sample_radii[None]).any(axis=1)),
        density=jnp.mean(inside.sum(axis=0)) / neighbours,
        coverage=jnp.mean(apart.min(axis=1) < real_radii))


def nearest_distances(samples: jax.Array, train: jax.Array) -> jax.Array:
    """Distance of each sample to the nearest training example: zero is a copy.

    Set beside the same of test examples, it tells learning from memorising.

    Args:
      samples: float32[M, D].
      train: float32[N, D].

    Returns:
      float32[M], in the unit of x.

    >>> nearest_distances(jnp.array([[3., 4.]]), jnp.zeros((2, 2))).tolist()
    [5.0]
    """
    train, samples = centred(train, samples)
    return jnp.sqrt(square_distances(samples, train).min(axis=1))


def _radii(points: jax.Array, neighbours: int) -> jax.Array:
    """Squared distance of each point to its k-th nearest other, float32[N]."""
    squares = square_distances(points, points)
    # Rounding may leave a point at some distance from itself.
    squares = jnp.where(jnp.eye(len(points), dtype=bool), 0, squares)
    return -jax.lax.top_k(-squares, neighbours + 1)[0][:, -1]
