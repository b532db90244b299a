"""Print the scores of runs as a table, a row an order, the mean over seeds.

    python -m experiments.sound.table results/audio/vae-*     # that of docs/sound.md
    python -m experiments.sound.table runs/audio_gan/audio-*
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.harness.report.compare import mean_error
from experiments.harness.runs.run_folder import read_rows

# What is shown of each kind of samples, and with how many digits.
_SCORES = {'accuracy': 3, 'inception_score': 2, 'frechet': 1, 'density': 2,
           'coverage': 2, 'nearest_median': 2}
_TESTED = {'neg_elbo': 1, 'bits_per_pixel': 3, 'kl': 1, 'reconstruction_db': 2}


def main(paths: Sequence[str]) -> None:
    """Print what was judged, then what was measured of the test split."""
    runs: dict[str, list[Path]] = {}
    for path in map(Path, paths):
        if (path / 'scores.json').exists():
            runs.setdefault(_order(path), []).append(path)
    for order, folders in runs.items():
        last = [read_rows(folder)[-1] for folder in folders]
        print(f'{order}: {len(folders)} seeds, {last[0]["cycle"]} cycles, '
              f'{last[0]["gflop"]:.0f} GFLOP a seed')
        _print([_line('test split', _TESTED, [
            {name: values[0] for name, values in row['test'].items()}
            for row in last])], _TESTED)
        scores = [json.loads((folder / 'scores.json').read_text())['rows']
                  for folder in folders]
        _print([_line(name, _SCORES, [each[name] for each in scores])
                for name in scores[0]], _SCORES)


def _order(path: Path) -> str:
    """The order of a run, or the model whose default it is."""
    flags = dict(line.removeprefix('--').partition('=')[::2]
                 for line in (path / 'flags.txt').read_text().splitlines())
    return f'{flags.get("model", "vae")} {flags.get("order", "")}'.strip()


def _line(name: str, columns: Mapping[str, int], rows: Sequence[Mapping[str, float]]
          ) -> list[str]:
    cells = []
    for column, digits in columns.items():
        values = [row[column] for row in rows if column in row]
        cells.append(mean_error(values, digits) if values else '–')
    return [name, *cells]


def _print(lines: Sequence[Sequence[str]], columns: Mapping[str, int]) -> None:
    if all(set(line[1:]) == {'–'} for line in lines):
        return
    print('\n'.join(f'| {" | ".join(line)} |' for line in (
        ['', *columns], ['---'] * (1 + len(columns)), *lines)), end='\n\n')


if __name__ == '__main__':
    main(sys.argv[1:])
