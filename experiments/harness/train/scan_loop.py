"""Chunks: several cycles in one compiled loop, with the data on the device.

Minibatches are slices of a fresh permutation every epoch. The random numbers of a cycle
depend on its number alone, so that the length of the chunks does not change a result.

Shapes   N seeds, U updates a cycle, M minibatches an epoch, B batch size.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

import cdgm
from experiments.harness.task import TracedInputs, Task
from experiments.harness.train.block_updates import Cycles
from experiments.harness.train.placement import Placement


class Sums(NamedTuple):
    """What a chunk reports, summed over its updates.

    Attributes:
      count: int32[blocks], updates.
      loss: float[N, blocks].
      aux: block name -> sums of what its loss reports, float[N, ...].
      grad_norm: of the 2-norms of the gradients, float[N, blocks]; None where they are
        not asked for.
    """

    count: jax.Array  # type: ignore[assignment]  # hides tuple.count
    loss: jax.Array
    aux: dict[str, Any]
    grad_norm: jax.Array | None = None


class FirstBad(NamedTuple):
    """Where a seed first went wrong: int32[N]; cycle -1 where it did not.

    A loss is not finite, or, block -1, the move that a block has could not be made.
    """

    cycle: jax.Array
    block: jax.Array


class Carry(NamedTuple):
    """What is handed from call to call.

    Attributes:
      state: of the cycles.
      sums: since they were last cleared.
      bad: the first loss of each seed that was not finite.
    """

    state: Any
    sums: Sums
    bad: FirstBad


class Chunk(NamedTuple):
    """Pure functions that run several cycles.

    Attributes:
      init: (state, examples, TracedInputs[N]) -> Carry.
      run: (Carry, examples, TracedInputs[N], start, stop) -> Carry. The numbers of the
        first and the last cycle are traced, so one program serves all.
    """

    init: Callable[[Any, Any, TracedInputs], Carry]
    run: Callable[..., Carry]


def chunk_of(task: Task, cycles: Cycles, longest: int, grad_norms: bool = False,
             placement: Placement | None = None) -> Chunk:
    """Several cycles in one program, in one call or in many: the bits are the same.

    Args:
      task: what is trained.
      cycles: how.
      longest: cycles in a call at most.
      grad_norms: whether the norms of the gradients are reported.
      placement: how minibatches lie on several devices; on one unless given.
    """
    num_blocks = len(task.blocks)
    size, per_epoch = task.batch_size, task.minibatches_per_epoch
    per_cycle = task.minibatches_per_cycle
    epochs = longest * per_cycle // per_epoch + 2

    def orders(keys, start):
        """Examples of the epochs that a chunk touches, int32[N, epochs, M, B]."""
        touched = start * per_cycle // per_epoch + jnp.arange(epochs)

        def order(key, epoch):
            key = jax.random.fold_in(jax.random.fold_in(key, 1), epoch)
            shuffled = jax.random.permutation(key, task.num_examples)
            return shuffled[:per_epoch * size].reshape(per_epoch, size)

        return jax.vmap(lambda key: jax.vmap(lambda e: order(key, e))(touched))(keys)

    def minibatches(examples, order, key, cycle, start):
        """One seed's minibatches of a cycle and their keys."""
        positions = cycle * per_cycle + jnp.arange(per_cycle)
        epoch = positions // per_epoch - start * per_cycle // per_epoch
        chosen = jax.tree.map(lambda x: x[order[epoch, positions % per_epoch]],
                              examples)
        key = jax.random.fold_in(jax.random.fold_in(key, 2), cycle)
        preparing, noise = jax.random.split(key, (2, per_cycle))
        return jax.vmap(task.prepare)(chosen, preparing), noise

    def one_cycle(state, examples, given, order, cycle, start):
        batches, keys = jax.vmap(
            lambda order, key: minibatches(examples, order, key, cycle, start))(
                order, given.key)
        if placement is not None:
            batches = placement.split_minibatches(batches)
        state, infos = cycles.cycle(state, batches, keys, given)
        if not grad_norms:
            infos = infos._replace(grad_norm=None)
        return state, _sum(infos, num_blocks), _find_bad(infos, cycle)

    def init(state, examples, given):
        def first(state, examples, given):
            start = jnp.zeros((), jnp.int32)
            return one_cycle(state, examples, given, orders(given.key, start), start,
                             start)

        _, sums, bad = jax.eval_shape(first, state, examples, given)
        return Carry(state, _filled(sums, 0), _filled(bad, -1))

    def run(carry, examples, given, start, stop):
        order = orders(given.key, start)

        def body(cycle, carry):
            state, more, found = one_cycle(carry.state, examples, given, order, cycle,
                                           start)
            return Carry(state, jax.tree.map(jnp.add, carry.sums, more),
                         _first(carry.bad, found))

        return lax.fori_loop(start, stop, body, carry)

    return Chunk(init, run)


def _filled(form, value):
    return jax.tree.map(lambda x: jnp.full(x.shape, value, x.dtype), form)


def _sum(infos: cdgm.StepInfo, num_blocks: int) -> Sums:
    moved = jax.nn.one_hot(infos.block, num_blocks, dtype=bool)  # [N, U, blocks]

    def by_block(x):
        return jnp.sum(jnp.where(moved, x[..., None], 0), axis=1)

    return Sums(count=jnp.sum(moved[0], axis=0), loss=by_block(infos.loss),
                aux=jax.tree.map(_sum_of_steps, infos.aux),
                grad_norm=jax.tree.map(by_block, infos.grad_norm))


def _sum_of_steps(x):
    # Of a rule's steps on other blocks a block reports zeros.
    return jnp.sum(x.astype(float), axis=1)


def _find_bad(infos: cdgm.StepInfo, cycle) -> FirstBad:
    bad = ~jnp.isfinite(infos.loss) | (infos.block < 0)  # [N, U]
    block = jnp.take_along_axis(infos.block, jnp.argmax(bad, 1)[:, None], 1)[:, 0]
    return jax.tree.map(
        lambda x: jnp.where(bad.any(1), x, -1).astype(jnp.int32),
        FirstBad(cycle, block))


def _first(earlier: FirstBad, later: FirstBad) -> FirstBad:
    return jax.tree.map(lambda a, b: jnp.where(earlier.cycle < 0, b, a), earlier, later)
