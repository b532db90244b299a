"""A table that grows in a file, a row at a time, and goes on where it was.

For experiments whose runs are short and many, and are trained by the experiment itself.
Rows are NamedTuples of texts and numbers; those of a file are of one setting, which
stands beside it in settings.json.
"""

import csv
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from experiments.harness.errors import SettingError
from experiments.harness.report.csv_file import write_csv
from experiments.harness.runs import atomic

RowT = TypeVar('RowT', bound=NamedTuple)


def open_table(file: Path, kind: type[RowT], settings: Mapping[str, Any]
               ) -> list[RowT]:
    """Read the rows that a file has already; make its folder where there is none.

    Args:
      file: of the table.
      kind: of its rows, whose annotations are str, int or float.
      settings: with which rows are made, for JSON.

    Raises:
      SettingError: the rows that are there are of other settings.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    record = file.parent / 'settings.json'
    if record.exists():
        before = json.loads(record.read_text())
        changed = [f'{name} is {settings.get(name)} and was {value}'
                   for name, value in before.items() if settings.get(name) != value]
        if changed:
            raise SettingError(f'the rows in {file.parent} are of other settings: '
                               f'{", ".join(changed)}; give another --out_dir.')
    with atomic.atomic_write(record) as stream:
        stream.write(json.dumps(settings, indent=1) + '\n')
    return read_table(file, kind) if file.exists() else []


def read_table(file: Path, kind: type[RowT]) -> list[RowT]:
    """Read a table."""
    kinds: dict[str, Any] = kind.__annotations__
    make: Any = kind
    with open(file, newline='') as stream:
        return [make(**{name: kinds[name](value) for name, value in line.items()})
                for line in csv.DictReader(stream)]


def write_table(file: Path, kind: type[RowT], rows: Iterable[RowT], digits: int = 5
                ) -> None:
    """Write a table in place of the one that is there, all of it or nothing.

    Args:
      file: of the table.
      kind: of its rows.
      rows: all of them.
      digits: significant ones of a float.
    """
    write_csv(file, kind._fields, rows, digits)
