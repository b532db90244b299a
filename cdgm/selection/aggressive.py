"""Aggressive inference training: the encoder first catches up, then the decoder moves.

    round:  inner steps, each on a fresh minibatch, until the mean loss of a window of
            them exceeds that of the window before, or max_inner are taken;
            then one outer step
    until a signal on held-out data falls below its best for the patience-th time; from
    then on an ordinary alternation, for ever

In a VAE the inner block is the encoder, the outer one the decoder, and the signal the
mutual information of data and latent. The choice costs nothing; the signal is measured
by the caller, once an epoch, say.

Sources  He et al. 2019, arXiv:1901.05534, Algorithm 1. Their code takes the outer step
         on the round's first minibatch; here the caller gives each step its own. It
         uses windows of 10 (images) or 15 (text), at most 99 inner steps, and a
         patience of 5 (images) or 1 (text); it moves both blocks jointly afterwards.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from cdgm.schedules import Schedule, sequence
from cdgm.selection.rule import SelectionRule, check_at_least, check_block


class AggressiveState(NamedTuple):
    """What `aggressive` carries.

    Attributes:
      active: bool[], whether it is still aggressive.
      steps: int32[], inner steps in this round; once it is off, steps since.
      outer_next: bool[], whether the round's inner steps are done.
      total: float[], sum of the losses in this window.
      last: float[], mean loss of the window before; inf in the round's first.
      best: float[], best signal; -inf before the first.
      failures: int32[], signals below the best so far, never reset.
    """

    active: jax.Array
    steps: jax.Array
    outer_next: jax.Array
    total: jax.Array
    last: jax.Array
    best: jax.Array
    failures: jax.Array


def aggressive(num_blocks: int, inner: int, outer: int, *, window: int = 10,
               max_inner: int = 99, patience: int = 1,
               then: Schedule | None = None) -> SelectionRule:
    """Take many inner steps for one outer step, while that helps.

    Args:
      num_blocks: how many blocks there are.
      inner: index of the block that catches up (encoder).
      outer: index of the block that then moves once (decoder).
      window: inner steps from one test for progress to the next.
      max_inner: inner steps in a round at most.
      patience: signals below the best, in all, that end it; the step that brings the
        last of them is still an aggressive one.
      then: schedule from there on, counting from 0; inner and outer in turn when left
        out. For joint steps, the caller reads `state.active` and takes
        `descent.simultaneous`.

    Raises:
      ValueError: inner and outer are not two of the blocks, a window is < 1 or longer
        than `max_inner`, `patience` is < 1, or `then` is for other blocks.
    """
    check_block('inner', inner, num_blocks)
    check_block('outer', outer, num_blocks)
    if inner == outer:
        raise ValueError(f'inner and outer are both block {inner}; give two blocks.')
    check_at_least('window', window, 1)
    check_at_least('patience', patience, 1)
    if max_inner < window:
        raise ValueError(f'window is {window}, and max_inner {max_inner} ends every '
                         'round before it; give a shorter window.')
    after = sequence((inner, outer), num_blocks) if then is None else then
    if after.num_blocks != num_blocks:
        raise ValueError(f'then is written for {after.num_blocks} blocks, and the rule '
                         f'for {num_blocks}; write both for the same blocks.')

    def init():
        zero, inf = jnp.zeros((), jnp.int32), jnp.full((), jnp.inf, float)
        return AggressiveState(active=jnp.array(True), steps=zero,
                               outer_next=jnp.array(False), total=jnp.zeros((), float),
                               last=inf, best=-inf, failures=zero)

    def select(state, grad_norms):
        index = jnp.where(state.active, jnp.where(state.outer_next, outer, inner),
                          after(state.steps))
        return index.astype(jnp.int32), state

    def new_round(state):
        start = init()
        return state._replace(steps=start.steps, outer_next=start.outer_next,
                              total=start.total, last=start.last)

    def inner_step(state, loss):
        steps, total = state.steps + 1, state.total + loss
        complete, mean = steps % window == 0, total / window
        return state._replace(
            steps=steps, total=jnp.where(complete, 0.0, total),
            last=jnp.where(complete, mean, state.last),
            outer_next=(complete & (mean > state.last)) | (steps >= max_inner))

    def listen(state, signal, heard):
        failures = state.failures + (heard & (signal < state.best))
        best = jnp.where(heard & (signal > state.best), signal, state.best)
        return state._replace(best=best, failures=failures,
                              active=failures < patience)

    def observe(state, seen):
        heard = listen(state, seen.signal, seen.heard)
        inside = _where(state.outer_next, new_round(heard),
                        inner_step(heard, seen.loss))
        inside = _where(heard.active, inside, new_round(heard))
        outside = state._replace(steps=state.steps + 1)
        return _where(state.active, inside, outside)

    return SelectionRule(init, select, observe, num_blocks)


def _where(condition, yes, no):
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)
