"""What a rule is: a pure state machine that chooses the block of every step.

    index, state = select(state, grad_norms)     before the step
    state = observe(state, seen)                 after it

The state is a pytree of plain arrays. It can be scanned, vmapped and saved through
NumPy, and a rule resumes from it exactly, in the middle of a cycle too. Randomness is
`fold_in(key, steps)` with a key that the rule closes over, as a schedule's is.

Some statistics cost a pass through the model, so they come as functions. A rule calls
them under `lax.cond`, when it needs them; one that never calls them does not pay.

Units    in the cost law of B equal layers a full gradient costs 3B - 1 products of a
         layer, a forward pass B, and the gradient of block i (0-based) alone 2B - i.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cdgm.schedules import Schedule


class StepStats(NamedTuple):
    """What a rule sees of a step; with a seeds axis the mean over the finite seeds.

    Attributes:
      block: int32[], index of the block that moved.
      loss: float[], the block's loss before the move.
      grad_norm: float[], 2-norm of the block's gradient before the move.
      signal: float[], what the caller measured, such as mutual information on held-out
        data (larger is better); 0 in a step that brings none.
      heard: bool[], whether the step brings a signal.
      decrease: () -> float[], by how much the move lowered the block's loss on the
        step's own minibatch and key. Costs one forward pass.
      secant: () -> float[], a lower bound of the block's Lipschitz constant,
        ||g_b(x+) - g_b(x)|| / ||x+ - x||, x+ differing from x in the block alone (its
        riders stay), on the step's own minibatch and key. Costs
        two gradients of the block; inf if it moved too little to tell from rounding.
    """

    block: jax.Array
    loss: jax.Array
    grad_norm: jax.Array
    signal: jax.Array
    heard: jax.Array
    decrease: Callable[[], jax.Array]
    secant: Callable[[], jax.Array]


class SelectionRule(NamedTuple):
    """A stateful choice of block.

    Attributes:
      init: () -> state.
      select: (state, grad_norms) -> (int32[] block index, state). `grad_norms` is a
        function () -> float[B], the 2-norms of all blocks' gradients where the step
        starts; it costs one full gradient.
      observe: (state, StepStats) -> state.
      num_blocks: how many blocks it chooses among.
    """

    init: Callable[[], Any]
    select: Callable[[Any, Callable[[], jax.Array]], tuple[jax.Array, Any]]
    observe: Callable[[Any, StepStats], Any]
    num_blocks: int


def from_schedule(schedule: Schedule) -> SelectionRule:
    """Take a schedule for the rule that it is; its state is int32[], steps taken.

    >>> from cdgm import cyclic
    >>> rule = from_schedule(cyclic((2, 1)))
    >>> index, state = rule.select(jnp.array(5), None)
    >>> int(index), int(rule.observe(state, None))
    (1, 6)
    """
    def init():
        return jnp.zeros((), jnp.int32)

    def select(state, grad_norms):
        return schedule(state), state

    def observe(state, seen):
        return state + 1

    return SelectionRule(init, select, observe, schedule.num_blocks)


def check_at_least(name: str, value: int | float, least: int | float) -> None:
    """Raise a ValueError if an option of a rule is below its least value, or NaN."""
    if not value >= least:
        raise ValueError(f'{name} is {value}; give a number >= {least}.')


def check_block(name: str, index: int, num_blocks: int) -> None:
    """Raise a ValueError if a rule is asked for a block that it does not have."""
    if not 0 <= index < num_blocks:
        raise ValueError(f'{name} is block {index}, and the rule is written for '
                         f'{num_blocks} blocks; give an index 0 … {num_blocks - 1}.')
