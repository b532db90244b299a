"""Train any descent: sweeps in compiled chunks, several seeds side by side.

The data stay on the device, a chunk is one loop in one program, and the seeds are a
vmapped axis of it. The choice of block is made outside that axis, so that a rule's
stays a conditional and not every branch. The numbers do not depend on the length of the
chunks, which only says how often something is reported.

Shapes   S seeds, U updates a sweep, N images, M minibatches an epoch, B batch size.
"""

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import cdgm
from experiments.costs import flops_of_program
from experiments.launch import DivergedError
from experiments.progress import Progress
from experiments.run_folder import RunFolder
from experiments.settings import Order

# A run writes about so many rows of metrics, whatever its length.
_ROWS = 100


class Study(NamedTuple):
    """What is trained, and on what.

    Attributes:
      init: key -> params.
      descent: the blocks.
      order: how they take turns.
      images: float32[N, ...], the training data.
      prepare: (float32[B, ...], key) -> what the losses are given.
      evaluate: params[S] -> name -> float[S].
      batch_size: B.
      fresh: whether every update has a minibatch of its own.
      keys: PRNG key[S].
    """

    init: Callable[[jax.Array], Any]
    descent: cdgm.Descent
    order: Order
    images: jax.Array
    prepare: Callable[[jax.Array, jax.Array], jax.Array]
    evaluate: Callable[[Any], dict[str, jax.Array]]
    batch_size: int
    fresh: bool
    keys: jax.Array


class Sums(NamedTuple):
    """What a chunk reports, summed over its updates.

    Attributes:
      count: int32[blocks], updates.
      loss: float[S, blocks].
      aux: block name -> sums of what its loss reports, float[S, ...].
    """

    count: jax.Array  # type: ignore[assignment]  # hides tuple.count
    loss: jax.Array
    aux: dict[str, Any]


class FirstBad(NamedTuple):
    """Where a loss was first not finite: int32[] each; sweep -1 where all were."""

    sweep: jax.Array
    block: jax.Array
    seed: jax.Array


def train(study: Study, sweeps: int, evaluations: int, folder: RunFolder,
          title: str) -> Any:
    """Train, writing a row of metrics a chunk.

    Args:
      study: what to train.
      sweeps: how long.
      evaluations: evaluations after the one at the start, evenly spaced.
      folder: where the rows go.
      title: what the progress bar says.

    Returns:
      The final parameters, with a leading axis S.

    Raises:
      DivergedError: a loss is not finite; the rows before it are written.
    """
    names = list(study.descent.blocks)
    tests = {round(sweeps * i / evaluations) for i in range(evaluations + 1)}
    length = math.ceil(sweeps / _ROWS)
    stops = sorted({*range(0, sweeps, length), sweeps, *tests})
    sweeps_all = _sweeps(study)
    state = jax.jit(lambda keys: sweeps_all.init(jax.vmap(
        lambda key: study.init(jax.random.fold_in(key, 0)))(keys)))(study.keys)
    evaluate = jax.jit(lambda state: study.evaluate(sweeps_all.params(state)))
    spent = sweep_cost(study)
    seconds = flops = 0.0
    folder.add_row({'sweep': 0, 'epoch': 0.0, 'seconds': 0.0, 'gflop': 0.0,
                    'test': evaluate(state)})
    with Progress(title, sweeps) as progress:
        progress.say('compiling')
        # Ahead of time, so that the first chunk's rate is that of the others.
        chunk = jax.jit(chunk_of(study, length), donate_argnums=0).lower(
            state, study.images, *jnp.zeros(2, jnp.int32)).compile()
        for start, stop in zip(stops, stops[1:]):
            began = time.perf_counter()
            state, sums, bad = jax.block_until_ready(
                chunk(state, study.images, *jnp.asarray((start, stop), jnp.int32)))
            seconds += time.perf_counter() - began
            flops += spent(stop - start, sums.count)
            _stop_if_bad(bad, names, folder)
            row = {'sweep': stop, 'epoch': stop * _per_sweep(study) / _per_epoch(study),
                   'seconds': round(seconds, 4), 'gflop': flops / 1e9,
                   **_means(sums, names)}
            if stop in tests:
                row['test'] = evaluate(state)
            folder.add_row(row)
            progress.advance(stop - start, row)
    return sweeps_all.params(state)


