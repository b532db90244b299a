"""Plateau switching: stay on a block until its loss stops improving.

    improved  if  loss < best - threshold,    else one step more without progress

After `patience` such steps, or `max_steps` in all, the next block in the order takes
over, and its best is the first loss that it sees. On noisy minibatches the best is a
lucky one, so patience should be well above one. The choice costs nothing.

Sources  BlockLLM (Ramesh et al. 2024, arXiv:2406.17296) chooses anew when the loss no
         longer falls; the patience is that of early stopping.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from cdgm.selection.rule import SelectionRule, check_at_least


class PlateauState(NamedTuple):
    """What `plateau` carries.

    Attributes:
      block: int32[], the block that moves next.
      steps: int32[], steps in this visit.
      waited: int32[], steps since the loss improved.
      best: float[], lowest loss of this visit.
    """

    block: jax.Array
    steps: jax.Array
    waited: jax.Array
    best: jax.Array


def plateau(num_blocks: int, *, patience: int, threshold: float = 0.0,
            max_steps: int | None = None) -> SelectionRule:
    """Go round the blocks, leaving each when its loss stops improving.

    Args:
      num_blocks: how many blocks there are.
      patience: steps without improvement before the next block takes over.
      threshold: >= 0, what counts as an improvement, in units of the loss.
      max_steps: the longest visit; `None` sets no limit.

    Raises:
      ValueError: `patience` or `max_steps` is not >= 1, or `threshold` is negative.
    """
    check_at_least('patience', patience, 1)
    check_at_least('threshold', threshold, 0)
    if max_steps is not None:
        check_at_least('max_steps', max_steps, 1)

    def arrive(block):
        zero = jnp.zeros((), jnp.int32)
        return PlateauState(block, zero, zero, jnp.full((), jnp.inf, float))

    def init():
        return arrive(jnp.zeros((), jnp.int32))

    def select(state, grad_norms):
        return state.block, state

    def observe(state, seen):
        improved = seen.loss < state.best - threshold
        stay = PlateauState(state.block, state.steps + 1,
                            jnp.where(improved, 0, state.waited + 1),
                            jnp.where(improved, seen.loss, state.best))
        leave = stay.waited >= patience
        if max_steps is not None:
            leave |= stay.steps >= max_steps
        go = arrive((state.block + 1) % num_blocks)
        return jax.tree.map(lambda new, old: jnp.where(leave, new, old), go, stay)

    return SelectionRule(init, select, observe, num_blocks)
