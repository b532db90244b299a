"""Train a study: compiled chunks, a row of metrics each, a progress bar."""

import math
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.chunks import FirstBad, Sums, chunk_of
from experiments.costs import count_costs
from experiments.launch import DivergedError
from experiments.progress import Progress
from experiments.run_folder import RunFolder
from experiments.study import Study
from experiments.sweeps import choose_sweeps

# A run writes about so many rows of metrics, whatever its length.
_ROWS = 100


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
    costs = count_costs(study)
    sweeps_all = choose_sweeps(study, costs.step)
    state = jax.jit(lambda keys: sweeps_all.init(jax.vmap(
        lambda key: study.init(jax.random.fold_in(key, 0)))(keys)))(study.keys)
    evaluate = jax.jit(lambda state: study.evaluate(sweeps_all.params(state)))
    seconds = flops = 0.0
    folder.add_row({'sweep': 0, 'epoch': 0.0, 'seconds': 0.0, 'gflop': 0.0,
                    'test': evaluate(state)})
    with Progress(title, sweeps) as progress:
        progress.say('compiling')
        # Ahead of time, so that the first chunk's rate is that of the others.
        chunk = jax.jit(chunk_of(study, sweeps_all, length), donate_argnums=0).lower(
            state, study.images, *jnp.zeros(2, jnp.int32)).compile()
        for start, stop in zip(stops, stops[1:]):
            began = time.perf_counter()
            state, sums, bad = jax.block_until_ready(
                chunk(state, study.images, *jnp.asarray((start, stop), jnp.int32)))
            seconds += time.perf_counter() - began
            flops += costs.spent(stop - start, sums.count)
            _stop_if_bad(bad, names, folder)
            epoch = stop * study.minibatches_per_sweep / study.minibatches_per_epoch
            row = {'sweep': stop, 'epoch': epoch,
                   'seconds': round(seconds, 4), 'gflop': flops / 1e9,
                   **_means(sums, names)}
            if stop in tests:
                row['test'] = evaluate(state)
            folder.add_row(row)
            progress.advance(stop - start, row)
    return sweeps_all.params(state)


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