def _per_epoch(study: Study) -> int:
    return len(study.images) // study.batch_size


def _per_sweep(study: Study) -> int:
    return len(study.order.updates) if study.fresh else 1


class Sweeps(NamedTuple):
    """How one program sweeps all seeds.

    Attributes:
      init: params[S] -> state.
      sweep: (state, batches, keys) -> (state, StepInfo[S, U]). `batches` is
        [S, U, B, ...] and `keys` [S, U] with fresh minibatches, [S, 1, ...] of both
        without.
      params: state -> params[S].
    """

    init: Callable[[Any], Any]
    sweep: Callable[[Any, jax.Array, jax.Array], tuple[Any, cdgm.StepInfo]]
    params: Callable[[Any], Any]


def sweeps_in_order(study: Study) -> Sweeps:
    """The updates as they stand: the program holds no conditional."""
    descent, updates = study.descent, study.order.updates

    def of_one_seed(state, batches, keys):
        if updates == ('simultaneous',):
            return descent.simultaneous(state, batches[0], keys[0])
        if study.fresh:
            return descent.sweep(state, batches, keys, updates)
        return descent.sweep(state, batches[0], keys[0], updates)

    return Sweeps(jax.vmap(descent.init), jax.vmap(of_one_seed),
                  lambda state: state.params)


def sweeps_by_rule(study: Study, rule: cdgm.Rule | cdgm.Schedule) -> Sweeps:
    """As many updates, their blocks chosen by a rule, one choice for all seeds."""
    driven = cdgm.drive(study.descent, rule, seeds=True, batch_axis=0)

    def sweep(state, batches, keys):
        def update(state, position):
            mine = position if study.fresh else 0
            return driven.step(state, batches[:, mine], keys[:, mine])

        state, infos = lax.scan(update, state, jnp.arange(len(study.order.updates)))
        return state, jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), infos)

    return Sweeps(driven.init, sweep, lambda state: state.descent.params)


def _sweeps(study: Study) -> Sweeps:
    rule = study.order.rule
    return sweeps_in_order(study) if rule is None else sweeps_by_rule(study, rule)


def chunk_of(study: Study, longest: int) -> Callable:
    """Several sweeps: (state, images, start, stop) -> (state, Sums, FirstBad).

    The numbers of the first and the last sweep are traced, so one program serves chunks
    of every length up to `longest`.
    """
    sweep_all, num_blocks = _sweeps(study).sweep, len(study.descent.blocks)
    size, per_epoch, per_sweep = study.batch_size, _per_epoch(study), _per_sweep(study)
    epochs = longest * per_sweep // per_epoch + 2

    def orders(start):
        """Images of the epochs that a chunk touches, int32[S, epochs, M, B]."""
        touched = start * per_sweep // per_epoch + jnp.arange(epochs)

        def order(key, epoch):
            key = jax.random.fold_in(jax.random.fold_in(key, 1), epoch)
            shuffled = jax.random.permutation(key, len(study.images))
            return shuffled[:per_epoch * size].reshape(per_epoch, size)

        return jax.vmap(lambda key: jax.vmap(lambda e: order(key, e))(touched))(
            study.keys)

    def minibatches(images, order, key, sweep, start):
        """One seed's minibatches of a sweep and their keys."""
        positions = sweep * per_sweep + jnp.arange(per_sweep)
        epoch = positions // per_epoch - start * per_sweep // per_epoch
        chosen = images[order[epoch, positions % per_epoch]]
        key = jax.random.fold_in(jax.random.fold_in(key, 2), sweep)
        pixels, noise = jax.random.split(key, (2, per_sweep))
        return jax.vmap(study.prepare)(chosen, pixels), noise

    def chunk(state, images, start, stop):
        order = orders(start)

        def one_sweep(state, sweep):
            batches, keys = jax.vmap(
                lambda order, key: minibatches(images, order, key, sweep, start))(
                    order, study.keys)
            state, infos = sweep_all(state, batches, keys)
            return state, _sum(infos, num_blocks), _find_bad(infos, sweep)

        def body(sweep, carry):
            state, sums, bad = carry
            state, more, found = one_sweep(state, sweep)
            return state, jax.tree.map(jnp.add, sums, more), _first(bad, found)

        _, sums, _ = jax.eval_shape(one_sweep, state, start)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), sums)
        return lax.fori_loop(start, stop, body, (state, zeros, _NONE_BAD))

    return chunk


