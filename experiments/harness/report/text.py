"""The tables of a sweep for a terminal; the report has more."""

import textwrap
from collections.abc import Iterator
from pathlib import Path

from experiments.harness.report import tables
from experiments.harness.report.compare import mean_error
from experiments.harness.report.tables import Line, Results
from experiments.harness.sweep.spec import Sweep

# Of a terminal of 80 columns, what two estimates leave.
_NAME_WIDTH = 41


def lines(sweep: Sweep, folder: Path) -> Iterator[str]:
    """Write the tables of a sweep, of what is done so far."""
    runs = tables.read_runs(sweep, folder)
    for table in sweep.tables:
        result = tables.results(table, runs)
        if result.cycles:
            yield from _table(result)


def _table(result: Results) -> Iterator[str]:
    shown = [line for line in result.lines if line.runs]
    columns = [[line.at_cycles for line in shown], [line.at_gflop for line in shown]]
    digits = tables.digits(columns[0] + columns[1])
    names = [_name(line) for line in shown]
    width = min(max(map(len, names)), _NAME_WIDTH)
    yield ''
    yield from textwrap.wrap(f'{result.table.title}: {result.table.label}', 80)
    yield (f'{"":{width}}  {f"at {result.cycles:.0f} cycles":18}  '
           f'at {result.gflop:.4g} GFLOP a seed')
    best = zip(*(tables.best(column, result.better) for column in columns))
    for name, line, marks in zip(names, shown, best):
        cells = (f'{mean_error(values, digits)}{" *" if mark else ""}'
                 for values, mark in zip((line.at_cycles, line.at_gflop), marks))
        yield f'{name:.{width}}'.ljust(width) + ''.join(
            f'  {cell:18}' for cell in cells).rstrip()
    yield '* the best, and what is within its standard error'


def _name(line: Line) -> str:
    value = line.variant.partition('=')[2]
    return f'{line.name} ({value})' if value else line.name
