"""What a person sees of a sweep: a live view on a terminal, a few lines elsewhere."""

import time
from collections.abc import Iterable

import numpy as np
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from experiments.runner.overview import Overview, last_row
from experiments.runner.sweep import Sweep, Trial

# Trials that run are shown one a line, up to so many.
_SHOWN = 8


class View:
    """Shows how a sweep goes on: rate, remaining time, failures as they happen.

    Args:
      sweep: what is run.
      folder: of the sweep.
      overview: how it stands at the start.
    """

    def __init__(self, sweep: Sweep, folder, overview: Overview):
        self._sweep, self._folder = sweep, folder
        self._began, self._first = time.monotonic(), _done(overview)
        self._now, self._told = overview, set(overview.having('failed'))
        self._tenth = self._tenths()
        self._console = Console(highlight=False, soft_wrap=False)
        self._live = Live(console=self._console, refresh_per_second=4,
                          get_renderable=self._render, transient=True)

    def __enter__(self) -> 'View':
        self.say(f'{self._sweep.name}: {len(self._sweep.trials)} trials, '
                 f'{self._now.counts()}; in {self._folder}')
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *exception) -> None:
        if self._console.is_terminal:
            self._live.stop()
        self.say(f'{self._sweep.name}: {self._now.counts()}')

    def say(self, line: str) -> None:
        """Print a line, above what is live."""
        self._console.print(Text(line))

    def update(self, overview: Overview) -> None:
        """Show how it stands now."""
        self._now = overview
        for trial in overview.having('failed'):
            if trial not in self._told:
                self._told.add(trial)
                self.say(describe_failure(trial, overview))
        if not self._console.is_terminal and self._tenths() > self._tenth:
            self._tenth = self._tenths()
            self.say(f'{self._sweep.name}: {overview.counts()}{self._left()}')

    def _tenths(self) -> int:
        return int(10 * _done(self._now) / max(len(self._now.states), 1))

    def _left(self) -> str:
        """Remaining time, at the pace of this launch."""
        here = _done(self._now) - self._first
        left = len(self._now.states) - _done(self._now)
        if here <= 0 or left <= 0:
            return ''
        seconds = time.monotonic() - self._began
        return (f'; {60 * here / seconds:.1f} trials a minute, '
                f'{_clock(left * seconds / here)} left')

    def _render(self) -> Group:
        bars = Table.grid(padding=(0, 1))
        bars.add_row(ProgressBar(len(self._now.states), _done(self._now), width=24),
                     Text(f'{self._now.counts()}{self._left()}'))
        running = self._now.having('running')
        rows = Table.grid(padding=(0, 1))
        for trial in running[:_SHOWN]:
            rows.add_row(
                ProgressBar(1., self._now.fractions[trial], width=12),
                Text(_losses(self._folder / trial.folder), no_wrap=True),
                Text(label(trial), no_wrap=True, overflow='ellipsis', style='dim'))
        if len(running) > _SHOWN:
            rows.add_row('', f'and {len(running) - _SHOWN} more', '')
        return Group(bars, rows)


def label(trial: Trial) -> str:
    """A trial in a few words."""
    return ' '.join([trial.experiment, *(argument.removeprefix('--')
                                         for argument in trial.arguments)])


def describe_failure(trial: Trial, overview: Overview) -> str:
    """One line on what went wrong."""
    state = overview.states[trial]
    return f'failed ({state.kind}): {label(trial)}: {state.reason} [{trial.folder}]'


def _done(overview: Overview) -> float:
    return sum(overview.fractions.values())


def _losses(run) -> str:
    losses: Iterable = last_row(run).get('loss', {}).items()
    return ', '.join(f'{name[:12]} {np.mean(value):.4g}' for name, value in losses)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    front = f'{hours}:{minutes:02d}' if hours else f'{minutes}'
    return f'{front}:{seconds:02d}'
