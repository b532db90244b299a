"""Train a study: compiled chunks, rows of metrics, checkpoints, a progress bar.

What a training computes depends on none of: the calls that a row is made of, the
checkpoints, and how often it was interrupted.
"""

import math
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import checkpoint, preemption
from experiments.block_sweeps import choose_sweeps
from experiments.checkpoint import Checkpoint
from experiments.chunks import Carry, FirstBad, Sums, chunk_of
from experiments.costs import count_costs
from experiments.launch import DivergedError
from experiments.progress import Progress
from experiments.run_folder import RunFolder, read_rows
from experiments.study import Study

# A run writes about so many rows of metrics, whatever its length.
_ROWS = 100

# The share of the time to leave that a call may take; the rest is to evaluate and save.
_CALL = 0.25


class Reached(NamedTuple):
    """How far a training has come, beside its arrays.

    Attributes:
      sweep: sweeps done.
      rows: rows written, of which the first is before training.
      seconds: spent in the sweeps.
      flops: of the rows written, a seed.
    """

    sweep: int = 0
    rows: int = 0
    seconds: float = 0.
    flops: float = 0.


def train(study: Study, sweeps: int, evaluations: int, folder: RunFolder, title: str,
          checkpoint_every: float = math.inf, latency: float = math.inf) -> Any:
    """Train, writing a row of metrics a chunk; go on where the folder's run is.

    Args:
      study: what to train.
      sweeps: how long.
      evaluations: evaluations after the one at the start, evenly spaced.
      folder: where the rows and the checkpoints go.
      title: what the progress bar says.
      checkpoint_every: seconds between checkpoints; without, there are none but on
        being asked to leave.
      latency: seconds to leave within when asked to.

    Returns:
      The final parameters, with a leading axis S.

    Raises:
      DivergedError: a loss is not finite; the rows before it are written.
      PreemptedError: the process was asked to leave; what it reached is saved.
      StorageError: no checkpoint can be written.
      SettingError: the checkpoints are those of other code.
    """
    names = list(study.descent.blocks)
    tests = {round(sweeps * i / evaluations) for i in range(evaluations + 1)}
    length = math.ceil(sweeps / _ROWS)
    stops = sorted({*range(0, sweeps, length), sweeps, *tests})
    costs = count_costs(study)
    sweeps_all = choose_sweeps(study, costs.step)
    chunk = chunk_of(study, sweeps_all, length)
    first = jax.jit(lambda keys: chunk.init(sweeps_all.init(jax.vmap(
        lambda key: study.init(jax.random.fold_in(key, 0)))(keys))))
    evaluate = jax.jit(lambda state: study.evaluate(sweeps_all.params(state)))
    carry, reached = _resume(folder, first, study.keys)
    if not reached.rows:
        folder.add_row({'sweep': 0, 'epoch': 0.0, 'seconds': 0.0, 'gflop': 0.0,
                        'test': evaluate(carry.state)})
        reached = reached._replace(rows=1)
    saved, pace = time.monotonic(), math.inf
    with Progress(title, sweeps) as progress:
        if reached.rows > 1:
            progress.advance(stops[reached.rows - 1], read_rows(folder.path)[-1])
        progress.say('compiling')
        # Ahead of time, so that the first chunk's rate is that of the others.
        run = jax.jit(chunk.run, donate_argnums=0).lower(
            carry, study.images, *jnp.zeros(2, jnp.int32)).compile()
        for start, stop in list(zip(stops, stops[1:]))[reached.rows - 1:]:
            while reached.sweep < stop:
                saved = _keep(folder, carry, reached, saved, checkpoint_every)
                preemption.unsaved()
                upto = _end_of_call(reached.sweep, stop, pace, latency)
                began = time.perf_counter()
                carry = jax.block_until_ready(run(
                    carry, study.images,
                    *jnp.asarray((reached.sweep, upto), jnp.int32)))
                took = time.perf_counter() - began
                pace = took / (upto - reached.sweep)
                reached = reached._replace(sweep=upto, seconds=reached.seconds + took)
                _stop_if_bad(carry.bad, names, folder)
            saved = _keep(folder, carry, reached, saved, checkpoint_every)
            reached = reached._replace(
                rows=reached.rows + 1,
                flops=reached.flops + costs.spent(stop - start, carry.sums.count))
            epoch = stop * study.minibatches_per_sweep / study.minibatches_per_epoch
            row = {'sweep': stop, 'epoch': epoch,
                   'seconds': round(reached.seconds, 4), 'gflop': reached.flops / 1e9,
                   **_means(carry.sums, names)}
            if stop in tests:
                row['test'] = evaluate(carry.state)
            folder.add_row(row)
            carry = carry._replace(sums=jax.tree.map(jnp.zeros_like, carry.sums))
            progress.advance(stop - start, row)
    params = sweeps_all.params(carry.state)
    # A loss is of the parameters before an update, so none has seen the last one.
    if not all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(params)):
        raise DivergedError(
            'the parameters are not finite after the last sweep; lower '
            f'--learning_rate. The metrics are in {folder.path}.')
    if math.isfinite(checkpoint_every):
        _save(folder, carry, reached)
    return params


def _resume(folder: RunFolder, first, keys) -> tuple[Carry, Reached]:
    """Where the run is, or its start, with the rows of metrics that belong to it."""
    def check(facts):
        if not folder.has_rows(facts['rows']):
            raise checkpoint.DamagedError('metrics.jsonl is not what it was')

    found = checkpoint.load(folder.checkpoints, jax.eval_shape(first, keys), check)
    if found:
        carry = jax.tree.map(jnp.asarray, found.state)
        reached, rows = Reached(**found.facts['reached']), found.facts['rows']
    else:
        carry, reached, rows = first(keys), Reached(), None
    if folder.cut_rows(rows):
        print(f'resuming at sweep {reached.sweep}', flush=True)
    preemption.saved(reached.sweep, folder.path)
    return carry, reached


def _keep(folder: RunFolder, carry: Carry, reached: Reached, saved: float,
          every: float) -> float:
    """Save when it is time to, or to leave; return when it was saved last."""
    asked = preemption.requested()
    if not asked and time.monotonic() - saved < every:
        return saved
    _save(folder, carry, reached)
    if asked:
        preemption.leave()
    return time.monotonic()


def _save(folder: RunFolder, carry: Carry, reached: Reached) -> None:
    checkpoint.save(folder.checkpoints, Checkpoint(
        carry, {'reached': reached._asdict(), 'rows': folder.rows_so_far()}))
    preemption.saved(reached.sweep, folder.path)


def _end_of_call(sweep: int, stop: int, pace: float, latency: float) -> int:
    """The sweep up to which a call may go, given the seconds that a sweep took."""
    if math.isinf(latency):
        return stop
    return min(stop, sweep + max(1, int(_CALL * latency / pace)))


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
