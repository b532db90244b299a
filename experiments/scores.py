"""What samples were judged to be: a table to be read, and numbers to go on with."""

import json
from collections.abc import Mapping
from pathlib import Path


def write_scores(folder: Path, rows: Mapping[str, Mapping[str, float]],
                 facts: Mapping[str, object]) -> None:
    """Write scores.json and, to be read, scores.txt.

    Args:
      folder: of the run.
      rows: what was judged -> name -> number.
      facts: what holds for all rows, as the classifier's hash.
    """
    (folder / 'scores.json').write_text(
        json.dumps({'facts': facts, 'rows': rows}, indent=1) + '\n')
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    width = max(map(len, rows))
    cells = [['', *columns], *([name, *(_number(row.get(column)) for column in columns)]
                               for name, row in rows.items())]
    widths = [max(width, *(len(row[0]) for row in cells)),
              *(max(len(row[at]) for row in cells) for at in range(1, len(cells[0])))]
    text = ''.join('  '.join(
        [row[0].ljust(widths[0]),
         *(cell.rjust(size) for cell, size in zip(row[1:], widths[1:]))]).rstrip()
        + '\n' for row in cells)
    text += ''.join(f'{name}: {_number(fact) if isinstance(fact, float) else fact}\n'
                    for name, fact in facts.items())
    (folder / 'scores.txt').write_text(text)


def _number(value: float | None) -> str:
    if value is None:
        return '–'
    return f'{value:.0f}' if abs(value) >= 1000 else f'{value:.4g}'
