"""Importance sampling: blocks of large curvature are drawn more often.

    p_b = L_b^power / sum_c L_c^power

With steps 1/L_b, power 1 replaces the worst constant in random coordinate descent's
rate by the mean one; 1/2 is the accelerated method's; 0 is uniform. Where the constants
are known, `uniform(num_blocks, key, probabilities)` is all that is needed.

Cost     A secant takes two gradients of the active block. It is measured every R steps
         and the first time that a block moves: 2 / R more block gradients a step.
Sources  Nesterov 2012, SIAM J. Optim. 22(2), 341-362 (the powers 0 … 1); Leventhal &
         Lewis 2010 (power 1); Allen-Zhu et al. 2016, arXiv:1512.09103 (power 1/2).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from cdgm.selection import estimates
from cdgm.selection.rule import SelectionRule, check_at_least
from cdgm.selection.sampling import check_floor, draw


class ImportanceState(NamedTuple):
    """What `importance` carries.

    Attributes:
      steps: int32[], steps taken.
      lipschitz: float[B], estimated constants; inf where none is measured yet.
    """

    steps: jax.Array
    lipschitz: jax.Array


def importance(num_blocks: int, key: jax.Array, *, power: float = 1.0,
               refresh: int = 10, decay: float = 0.9,
               floor: float = 0.0) -> SelectionRule:
    """Draw blocks with probability proportional to a power of their constants.

    A block without an estimate counts as an average one.

    Args:
      num_blocks: how many blocks there are.
      key: PRNG key; step t uses `fold_in(key, t)`.
      power: of the estimated constants; 0 draws uniformly.
      refresh: R, steps from one measurement to the next.
      decay: weight of the old estimate when a secant is measured.
      floor: the least probability of a block.

    Raises:
      ValueError: `refresh` is not >= 1, or the floors sum to more than one.
    """
    check_at_least('refresh', refresh, 1)
    check_floor(floor, num_blocks)

    def init():
        return ImportanceState(jnp.zeros((), jnp.int32), estimates.unknown(num_blocks))

    def select(state, grad_norms):
        logits = power * jnp.log(estimates.filled(state.lipschitz))
        return draw(key, state.steps, jax.nn.softmax(logits), floor), state

    def observe(state, seen):
        lipschitz = estimates.measure(state.lipschitz, seen.block,
                                      state.steps % refresh == 0, seen.secant, decay)
        return ImportanceState(state.steps + 1, lipschitz)

    return SelectionRule(init, select, observe, num_blocks)
