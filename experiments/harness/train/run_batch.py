"""Runs that one program trains side by side, each with a folder of its own.

A run is written as if it were alone, so it may go on alone, or beside others.

Shapes   N seeds in all, S of each run.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cdgm.blocks import leaf_path
from experiments.harness import hosts
from experiments.harness.errors import DivergedError
from experiments.harness.runs import checkpoint, preemption
from experiments.harness.runs.checkpoint import Checkpoint
from experiments.harness.runs.run_folder import RunFolder
from experiments.harness.task import TracedInputs, Task
from experiments.harness.train.scan_loop import Carry, FirstBad, Sums


class RunHandle(NamedTuple):
    """A run of a task.

    Attributes:
      folder: where its rows and its checkpoints go.
      given: what its seeds are given, N = S of them.
    """

    folder: RunFolder
    given: TracedInputs


class TrainingProgress(NamedTuple):
    """How far a training has come, beside its arrays.

    Attributes:
      cycle: cycles done.
      rows: rows written, of which the first is before training.
      seconds: spent in the cycles; runs side by side share them.
      flops: of the rows written, a seed.
    """

    cycle: int = 0
    rows: int = 0
    seconds: float = 0.
    flops: float = 0.


def concatenate_inputs(given: Sequence[TracedInputs]) -> TracedInputs:
    """Put what several runs are given on one axis."""
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *given)


class RunBatch:
    """Runs side by side, and which of them have diverged."""

    def __init__(self, task: Task, runs: Sequence[RunHandle]):
        self._names, self.runs = task.blocks, runs
        self._seeds = len(runs[0].given.key)
        self.given = concatenate_inputs([run.given for run in runs])
        self.errors: list[DivergedError | None] = [None] * len(runs)
        if len(runs) > 1:
            for run in runs:
                run.folder.cut_rows(None)
                run.folder.begin(0)

    @property
    def is_lost(self) -> bool:
        """Whether no run is left."""
        return all(self.errors)

    def split(self, tree) -> list[Any]:
        """Cut a tree of [N, ...] into one of [S, ...] for each run."""
        if len(self.runs) == 1:
            return [tree]
        # On the host: JAX would compile a program for each shape and each run.
        tree = jax.tree.map(np.asarray, tree)
        return [jax.tree.map(
            lambda leaf, at=at: leaf[at * self._seeds:(at + 1) * self._seeds], tree)
            for at in range(len(self.runs))]

    def add_rows(self, row: dict[str, Any], carry: Carry | None = None,
                 tests: Sequence[Any] | None = None) -> dict[str, Any]:
        """Write a row of metrics to every run; return that of the first one left."""
        means = self.split(self._means(carry.sums) if carry else {})
        rows = [{**row, **mine} for mine in means]
        if tests is not None:
            rows = [{**row, 'test': test} for row, test in zip(rows, tests)]
        left = [at for at, error in enumerate(self.errors) if not error]
        for at in left:
            self.runs[at].folder.add_row(rows[at])
        return rows[left[0]]

    def _means(self, sums) -> dict[str, Any]:
        """Mean losses and aux of the blocks that moved, a number for each seed."""
        count = dict(zip(self._names, np.asarray(sums.count)))
        moved = [name for name in self._names if count[name]]

        def by_block(summed):
            return {name: mine / count[name] for name, mine in zip(
                self._names, np.asarray(summed).T) if name in moved}

        norms = {} if sums.grad_norm is None else {
            'grad_norm': by_block(sums.grad_norm)}
        return {'loss': by_block(sums.loss), **norms,
                'aux': {name: {term: np.asarray(value) / times
                               for term, value in _terms(aux)}
                        for name, aux in sums.aux.items()
                        if (times := _times(count, name))}}

    def keep(self, carry: Carry, reached: TrainingProgress, saved: float, every: float
             ) -> float:
        """Save when it is time to, or to leave; return when it was saved last."""
        asked = hosts.any_of(preemption.requested())
        if not asked and hosts.agree(time.monotonic() - saved < every):
            return saved
        self.save(carry, reached)
        if asked:
            preemption.leave()
        return time.monotonic()

    def save(self, carry: Carry, reached: TrainingProgress) -> None:
        """Save every run as if it were alone."""
        for run, error, mine in zip(self.runs, self.errors, self._split_carry(carry)):
            if not error:
                checkpoint.save(run.folder.checkpoints, Checkpoint(
                    mine, {'reached': reached._asdict(),
                           'rows': run.folder.rows_so_far()}))
        self.note(reached)

    def _split_carry(self, carry: Carry) -> list[Carry]:
        if len(self.runs) == 1:
            return [carry]
        # The updates are counted for all runs together.
        count, *sums = carry.sums
        return [Carry(state, Sums(count, *mine), bad)
                for state, mine, bad in self.split((carry.state, sums, carry.bad))]

    def note(self, reached: TrainingProgress) -> None:
        """Note for the exit message that what was reached is on the disk."""
        preemption.saved(reached.cycle, self.runs[0].folder.named)

    def drop_bad(self, bad: FirstBad) -> None:
        """Give up the runs with a loss that is not finite, or a move not made."""
        for at, mine in enumerate(self.split(bad)):
            seeds = np.flatnonzero(np.asarray(mine.cycle) >= 0)
            if len(seeds) and not self.errors[at]:
                seed = seeds[np.argmin(np.asarray(mine.cycle)[seeds])]
                block = int(mine.block[seed])
                what, remedy = (
                    (f'the loss of block {self._names[block]!r} is not finite',
                     'lower its --learning_rate') if block >= 0 else
                    ('the move of a block, as an exact minimisation, was not made',
                     'its loss is not what the move is for'))
                self.errors[at] = DivergedError(
                    f'{what} at cycle {int(mine.cycle[seed])} (seed number {seed}); '
                    f'{remedy}. The metrics before it are in '
                    f'{self.runs[at].folder.named}.')

    def drop_unless_finite(self, params: Sequence[Any]) -> None:
        """Give up the runs whose last update was one too many.

        A loss is of the parameters before an update, so none has seen the last one.
        """
        for at, mine in enumerate(params):
            if not self.errors[at] and not all(
                    np.isfinite(leaf).all() for leaf in jax.tree.leaves(mine)):
                self.errors[at] = DivergedError(
                    'the parameters are not finite after the last cycle; lower '
                    f'--learning_rate. The metrics are in '
                    f'{self.runs[at].folder.named}.')


def _times(count: Mapping[str, Any], name: str) -> int:
    """How often a block moved, or the blocks of a family: name/0, name/1, ..."""
    return count[name] if name in count else sum(
        times for block, times in count.items() if block.startswith(f'{name}/'))


def _terms(aux) -> list[tuple[str, Any]]:
    """What a loss reports, by its path in what it returned."""
    return [(leaf_path(path) or 'aux', value)
            for path, value in jax.tree_util.tree_leaves_with_path(aux)]
