"""A number and its standard error, which every metric reports together.

    error = sqrt(sum_i (v_i - mean)^2 / (n - 1)) / sqrt(n)
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Estimate(NamedTuple):
    """A mean and its standard error, in the unit of the values."""

    mean: jax.Array
    error: jax.Array


def mean_and_error(values) -> Estimate:
    """Mean over the first axis, such as examples or seeds, and its standard error.

    Args:
      values: float32[N, ...], independent along the first axis.

    Returns:
      Estimate of float32[...] each; the error is NaN when N = 1.

    >>> mean, error = mean_and_error(jnp.array([1., 2., 3., 4.]))
    >>> float(mean), round(float(error), 4)
    (2.5, 0.6455)
    """
    values = jnp.asarray(values)
    deviation = jnp.std(values, axis=0, ddof=1)
    return Estimate(jnp.mean(values, axis=0), deviation / len(values) ** 0.5)


class Share(NamedTuple):
    """A share of trials that came out one way.

    Attributes:
      hits: how many did.
      trials: how many there were.
    """

    hits: int
    trials: int

    @property
    def mean(self) -> float:
        """hits / trials."""
        return self.hits / self.trials

    @property
    def error(self) -> float:
        """Standard error, sqrt(p (1 - p) / trials)."""
        return (self.mean * (1 - self.mean) / self.trials) ** 0.5
