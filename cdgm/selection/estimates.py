"""Running estimates, one a block: exponential means of what is measured now and then.

    v_b <- decay v_b + (1 - decay) x,    v_b <- x the first time

Shapes   values float[B], NaN for a block without a measurement; block int32[].
"""

import jax
import jax.numpy as jnp
from jax import lax


def unknown(num_blocks: int) -> jax.Array:
    """Return float[num_blocks] of NaN: nothing is measured yet."""
    return jnp.full(num_blocks, jnp.nan, float)


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
    new = lax.cond(due | jnp.isnan(old), probe, lambda: jnp.full((), jnp.nan, float))
    mean = jnp.where(jnp.isnan(old), new, decay * old + (1 - decay) * new)
    return values.at[block].set(jnp.where(jnp.isfinite(new), mean, old))


def filled(values: jax.Array) -> jax.Array:
    """Give blocks without a positive estimate the mean of the others; 1 if none has."""
    known = values > 0
    mean = jnp.mean(values, where=known)
    return jnp.where(known, values, jnp.where(known.any(), mean, 1.0))
