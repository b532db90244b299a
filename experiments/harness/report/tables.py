"""The numbers of a sweep's tables, from the folders of its runs.

A row of a table is a mean over seeds of a test metric, read where all rows of the table
are: at as many cycles of blocks, and at as many FLOPs. Of a row that was tuned, the
variant with the lowest training loss stands for it; the test metric has no say in that.

Shapes   S the seeds of all runs of a row.
"""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.harness import registry
from experiments.harness.report.compare import (
    compare, final_loss, over_seeds, read_curve)
from experiments.harness.runs import status_log
from experiments.harness.runs.run_folder import read_rows
from experiments.harness.sweep.spec import Sweep, Table, Trial


class Run(NamedTuple):
    """A trial and what has become of it.

    Attributes:
      trial: what was to be run.
      folder: of the run.
      state: what has become of it.
      rows: its metrics; none unless it is done.
    """

    trial: Trial
    folder: Path
    state: status_log.State
    rows: list[dict[str, Any]]


class Line(NamedTuple):
    """A row of a table with its numbers.

    Attributes:
      name: of the row.
      variant: the tuned flags of what is shown; '' if nothing is tuned.
      tried: every variant -> (training loss at the end, runs that are done, runs). The
        loss is infinite if a run diverged, NaN if none is done.
      runs: those of the variant that are done.
      planned: seeds that there are to be.
      at_cycles: float[S], the metric at equal cycles.
      at_gflop: float[S], at equal FLOPs.
      gflop: spent by a seed, in all.
      seconds: taken by a seed, in all.
    """

    name: str
    variant: str
    tried: dict[str, tuple[float, int, int]]
    runs: tuple[Run, ...]
    planned: int
    at_cycles: np.ndarray
    at_gflop: np.ndarray
    gflop: float
    seconds: float


class Results(NamedTuple):
    """A table with its numbers.

    Attributes:
      table: what was planned.
      lines: its rows.
      cycles: how many all rows that have results made; 0 if none has.
      gflop: what all of them spent a seed.
    """

    table: Table
    lines: tuple[Line, ...]
    cycles: float
    gflop: float

    @property
    def better(self) -> str:
        """Whether 'lower' or 'higher' is better of the metric."""
        return registry.load(self.table.experiment).metrics[self.table.metric]

    @property
    def artifacts(self) -> Mapping[str, str]:
        """File that a run writes -> its title."""
        return registry.load(self.table.experiment).artifacts


def read_runs(sweep: Sweep, folder: Path) -> dict[str, Run]:
    """Read every run of a sweep, by the trial's id."""
    runs = {}
    for trial in sweep.trials:
        path = folder / trial.folder
        state = status_log.state_of(path)
        rows = read_rows(path) if state.name == 'done' else []
        runs[trial.id] = Run(trial, path, state, rows)
    return runs


def results(table: Table, runs: dict[str, Run]) -> Results:
    """Find the numbers of a table."""
    rows = [{variant: [runs[name] for name in names]
             for variant, names in row.variants.items()} for row in table.rows]
    tried = [{variant: (_training_loss(mine), len(_done(mine)), len(mine))
              for variant, mine in row.items()} for row in rows]
    variants = [min(row, key=lambda variant: _rank(*row[variant])) for row in tried]
    done = [_done(row[variant]) for row, variant in zip(rows, variants)]
    curves = {run.trial.id: read_curve(run.rows, table.metric)
              for mine in done for run in mine}
    equal = compare(curves) if curves else None
    return Results(table, tuple(
        _line(row.name, variant, losses, mine, equal)
        for row, variant, losses, mine in zip(table.rows, variants, tried, done)),
        equal.cycles if equal else 0., equal.gflop if equal else 0.)


def _line(name, variant, tried, runs, equal) -> Line:
    at_cycles, at_gflop = (
        np.concatenate([column[run.trial.id] for run in runs]) if runs else np.zeros(0)
        for column in ((equal.at_cycles, equal.at_gflop) if runs else ((), ())))
    seeds = len(at_cycles)
    return Line(
        name, variant, tried, tuple(runs),
        # A run may train several seeds.
        tried[variant][2] * (seeds // len(runs) if runs else 1), at_cycles, at_gflop,
        sum(run.rows[-1]['gflop'] for run in runs) / len(runs) if runs else 0.,
        sum(run.rows[-1]['seconds'] for run in runs) / seeds if runs else 0.)


def _done(runs: Iterable[Run]) -> list[Run]:
    return [run for run in runs if run.state.name == 'done']


def _training_loss(runs: Sequence[Run]) -> float:
    """Mean training loss at the end of the runs that are done."""
    if any(run.state.kind == 'diverged' for run in runs):
        return math.inf
    losses = [final_loss(run.rows) for run in _done(runs)]
    return float(np.mean(losses)) if losses else math.nan


def _rank(loss: float, done: int, _) -> tuple[float, int]:
    return (loss if loss == loss else math.inf), -done


def best(column: Sequence[np.ndarray], better: str = 'lower') -> list[bool]:
    """Mark the best mean and those within its standard error.

    Args:
      column: float[S] of each row, of no length where there is nothing.
      better: 'lower' or 'higher'.

    >>> column = [np.array([1., 3.]), np.array([4., 4.]), np.array([2.9, 2.9])]
    >>> best(column), best(column, 'higher')
    ([True, False, True], [False, True, False])
    """
    if better == 'higher':
        return best([-values for values in column])
    estimates = [over_seeds(values) for values in column if len(values)]
    finite = [each for each in estimates if math.isfinite(each.mean)]
    if not finite:
        return [False] * len(column)
    lowest = min(finite, key=lambda each: each.mean)
    bar = lowest.mean + np.nan_to_num(lowest.error)
    return [len(values) > 0 and bool(np.mean(values) <= bar) for values in column]


def digits(columns: Iterable[np.ndarray]) -> int:
    """Digits behind the point that give a usual standard error two of its own.

    >>> digits([np.array([103.3, 103.7]), np.array([104.1, 104.5])])
    2
    >>> digits([np.array([0.01234])])
    5
    """
    estimates = [over_seeds(values) for values in columns if len(values)]
    errors = [error for _, error in estimates if 0 < error < math.inf]
    means = [abs(mean) for mean, _ in estimates if 0 < abs(mean) < math.inf]
    if errors:
        wanted = 1 - math.floor(math.log10(np.median(errors)))
    else:  # one seed: four digits in all
        wanted = 3 - math.floor(math.log10(max(means, default=1.)))
    return min(max(wanted, 0), 8)


def csv_text(tables: Sequence[Results]) -> str:
    """Write the numbers of the tables, unrounded; a row without results has none."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator='\n')
    writer.writerow((
        'table', 'row', 'variant', 'metric', 'seeds', 'planned',
        'cycles', 'at_cycles', 'at_cycles_error', 'gflop', 'at_gflop', 'at_gflop_error',
        'training_loss', 'gflop_a_seed', 'seconds_a_seed'))
    for result in tables:
        for line in result.lines:
            head = (result.table.title, line.name, line.variant, result.table.metric,
                    len(line.at_cycles), line.planned)
            writer.writerow((*head, *(_cells(result, line) if line.runs else [''] * 9)))
    return file.getvalue()


def _cells(result: Results, line: Line) -> list[float]:
    return [float(cell) for cell in (
        result.cycles, *over_seeds(line.at_cycles),
        result.gflop, *over_seeds(line.at_gflop),
        line.tried[line.variant][0], line.gflop, line.seconds)]
