"""A bandit on what a step on each block gained, per unit of what it cost.

    v_b <- decay v_b + (1 - decay) (loss before - loss after) / cost_b
    p_b  = floor + (1 - B floor) [b = argmax v]

The gain is taken on the step's own minibatch and key. The difference of two consecutive
steps' losses would be free, but between two minibatches noise hides what one step
gains. What a step gains on its own minibatch is an optimistic figure for all blocks
alike.

Cost     One forward pass every R steps, and the first time that a block moves.
Sources  Salehi, Thiran & Celis 2018, arXiv:1712.03010: the greedy choice by the last
         known decrease, mixed with uniform draws.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cdgm.selection import estimates
from cdgm.selection.rule import SelectionRule, check_at_least
from cdgm.selection.sampling import check_floor, draw


class BanditState(NamedTuple):
    """What `bandit` carries.

    Attributes:
      steps: int32[], steps taken.
      gains: float[B], decrease of the loss per unit cost; inf where none is measured.
    """

    steps: jax.Array
    gains: jax.Array


def bandit(costs: Sequence[float], key: jax.Array, *, floor: float = 0.05,
           decay: float = 0.9, refresh: int = 1) -> SelectionRule:
    """Choose the block whose steps gained most per unit cost.

    A block without a measurement counts as the best. Gains are of each block's own
    loss, so they compare blocks of one loss; the players of a game have no common unit.

    Args:
      costs: float[B] > 0, relative cost of a step on each block.
      key: PRNG key; step t uses `fold_in(key, t)`.
      floor: the least probability of a block.
      decay: weight of the old gain when a new one is measured.
      refresh: R, steps from one measurement to the next.

    Raises:
      ValueError: a cost is not positive, `refresh` is not >= 1, or the floors sum to
        more than one.
    """
    each = np.asarray(costs, float)
    if each.ndim != 1 or not each.size or not (each > 0).all():
        raise ValueError(f'costs are {costs!r}; give one number > 0 a block.')
    check_at_least('refresh', refresh, 1)
    check_floor(floor, each.size)

    def init():
        return BanditState(jnp.zeros((), jnp.int32), estimates.unknown(each.size))

    def select(state, grad_norms):
        best = jax.nn.one_hot(jnp.argmax(state.gains), each.size, dtype=float)
        return draw(key, state.steps, best, floor), state

    def observe(state, seen):
        def gain():
            return seen.decrease() / jnp.asarray(each, float)[seen.block]

        gains = estimates.measure(state.gains, seen.block, state.steps % refresh == 0,
                                  gain, decay)
        return BanditState(state.steps + 1, gains)

    return SelectionRule(init, select, observe, each.size)
