"""Draws of a block from a distribution with a floor.

    p_b <- floor + (1 - B floor) p_b

so that every block keeps at least the floor, and its estimate does not grow old.
"""

import jax
import jax.numpy as jnp


def check_floor(floor: float, num_blocks: int) -> None:
    """Raise a ValueError if the floors alone are no part of a distribution."""
    if not 0 <= floor * num_blocks <= 1:
        raise ValueError(f'floor is {floor}, which makes {floor * num_blocks:g} over '
                         f'{num_blocks} blocks, and probabilities sum to 1; give a '
                         f'floor of 0 … {1 / num_blocks:g}.')


def draw(key: jax.Array, steps: jax.Array, probabilities: jax.Array,
         floor: float) -> jax.Array:
    """Draw the block of a step: int32[].

    Args:
      key: PRNG key; the step uses `fold_in(key, steps)`.
      steps: int32[].
      probabilities: float[B].
      floor: the least probability of a block.
    """
    raised = floor + (1 - probabilities.size * floor) * probabilities
    index = jax.random.categorical(jax.random.fold_in(key, steps), jnp.log(raised))
    return index.astype(jnp.int32)
