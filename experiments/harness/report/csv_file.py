"""A table as a CSV file."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from experiments.harness.runs import atomic


def write_csv(file: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]],
              digits: int = 5) -> None:
    """Write a table, a line a row.

    Args:
      file: to write in place of what is there, all of it or nothing.
      columns: their names, the first line.
      rows: texts and numbers.
      digits: significant ones of a float.
    """
    with atomic.atomic_write(file) as stream:
        writer = csv.writer(stream, lineterminator='\n')
        writer.writerow(columns)
        writer.writerows([f'{cell:.{digits}g}' if isinstance(cell, float) else cell
                          for cell in row] for row in rows)
