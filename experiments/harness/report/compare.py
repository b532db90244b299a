"""Compare runs at equal cycles and at equal FLOPs.

    ./launch.sh compare runs/vae-digits-joint runs/vae-digits-decoder-encoder

One row a run: the test metric, mean ± standard error over the seeds, at as many cycles
as every run made, and at as many FLOPs as every run spent, by linear interpolation
between the evaluations on either side.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cdgm.metrics import Estimate
from experiments.harness import cli
from experiments.harness.errors import SettingError
from experiments.harness.runs.run_folder import read_rows


class Curve(NamedTuple):
    """The evaluations of a run.

    Attributes:
      cycle: float[T].
      gflop: float[T], spent by one seed.
      values: float[T, S], the metric.
    """

    cycle: np.ndarray
    gflop: np.ndarray
    values: np.ndarray


class Comparison(NamedTuple):
    """A metric of several runs at equal budgets.

    Attributes:
      cycles: the common number of cycles.
      gflop: the common number of GFLOP a seed.
      at_cycles: run -> float[S].
      at_gflop: run -> float[S].
    """

    cycles: float
    gflop: float
    at_cycles: dict[str, np.ndarray]
    at_gflop: dict[str, np.ndarray]


def read_curve(rows: list[dict[str, Any]], metric: str) -> Curve:
    """Pick the evaluations of a metric from the rows of a run."""
    tested = [row for row in rows if 'test' in row]
    return Curve(np.array([row['cycle'] for row in tested], float),
                 np.array([row['gflop'] for row in tested], float),
                 np.array([row['test'][metric] for row in tested], float))


def compare(curves: dict[str, Curve]) -> Comparison:
    """Read every curve at the budgets that all of them reached.

    >>> fast = Curve(np.array([0., 2.]), np.array([0., 4.]), np.array([[8.], [0.]]))
    >>> slow = Curve(np.array([0., 2.]), np.array([0., 2.]), np.array([[8.], [2.]]))
    >>> result = compare({'fast': fast, 'slow': slow})
    >>> result.gflop, result.at_gflop
    (2.0, {'fast': array([4.]), 'slow': array([2.])})
    """
    def read(curve, along, budget):
        return np.array([np.interp(budget, along, seed) for seed in curve.values.T])

    cycles = min(curve.cycle[-1] for curve in curves.values())
    gflop = min(curve.gflop[-1] for curve in curves.values())
    return Comparison(
        float(cycles), float(gflop),
        {name: read(c, c.cycle, cycles) for name, c in curves.items()},
        {name: read(c, c.gflop, gflop) for name, c in curves.items()})


def pool(curves: Sequence[tuple[np.ndarray, np.ndarray]]
         ) -> tuple[np.ndarray, np.ndarray]:
    """Bring curves to all of their points, where all of them reach.

    Args:
      curves: x float[T] that never falls, values float[T, S]; T and S of each its own.

    Returns:
      x float[T], and values float[T, S] with the seeds of all curves.

    >>> pool([(np.array([0., 2.]), np.array([[0.], [4.]])),
    ...       (np.array([0., 1.]), np.array([[6.], [5.]]))])
    (array([0., 1.]), array([[0., 6.], [2., 5.]]))
    """
    every = np.unique(np.concatenate([x for x, _ in curves]))
    shared = every[(every >= max(x[0] for x, _ in curves))
                   & (every <= min(x[-1] for x, _ in curves))]
    return shared, np.stack([np.interp(shared, x, seed) for x, values in curves
                             for seed in values.T], axis=1)


def final_loss(rows: list[dict[str, Any]]) -> float:
    """Mean training loss over blocks, seeds and the last tenth of a run's rows."""
    trained = [row['loss'] for row in rows if row.get('loss')]
    last = trained[-len(trained) // 10:]
    return float(np.mean([np.mean(loss) for losses in last
                          for loss in losses.values()])) if last else float('nan')


def over_seeds(values) -> Estimate:
    """As `cdgm.metrics.mean_and_error`, but a report takes no device from the runs.

    Args:
      values: float[S, ...].

    Returns:
      Estimate of float64[...] each; the error is NaN when S = 1.

    >>> mean, error = over_seeds([1., 2., 3., 4.])
    >>> float(mean), round(float(error), 4)
    (2.5, 0.6455)
    """
    values = np.asarray(values, float)
    with np.errstate(all='ignore'):  # of a loss that diverged, or of one seed
        mean = values.mean(axis=0)
        variance = ((values - mean) ** 2).sum(axis=0) / np.float64(len(values) - 1)
        return Estimate(mean, np.sqrt(variance / len(values)))


def mean_error(values: Sequence[float] | np.ndarray, digits: int = 2) -> str:
    """Write a mean over seeds with its standard error.

    >>> mean_error(np.array([1., 2., 3.]))
    '2.00 ± 0.58'
    """
    mean, error = over_seeds(values)
    spread = f' ± {error:.{digits}f}' if len(values) > 1 else ''
    return f'{mean:.{digits}f}{spread}'


def read_runs(paths: list[str]) -> dict[str, list[dict[str, Any]]]:
    """Read the rows of several runs.

    Raises:
      SettingError: a folder holds no run, or one with other metrics than the first.
    """
    runs = {}
    for path in paths:
        try:
            runs[path] = read_rows(Path(path))
            found = sorted(runs[path][0]['test'])
        except (OSError, ValueError, IndexError) as error:
            raise SettingError(f'{path} holds no run ({error}); name folders with a '
                               'metrics.jsonl.') from None
        wanted = sorted(runs[paths[0]][0]['test'])
        if found != wanted:
            raise SettingError(f'{path} has the metrics {found}, and {paths[0]} has '
                               f'{wanted}; compare runs of one experiment.')
    return runs


def main(paths: list[str]) -> None:
    """Print the table of the runs in the given folders."""
    if '--help' in paths:
        print(__doc__)
        return
    if not paths:
        raise SettingError('name the folders of the runs; see --help.')
    rows = read_runs(paths)
    for metric in rows[paths[0]][0]['test']:
        result = compare({path: read_curve(rows[path], metric) for path in paths})
        digits = 2 if metric == 'neg_elbo' else 4
        print(f'test {metric:20s} at {result.cycles:.0f} cycles    '
              f'at {result.gflop:.4g} GFLOP a seed')
        for path in paths:
            print(f'{Path(path).name:25s} '
                  f'{mean_error(result.at_cycles[path], digits):18s} '
                  f'{mean_error(result.at_gflop[path], digits)}')


if __name__ == '__main__':
    with cli.one_line_errors():
        main(sys.argv[1:])
