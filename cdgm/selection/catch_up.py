"""Catching up: extra inner steps while a signal says that the inner block lags.

    lagging      extra inner steps, then one outer step
    otherwise    one of each in turn
    lagging  =   the last signal that was heard is below `least`

In a VAE the inner block is the encoder, the outer one the decoder, and the signal minus
the amortisation gap, relative to the KL, say: the gap is what encoder steps reduce,
and a decoder that moves ahead of its encoder lets the posterior collapse. Unlike
`aggressive` it comes back when the encoder falls behind again, and takes no more steps
than it is told. The choice costs nothing; the signal is measured by the caller.

Sources  Cremer et al. 2018 (arXiv:1801.03558) eq. 5 (the gap); He et al. 2019
         (arXiv:1901.05534) (inner steps first); the rule itself is ours.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from cdgm.selection.rule import SelectionRule, check_at_least, check_block


class CatchUpState(NamedTuple):
    """What `catch_up` carries.

    Attributes:
      lagging: bool[], whether the inner block takes extra steps.
      steps: int32[], steps in this round.
    """

    lagging: jax.Array
    steps: jax.Array


def catch_up(num_blocks: int, inner: int, outer: int, *, least: float, extra: int = 5,
             lagging: bool = True) -> SelectionRule:
    """Take extra inner steps for each outer one while the signal is low.

    Args:
      num_blocks: how many blocks there are.
      inner: index of the block that may lag (encoder).
      outer: index of the other (decoder).
      least: the signal below which it lags.
      extra: inner steps in a round while it does.
      lagging: what holds until the first signal.

    Raises:
      ValueError: inner and outer are not two of the blocks, or extra is < 1.
    """
    check_block('inner', inner, num_blocks)
    check_block('outer', outer, num_blocks)
    if inner == outer:
        raise ValueError(f'inner and outer are both block {inner}; give two blocks.')
    check_at_least('extra', extra, 1)

    def init():
        return CatchUpState(jnp.array(lagging), jnp.zeros((), jnp.int32))

    def inner_steps(state):
        return jnp.where(state.lagging, extra, 1)

    def select(state, grad_norms):
        index = jnp.where(state.steps < inner_steps(state), inner, outer)
        return index.astype(jnp.int32), state

    def observe(state, seen):
        over = state.steps >= inner_steps(state)  # that was the outer step
        return CatchUpState(
            jnp.where(seen.heard, seen.signal < least, state.lagging),
            jnp.where(over, 0, state.steps + 1))

    return SelectionRule(init, select, observe, num_blocks)
