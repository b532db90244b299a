"""Chunks: several sweeps in one compiled loop, with the data on the device.

Minibatches are slices of a fresh permutation every epoch. The random numbers of a sweep
depend on its number alone, so that the length of the chunks does not change a result.

Shapes   N seeds, U updates a sweep, M minibatches an epoch, B batch size.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

import cdgm
from experiments.block_sweeps import Sweeps
from experiments.study import Given, Study


class Sums(NamedTuple):
    """What a chunk reports, summed over its updates.

    Attributes:
      count: int32[blocks], updates.
      loss: float[N, blocks].
      aux: block name -> sums of what its loss reports, float[N, ...].
    """

    count: jax.Array  # type: ignore[assignment]  # hides tuple.count
    loss: jax.Array
    aux: dict[str, Any]


class FirstBad(NamedTuple):
    """Where a seed's loss was first not finite: int32[N]; sweep -1 where all were."""

    sweep: jax.Array
    block: jax.Array


class Carry(NamedTuple):
    """What is handed from call to call.

    Attributes:
      state: of the sweeps.
      sums: since they were last cleared.
      bad: the first loss of each seed that was not finite.
    """

    state: Any
    sums: Sums
    bad: FirstBad


class Chunk(NamedTuple):
    """Pure functions that run several sweeps.

    Attributes:
      init: (state, images, Given[N]) -> Carry.
      run: (Carry, images, Given[N], start, stop) -> Carry. The numbers of the first and
        the last sweep are traced, so one program serves all.
    """

    init: Callable[[Any, jax.Array, Given], Carry]
    run: Callable[..., Carry]


def chunk_of(study: Study, sweeps: Sweeps, longest: int) -> Chunk:
    """Several sweeps in one program, in one call or in many: the bits are the same.

    Args:
      study: what is trained.
      sweeps: how.
      longest: sweeps in a call at most.
    """
    num_blocks = len(study.blocks)
    size, per_epoch = study.batch_size, study.minibatches_per_epoch
    per_sweep = study.minibatches_per_sweep
    epochs = longest * per_sweep // per_epoch + 2

    def orders(keys, start):
        """Images of the epochs that a chunk touches, int32[N, epochs, M, B]."""
        touched = start * per_sweep // per_epoch + jnp.arange(epochs)

        def order(key, epoch):
            key = jax.random.fold_in(jax.random.fold_in(key, 1), epoch)
            shuffled = jax.random.permutation(key, len(study.images))
            return shuffled[:per_epoch * size].reshape(per_epoch, size)

        return jax.vmap(lambda key: jax.vmap(lambda e: order(key, e))(touched))(keys)

    def minibatches(images, order, key, sweep, start):
        """One seed's minibatches of a sweep and their keys."""
        positions = sweep * per_sweep + jnp.arange(per_sweep)
        epoch = positions // per_epoch - start * per_sweep // per_epoch
        chosen = images[order[epoch, positions % per_epoch]]
        key = jax.random.fold_in(jax.random.fold_in(key, 2), sweep)
        pixels, noise = jax.random.split(key, (2, per_sweep))
        return jax.vmap(study.prepare)(chosen, pixels), noise

    def one_sweep(state, images, given, order, sweep, start):
        batches, keys = jax.vmap(
            lambda order, key: minibatches(images, order, key, sweep, start))(
                order, given.key)
        state, infos = sweeps.sweep(state, batches, keys, given)
        return state, _sum(infos, num_blocks), _find_bad(infos, sweep)

    def init(state, images, given):
        def first(state, images, given):
            start = jnp.zeros((), jnp.int32)
            return one_sweep(state, images, given, orders(given.key, start), start,
                             start)

        _, sums, bad = jax.eval_shape(first, state, images, given)
        return Carry(state, _filled(sums, 0), _filled(bad, -1))

    def run(carry, images, given, start, stop):
        order = orders(given.key, start)

        def body(sweep, carry):
            state, more, found = one_sweep(carry.state, images, given, order, sweep,
                                           start)
            return Carry(state, jax.tree.map(jnp.add, carry.sums, more),
                         _first(carry.bad, found))

        return lax.fori_loop(start, stop, body, carry)

    return Chunk(init, run)


def _filled(form, value):
    return jax.tree.map(lambda x: jnp.full(x.shape, value, x.dtype), form)


def _sum(infos: cdgm.StepInfo, num_blocks: int) -> Sums:
    moved = jax.nn.one_hot(infos.block, num_blocks, dtype=bool)  # [N, U, blocks]
    return Sums(count=jnp.sum(moved[0], axis=0),
                loss=jnp.sum(jnp.where(moved, infos.loss[..., None], 0), axis=1),
                aux=jax.tree.map(lambda x: jnp.nansum(x, axis=1), infos.aux))


def _find_bad(infos: cdgm.StepInfo, sweep) -> FirstBad:
    bad = ~jnp.isfinite(infos.loss)  # [N, U]
    block = jnp.take_along_axis(infos.block, jnp.argmax(bad, 1)[:, None], 1)[:, 0]
    return jax.tree.map(
        lambda x: jnp.where(bad.any(1), x, -1).astype(jnp.int32),
        FirstBad(sweep, block))


def _first(earlier: FirstBad, later: FirstBad) -> FirstBad:
    return jax.tree.map(lambda a, b: jnp.where(earlier.sweep < 0, b, a), earlier, later)
