"""Greedy choice: the Gauss-Southwell rule on the norms of the blocks' gradients.

    GS     argmax_b ||g_b||
    GSL    argmax_b ||g_b||^2 / L_b

A step 1/L_b on block b lowers the loss by at least ||g_b||^2 / (2 L_b), so GSL takes
the step with the best guarantee. On a quadratic with scalar blocks the guarantee is an
equality, and GSL takes the best step there is.

Cost     All norms at once cost a full gradient, 3B - 1 products of a layer for B equal
         layers. They are refreshed every R steps; in between, a block that moves renews
         its own norm for nothing, and the others keep theirs. On average a step costs
         (3B - 1) / R more than a scheduled one. Estimated constants add two gradients
         of the active block in a refreshing step, and the first time a block moves.
Sources  Nutini et al. 2015, arXiv:1506.00552: GS and GSL, and their rates.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cdgm.selection import estimates
from cdgm.selection.rule import SelectionRule, check_at_least


class GaussSouthwellState(NamedTuple):
    """What `gauss_southwell` carries.

    Attributes:
      steps: int32[], steps taken.
      norms: float[B], the last known 2-norm of each block's gradient.
      lipschitz: float[B], constants as given or estimated (inf: not yet measured); ones
        for plain GS.
    """

    steps: jax.Array
    norms: jax.Array
    lipschitz: jax.Array


def gauss_southwell(
        num_blocks: int, *, refresh: int,
        lipschitz: Sequence[float] | Literal['estimated'] | None = None,
        decay: float = 0.9) -> SelectionRule:
    """Choose the block with the largest gradient.

    Gradients of blocks with different losses are compared as they are. Ties go to the
    first block.

    Args:
      num_blocks: how many blocks there are.
      refresh: R, steps from one exact refresh of all norms to the next; 1 is the
        textbook rule, at the cost of a full gradient every step.
      lipschitz: L_b > 0 of each block, for GSL; 'estimated' takes them from secants;
        `None` for GS.
      decay: weight of the old estimate when a secant is measured.

    Raises:
      ValueError: `refresh` is not >= 1, or the constants are not one positive number a
        block.

    >>> rule = gauss_southwell(3, refresh=1, lipschitz=(1.0, 9.0, 1.0))
    >>> index, state = rule.select(rule.init(), lambda: jnp.array([1.0, 4.0, 2.0]))
    >>> int(index)
    2
    """
    check_at_least('refresh', refresh, 1)
    estimated = isinstance(lipschitz, str)
    constants = _constants(lipschitz, num_blocks)

    def init():
        return GaussSouthwellState(jnp.zeros((), jnp.int32),
                                   jnp.zeros(num_blocks, float),
                                   jnp.asarray(constants, float))

    def select(state, grad_norms):
        norms = lax.cond(state.steps % refresh == 0, grad_norms, lambda: state.norms)
        constants = state.lipschitz
        if estimated:
            constants = estimates.filled(constants)
        # The root of GSL's score orders the blocks alike, and underflows later.
        score = norms / jnp.sqrt(constants)
        return jnp.argmax(score).astype(jnp.int32), state._replace(norms=norms)

    def observe(state, seen):
        constants = state.lipschitz
        if estimated:
            constants = estimates.measure(constants, seen.block,
                                          state.steps % refresh == 0, seen.secant,
                                          decay)
        norms = state.norms.at[seen.block].set(seen.grad_norm)
        return GaussSouthwellState(state.steps + 1, norms, constants)

    return SelectionRule(init, select, observe, num_blocks)


def _constants(lipschitz, num_blocks: int) -> np.ndarray:
    """Start of the constants: given, not yet measured, or ones for plain GS."""
    if lipschitz is None:
        return np.ones(num_blocks)
    if isinstance(lipschitz, str):
        values = np.full(num_blocks, np.inf)
        valid = lipschitz == 'estimated'
    else:
        values = np.asarray(lipschitz, float)
        valid = values.shape == (num_blocks,) and bool((values > 0).all())
    if not valid:
        raise ValueError(f'lipschitz is {lipschitz!r}; give one number > 0 for each of '
                         f"the {num_blocks} blocks, 'estimated' or None.")
    return values
