"""Proximal maps of one coordinate: what a penalty without a derivative does to a step.

    prox(value, step) = argmin_u  h(u) + (u - value)^2 / (2 step)

Each maker below takes the penalty h's constants, which may be traced, and returns prox,
a function of floating arrays of any one shape; it acts on each entry by itself.

Units    a penalty is in the units of the loss; step is 1 / (loss per entry squared).
Sources  Parikh & Boyd 2014, Proximal algorithms, sections 6.1 (box) and 6.5 (l1,
         elastic net); Wright 2015 (arXiv:1502.04759), section 4.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

# (value, step) -> value; floating arrays of one shape.
Prox = Callable[[jax.Array, jax.Array], jax.Array]


def soft_threshold(weight: ArrayLike) -> Prox:
    """Penalise with h(u) = weight |u|: the lasso. Small entries become exactly +0.0.

    >>> prox = soft_threshold(0.5)
    >>> print(prox(jnp.array([-2.0, -0.75, 3.0]), 2.0))
    [-1.  0.  2.]
    """
    def prox(value, step):
        # Not sign(value) * max(|value| - t, 0), which makes -0.0 of small negatives.
        return value - jnp.clip(value, -step * weight, step * weight)

    return prox


def elastic_net(l1: ArrayLike, l2: ArrayLike) -> Prox:
    """Penalise with h(u) = l1 |u| + l2 u^2 / 2.

    scikit-learn's `ElasticNet(alpha, l1_ratio)` has l1 = alpha l1_ratio and
    l2 = alpha (1 - l1_ratio).

    >>> prox = elastic_net(l1=0.5, l2=0.5)
    >>> print(prox(jnp.array([-2.0, -0.75, 3.0]), 2.0))
    [-0.5  0.   1. ]
    """
    threshold = soft_threshold(l1)

    def prox(value, step):
        return threshold(value, step) / (1 + step * l2)

    return prox


def box(lower: ArrayLike, upper: ArrayLike) -> Prox:
    """Constrain to lower <= u <= upper; the bounds are reached exactly.

    >>> print(box(0.0, 1.0)(jnp.array([-2.0, 0.5, 3.0]), 2.0))
    [0.  0.5 1. ]
    """
    def prox(value, step):
        return optax.projections.projection_box(value, lower, upper)

    return prox
