"""Schedules: count -> block, as `optax.Schedule` is count -> value.

A schedule is a pure function of the number of steps taken, so it needs no state, may be
traced, scanned and stored as a flag, and resumes anywhere. It knows how many blocks it
was written for, because `lax.switch` would silently clamp an index beyond them.

Shapes   count int32[] >= 0; a schedule returns int32[], 0 <= index < num_blocks.
Sources  Order: Sun & Ye 2019 (arXiv:1604.07130) show that a fixed cyclic order can be
         n^2 / (4 pi^2) slower than a random one; Lee & Wright 2019 (arXiv:1607.08320)
         that a fresh permutation every cycle cures it.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)  # `jax.jit` cannot take a callable tuple
class Schedule:
    """A choice of block by the number of steps taken.

    Attributes:
      select: int32[] count -> int32[] block index.
      num_blocks: how many blocks it chooses among.
      period: steps in a cycle, after which every block has had its visits (for
        `uniform`, in expectation).
    """

    select: Callable[[jax.Array], jax.Array]
    num_blocks: int
    period: int

    def __call__(self, count) -> jax.Array:
        return self.select(jnp.asarray(count, jnp.int32))


def _checked_visits(visits: Sequence[int]) -> np.ndarray:
    counts = np.asarray(visits)
    if (counts.ndim != 1 or not np.issubdtype(counts.dtype, np.integer)
            or (counts < 0).any() or not counts.any()):
        raise ValueError(f'visits per block are {visits!r}; give one whole number >= 0 '
                         'a block, as in (5, 1), not all of them 0.')
    return counts.astype(np.int32)


def cyclic(visits: Sequence[int]) -> Schedule:
    """Visit the blocks in their order, each a fixed number of steps.

    Args:
      visits: steps per block and cycle; 0 freezes a block.

    Raises:
      ValueError: the visits are not whole numbers >= 0, or all of them 0.

    >>> five_to_one = cyclic((5, 1))
    >>> [int(five_to_one(count)) for count in range(8)]
    [0, 0, 0, 0, 0, 1, 0, 0]
    """
    counts = _checked_visits(visits)
    return sequence(np.repeat(np.arange(counts.size), counts).tolist(), counts.size)


def sequence(indices: Sequence[int], num_blocks: int) -> Schedule:
    """Repeat a fixed sequence of block indices, which may visit a block twice.

    Raises:
      ValueError: the sequence is empty or names a block that there is not.

    >>> symmetric = sequence((0, 1, 2, 1), num_blocks=3)
    >>> [int(symmetric(count)) for count in range(5)]
    [0, 1, 2, 1, 0]
    """
    if not set(indices) or not set(indices) <= set(range(num_blocks)):
        raise ValueError(f'sequence is {tuple(indices)}; give at least one block, each '
                         f'a whole number 0 … {num_blocks - 1}.')

    def select(count):
        return jnp.asarray(indices, jnp.int32)[count % len(indices)]

    return Schedule(select, num_blocks, len(indices))


def shuffled(visits: Sequence[int], key: jax.Array) -> Schedule:
    """Visit the blocks in a fresh random order every cycle.

    Args:
      visits: steps per block and cycle.
      key: PRNG key; cycle s uses `fold_in(key, s)`, so the order does not depend on
        history.

    Raises:
      ValueError: as `cyclic`.

    >>> schedule = shuffled((1, 1, 1), jax.random.key(0))
    >>> [sorted(int(schedule(3 * s + i)) for i in range(3)) for s in range(2)]
    [[0, 1, 2], [0, 1, 2]]
    """
    counts = _checked_visits(visits)
    period = int(counts.sum())

    def select(count):
        cycle, position = count // period, count % period
        order = jax.random.permutation(jax.random.fold_in(key, cycle),
                                       jnp.arange(counts.size, dtype=jnp.int32))
        ends = jnp.cumsum(jnp.asarray(counts)[order], dtype=jnp.int32)
        return order[jnp.sum(position >= ends)]

    return Schedule(select, counts.size, period)


def uniform(num_blocks: int, key: jax.Array,
            probabilities: Sequence[float] | None = None) -> Schedule:
    """Draw every step's block independently.

    Args:
      num_blocks: how many blocks there are.
      key: PRNG key; step `count` uses `fold_in(key, count)`.
      probabilities: float[num_blocks], >= 0, summing to one; equal when left out.

    Raises:
      ValueError: the probabilities are not a distribution over the blocks.
    """
    weights = np.full(num_blocks, 1 / max(num_blocks, 1))
    if probabilities is not None:
        weights = np.asarray(probabilities, float)
    if weights.shape != (num_blocks,) or (weights < 0).any():
        raise ValueError(f'probabilities are {probabilities!r}; give one number >= 0 '
                         f'for each of the {num_blocks} blocks.')
    if not math.isclose(weights.sum(), 1, abs_tol=1e-6):
        raise ValueError(f'probabilities {probabilities!r} sum to {weights.sum():g}, '
                         'not to 1; divide them by their sum.')
    with np.errstate(divide='ignore'):
        # In one width, so that the draws do not depend on whether float64 is on.
        logits = np.log(weights).astype(np.float32)

    def select(count):
        draw = jax.random.categorical(jax.random.fold_in(key, count), logits)
        return draw.astype(jnp.int32)

    return Schedule(select, num_blocks, num_blocks)


def phases(parts: Sequence[tuple[Schedule, int | None]]) -> Schedule:
    """Follow one schedule after another.

    Args:
      parts: (schedule, steps) pairs; the last one's steps are `None`, for ever. Each
        schedule counts from the start of its phase.

    Raises:
      ValueError: the parts are written for different numbers of blocks, or only the
        last one's length is not open.

    >>> warm_up = phases([(cyclic((1, 0)), 3), (cyclic((1, 1)), None)])
    >>> [int(warm_up(count)) for count in range(7)]
    [0, 0, 0, 0, 1, 0, 1]
    """
    schedules = [schedule for schedule, _ in parts]
    lengths = [steps for _, steps in parts]
    if not parts or lengths[-1] is not None or not all(
            steps is not None and steps > 0 for steps in lengths[:-1]):
        raise ValueError(f'phase lengths are {lengths}; give each a number of steps '
                         '> 0, and None to the last.')
    sizes = {schedule.num_blocks for schedule in schedules}
    if len(sizes) > 1:
        raise ValueError(f'phases are written for {sorted(sizes)} blocks; write all of '
                         'them for the same blocks.')
    starts = [0, *itertools.accumulate(lengths[:-1])]

    def select(count):
        phase = jnp.sum(count >= jnp.asarray(starts)) - 1
        # A schedule sees no negative count; its value is not used before its start.
        indices = [s(jnp.maximum(count - a, 0)) for s, a in zip(schedules, starts)]
        return jnp.stack(indices)[phase]

    return Schedule(select, sizes.pop(), schedules[-1].period)


def check_num_blocks(choice: Any, names: Sequence[str]) -> None:
    """Raise a ValueError if a schedule or rule is written for other blocks."""
    if choice.num_blocks != len(names):
        listed = ', '.join(repr(name) for name in names)
        raise ValueError(
            f'the {type(choice).__name__.lower()} is written for {choice.num_blocks} '
            f'blocks, and there are {len(names)}: {listed}. Give it one entry a block.')
