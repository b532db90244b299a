"""Running estimates, one a block: exponential means of what is measured now and then.

    v_b <- decay v_b + (1 - decay) x,    v_b <- x the first time

Shapes   values float[B], inf for a block without a measurement (not NaN, so that
         jax_debug_nans stays of use); block int32[].
"""

import jax
import jax.numpy as jnp
from jax import lax


def unknown(num_blocks: int) -> jax.Array:
    """Return float[num_blocks] of inf: nothing is measured yet."""
    return jnp.full(num_blocks, jnp.inf, float)


def measure(values: jax.Array, block: jax.Array, due: jax.Array, probe, decay: float):
    """Update a block's estimate where a measurement is due, or where it has none.

    Args:
      values: float[B].
      block: int32[], the block that moved.
      due: bool[].
      probe: () -> float[], called under a `lax.cond`, so that it costs only then.
      decay: weight of the old estimate.

    Returns:
      float[B]; a measurement that is not finite changes nothing.
    """
    old = values[block]
    known = jnp.isfinite(old)
    new = lax.cond(due | ~known, probe, lambda: jnp.full((), jnp.inf, float))
    measured = jnp.isfinite(new)
    # Where the mean is not taken its terms may be inf, and 0 times inf is NaN.
    before, now = jnp.where(known, old, 0.0), jnp.where(measured, new, 0.0)
    mean = jnp.where(known, decay * before + (1 - decay) * now, now)
    return values.at[block].set(jnp.where(measured, mean, old))


def filled(values: jax.Array) -> jax.Array:
    """Give blocks without a positive estimate the mean of the others; 1 if none has."""
    known = jnp.isfinite(values) & (values > 0)
    mean = jnp.sum(values, where=known) / jnp.maximum(jnp.sum(known), 1)
    return jnp.where(known, values, jnp.where(known.any(), mean, 1.0))