_NONE_BAD = FirstBad(*(np.full((), -1, np.int32) for _ in range(3)))


def _sum(infos: cdgm.StepInfo, num_blocks: int) -> Sums:
    moved = infos.block[..., None] == jnp.arange(num_blocks)  # [S, U, blocks]
    return Sums(count=jnp.sum(moved[0], axis=0),
                loss=jnp.sum(jnp.where(moved, infos.loss[..., None], 0), axis=1),
                aux=jax.tree.map(lambda x: jnp.nansum(x, axis=1), infos.aux))


def _find_bad(infos: cdgm.StepInfo, sweep) -> FirstBad:
    bad = ~jnp.isfinite(infos.loss).T  # [U, S]
    where = jnp.argmax(bad)
    update, seed = where // bad.shape[1], where % bad.shape[1]
    found = FirstBad(sweep, infos.block[0, update], seed)
    return jax.tree.map(
        lambda x: jnp.where(bad.any(), x, -1).astype(jnp.int32), found)


def _first(earlier: FirstBad, later: FirstBad) -> FirstBad:
    return jax.tree.map(lambda a, b: jnp.where(earlier.sweep < 0, b, a), earlier, later)


def _stop_if_bad(bad: FirstBad, names, folder: RunFolder) -> None:
    sweep, block, seed = (int(x) for x in bad)
    if sweep >= 0:
        raise DivergedError(
            f'the loss of block {names[block]!r} is not finite at sweep {sweep} (seed '
            f'number {seed}); lower its --learning_rate. The metrics before it are in '
            f'{folder.path}.')


def _means(sums: Sums, names) -> dict[str, Any]:
    """Mean losses and aux of the blocks that moved, a number for each seed."""
    count = dict(zip(names, np.asarray(sums.count)))
    moved = [name for name in names if count[name]]
    losses = dict(zip(names, np.asarray(sums.loss).T))
    return {'loss': {name: losses[name] / count[name] for name in moved},
            'aux': {name: {term: np.asarray(value) / count[name]
                           for term, value in sums.aux[name]._asdict().items()}
                    for name in moved}}


def sweep_cost(study: Study) -> Callable[[int, jax.Array], float]:
    """FLOPs of one seed's training: (sweeps, updates of each block) -> FLOPs.

    Counted by XLA in the compiled program of a sweep, in which updates on one minibatch
    share their work. A scan's body is counted once, so where the order repeats a block,
    or a rule chooses, the programs of the blocks' single steps are added up.
    """
    descent, updates = study.descent, study.order.updates
    key = study.keys[0]
    state = jax.eval_shape(lambda key: descent.init(study.init(key)), key)
    batch = jax.eval_shape(study.prepare, study.images[:study.batch_size], key)
    once = len(set(updates)) == len(updates)
    if study.order.rule is None and once:
        lead = _per_sweep(study)

        def stack(tree, *axes):
            return jax.tree.map(
                lambda x: jax.ShapeDtypeStruct((*axes, *x.shape), x.dtype), tree)

        states, data = stack(state, 1), stack((batch, key), 1, lead)
        whole = flops_of_program(sweeps_in_order(study).sweep, states, *data)
        return lambda sweeps, count: sweeps * whole
    step = {name: flops_of_program(
        lambda state, batch, key, name=name: descent.step(state, batch, key, name),
        state, batch, key) for name in set(updates)}
    each = np.array([step.get(name, 0.0) for name in descent.blocks])
    return lambda sweeps, count: float(each @ np.asarray(count))
