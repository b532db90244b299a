"""Print what became of runs as tables, one an order, the mean over seeds.

Runs of one order that differ in more than their seed have a table each.

    python -m experiments.score_table results/audio/vae-*     # that of docs/sound.md
    python -m experiments.score_table --csv=scores.csv runs/gan_orders/gan-*
    python -m experiments.score_table runs/iwae_sweep/iwae_table-*  # evaluations
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.harness.report.compare import mean_error, over_seeds
from experiments.harness.report.csv_file import write_csv
from experiments.harness.runs.run_folder import read_rows

# What is shown of each kind of samples, and with how many digits.
_SCORES = {'accuracy': 3, 'inception_score': 2, 'frechet': 1, 'frechet_equal': 1,
           'density': 2, 'coverage': 2, 'nearest_median': 2, 'nll': 2, 'neg_elbo': 2,
           'kl': 2, 'mutual_information': 2, 'active_units': 1, 'amortisation_gap': 2}
# Of an evaluation, what is of one unit or one point of a curve, or an error of a mean.
_DETAILS = ('kl_dimension_', 'rate_at_', 'distortion_at_', 'active_units_above_')
_NAMED = ('model', 'net', 'order')  # flags that name a table
_TESTED = {'neg_elbo': 1, 'bits_per_pixel': 3, 'kl': 1, 'reconstruction_db': 2,
           'reconstruction_accuracy': 3, 'prior_accuracy': 3, 'accuracy': 3,
           'inception_score': 2, 'frechet': 1, 'density': 2, 'coverage': 2}


def main(arguments: Sequence[str]) -> None:
    """Print what was measured on the way, then what was judged at the end."""
    files = [word.removeprefix('--csv=') for word in arguments
             if word.startswith('--csv=')]
    paths = [word for word in arguments if not word.startswith('--csv=')]
    judged: list[Sequence[Any]] = []
    for order, folders in _tables(list(map(Path, paths))).items():
        print(f'{order}: {len(folders)} seeds\n')
        tested = [[row for row in read_rows(folder) if row.get('cycle')
                   and 'test' in row] for folder in folders]
        _print([_line(f'{rows[0]["cycle"]} cycles, {rows[0]["gflop"]:.0f} GFLOP',
                      _TESTED, [{name: values[0] for name, values
                                 in row['test'].items()} for row in rows])
                for rows in zip(*tested)], _TESTED)
        scores = list(filter(None, map(_judged, folders)))
        if scores:  # there are none of a run that has not ended
            _print([_line(name, _SCORES, [each[name] for each in scores])
                    for name in scores[0]], _SCORES)
            judged += _records(order, scores)
    for file in files:
        write_csv(Path(file), ('order', 'images', 'score', 'mean', 'error', 'seeds'),
                  judged)


def _judged(folder: Path) -> dict[str, dict[str, float]]:
    """What was judged at the end -> its scores; nothing of a run that has not ended."""
    if (folder / 'scores.json').exists():
        return json.loads((folder / 'scores.json').read_text())['rows']
    if not (folder / 'evaluation.json').exists():
        return {}
    report = json.loads((folder / 'evaluation.json').read_text())
    return {'test': {name: value for name, value in report.items()
                     if not name.startswith(_DETAILS) and not name.endswith('_error')}}


def _records(order: str, scores: Sequence[Mapping[str, Mapping[str, float]]]
             ) -> list[Sequence[Any]]:
    """Mean and standard error of every score, a row each."""
    return [(order, name, score, *map(float, over_seeds([each[name][score]
                                                         for each in scores])),
             len(scores))
            for name in scores[0] for score in scores[0][name]]


def _tables(paths: Sequence[Path]) -> dict[str, list[Path]]:
    """Name of a table -> the folders of its seeds."""
    of_order: dict[str, dict[Path, dict[str, str]]] = {}
    for path in paths:
        flags = _flags(path)
        of_order.setdefault(' '.join(filter(None, map(flags.get, _NAMED))), {}
                            )[path] = flags
    tables: dict[str, list[Path]] = {}
    for order, runs in of_order.items():
        names = sorted({name for flags in runs.values() for name in flags}
                       - {'seed', 'run_dir'})
        told = [name for name in names
                if len({flags.get(name) for flags in runs.values()}) > 1]
        for path, flags in runs.items():
            more = [f'{name}={flags[name]}' for name in told if name in flags]
            tables.setdefault(' '.join([order, *more]), []).append(path)
    return tables


def _flags(path: Path) -> dict[str, str]:
    return dict(line.removeprefix('--').partition('=')[::2]
                for line in (path / 'flags.txt').read_text().splitlines())


def _line(name: str, columns: Mapping[str, int], rows: Sequence[Mapping[str, float]]
          ) -> list[str]:
    cells = []
    for column, digits in columns.items():
        values = [row[column] for row in rows if column in row]
        cells.append(mean_error(np.asarray(values), digits) if values else '–')
    return [name, *cells]


def _print(lines: Sequence[Sequence[str]], columns: Mapping[str, int]) -> None:
    """Print a table without the columns that are empty."""
    table = [['', *columns], ['---'] * (1 + len(columns)), *lines]
    shown = [at for at in range(1 + len(columns))
             if not at or any(line[at] != '–' for line in lines)]
    print('\n'.join(f'| {" | ".join(line[at] for at in shown)} |' for line in table),
          end='\n\n')


if __name__ == '__main__':
    main(sys.argv[1:])
