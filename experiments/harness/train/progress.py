"""A progress bar for a person, drawn by rich; a few lines for a log file."""

from typing import Any

import numpy as np
import rich.progress
from rich.console import Console


class Progress:
    """Shows step, rate, remaining time and the last losses of a training.

    On a terminal it is one live line; elsewhere it prints a line each tenth of the way.

    Attributes:
      quiet: whether it shows nothing, as within a sweep, which has a view of its own.
    """

    def __init__(self, title: str, total: int, quiet: bool = False):
        self._title, self._total, self._done = title, total, 0
        self.quiet = quiet
        self._console = Console(highlight=False, quiet=quiet)
        columns = rich.progress
        self._bar = columns.Progress(
            columns.TextColumn('{task.description}'),
            columns.BarColumn(bar_width=16), columns.MofNCompleteColumn(),
            columns.TextColumn('{task.fields[rate]}'), columns.TimeRemainingColumn(),
            columns.TextColumn('{task.fields[note]}'),
            console=self._console, disable=not self._console.is_terminal)
        self._task = self._bar.add_task(title, total=total, rate='', note='')

    def __enter__(self) -> 'Progress':
        self._bar.start()
        return self

    def __exit__(self, *exception) -> None:
        self._bar.stop()

    def say(self, note: str) -> None:
        """Show what is going on."""
        self._bar.update(self._task, note=note)
        if not self._console.is_terminal:
            self._console.print(f'{self._title}: {note}')

    def advance(self, cycles: int, row: dict[str, Any]) -> None:
        """Advance by some cycles, whose losses and time are in a row of metrics."""
        before, self._done = self._done, self._done + cycles
        rate = f'{self._done / max(row["seconds"], 1e-9):.0f}/s'
        losses = ', '.join(f'{name} {np.mean(value):.4g}'
                           for name, value in row['loss'].items())
        self._bar.update(self._task, advance=cycles, rate=rate, note=losses)
        tenth = self._total / 10
        if not self._console.is_terminal and self._done // tenth > before // tenth:
            self._console.print(
                f'{self._title}: {self._done}/{self._total}, {rate}, {losses}')
