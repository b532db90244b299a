"""Gradient share: blocks whose gradients were larger of late are drawn more often.

    G_b <- decay G_b + (1 - decay) ||g_b||^2 / n_b,    p_b ~ exp(sharpness G_b / mean G)

n_b is the number of parameters of block b, so that large blocks are not preferred for
their size. Only blocks that move are measured, which costs nothing; those that have not
moved yet come first. G is divided by its mean, so that the sharpness has no unit.

Source   MISA, NeurIPS 2025, arXiv:2511.00056, equation of the sampling distribution;
         there G is not divided by its mean.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cdgm.selection.rule import SelectionRule, check_at_least


class GradientShareState(NamedTuple):
    """What `gradient_share` carries.

    Attributes:
      steps: int32[], choices made.
      mean_square: float[B], of a block's gradient, a parameter; inf where unknown.
    """

    steps: jax.Array
    mean_square: jax.Array


def gradient_share(sizes: Sequence[int], key: jax.Array, *, sharpness: float = 1.0,
                   decay: float = 0.9) -> SelectionRule:
    """Draw blocks by the size of their gradients when they last moved.

    Args:
      sizes: parameters of each block.
      key: PRNG key; choice t uses `fold_in(key, t)`.
      sharpness: 0 draws uniformly, large values take the largest.
      decay: weight of what was known when a block moves again.

    Raises:
      ValueError: a size or a setting is out of range.

    >>> rule = gradient_share((10, 10), jax.random.key(0))
    >>> block, _ = rule.select(rule.init(), lambda: None)
    >>> int(block) in (0, 1)
    True
    """
    check_at_least('sizes', min(sizes, default=0), 1)
    check_at_least('sharpness', sharpness, 0)
    if not 0 <= decay < 1:
        raise ValueError(f'decay is {decay}; give 0 <= decay < 1.')
    size = jnp.asarray(sizes, float)

    def init():
        return GradientShareState(jnp.zeros((), jnp.int32),
                                  jnp.full(len(sizes), jnp.inf))

    def select(state, grad_norms):
        del grad_norms
        unknown = jnp.isinf(state.mean_square)
        known = jnp.where(unknown, 0, state.mean_square)
        mean = jnp.sum(known) / jnp.maximum(jnp.sum(~unknown), 1)
        logits = jnp.where(unknown.any(), jnp.where(unknown, 0., -jnp.inf),
                           sharpness * known / jnp.where(mean > 0, mean, 1))
        block = jax.random.categorical(jax.random.fold_in(key, state.steps), logits)
        return block.astype(jnp.int32), state

    def observe(state, seen):
        new = jnp.square(seen.grad_norm) / size[seen.block]
        old = state.mean_square[seen.block]
        new = jnp.where(jnp.isinf(old), new, decay * old + (1 - decay) * new)
        # What is not finite has diverged, and tells nothing.
        mean_square = state.mean_square.at[seen.block].set(
            jnp.where(jnp.isfinite(new), new, old))
        return GradientShareState(state.steps + 1, mean_square)

    return SelectionRule(init, select, observe, len(sizes))
