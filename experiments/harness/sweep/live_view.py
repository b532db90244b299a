"""What a person sees of a sweep: a live view on a terminal, a few lines elsewhere."""

import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from experiments.harness.sweep.spec import Sweep, Trial
from experiments.harness.sweep.sweep_status import SweepStatus, last_row

# Trials that run are shown one a line, up to so many.
_SHOWN = 8


class View:
    """Shows how a sweep goes on: rate, remaining time, failures as they happen.

    Args:
      sweep: what is run.
      folder: of the sweep.
      overview: how it stands at the start.
    """

    def __init__(self, sweep: Sweep, folder: Path, overview: SweepStatus):
        self._sweep, self._folder, self._labels = sweep, folder, labels(sweep)
        self._began, self._first = time.monotonic(), _done(overview)
        self._now, self._told = overview, set(overview.in_state('failed'))
        self._losses: dict[Trial, str] = {}
        self._tenth, self._said = self._tenths(), ''
        self._console = Console(highlight=False)
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
        if self._console.is_terminal or self._said != self._now.counts():
            self.say(f'{self._sweep.name}: {self._now.counts()}')

    def say(self, *lines: str) -> None:
        """Print a line, above what is live; on a terminal, parts of it as lines."""
        if self._console.is_terminal:
            for line in (lines[0], *(f'  {part}' for part in lines[1:])):
                # `print` joins texts to a new one, without their manners.
                self._console.print(Text(line), no_wrap=True, overflow='ellipsis')
        else:
            self._console.print(Text(': '.join(lines)), soft_wrap=True)

    def update(self, overview: SweepStatus) -> None:
        """Show how it stands now."""
        self._now = overview
        for trial in overview.in_state('failed'):
            if trial not in self._told:
                self._told.add(trial)
                self.say(*describe_failure(trial, self._labels, overview))
        if not self._console.is_terminal:
            if self._tenths() > self._tenth:
                self._tenth, self._said = self._tenths(), overview.counts()
                self.say(f'{self._sweep.name}: {self._said}{self._left("; ")}')
            return
        self._losses = {trial: _losses(self._folder / trial.folder)
                        for trial in overview.in_state('running')[:_SHOWN]}

    def _tenths(self) -> int:
        return int(10 * _done(self._now) / max(len(self._now.states), 1))

    def _left(self, before: str = '') -> str:
        """Remaining time, at the pace of this launch."""
        here = _done(self._now) - self._first
        left = len(self._now.states) - _done(self._now)
        if here <= 0 or left <= 0:
            return ''
        seconds = time.monotonic() - self._began
        return (f'{before}{60 * here / seconds:.1f} trials a minute, '
                f'{_clock(left * seconds / here)} left')

    def _render(self) -> Group:
        running = self._now.in_state('running')
        whole = Table.grid(padding=(0, 1))
        whole.add_row(ProgressBar(len(self._now.states), _done(self._now), width=24),
                      _line(self._left() or ('' if running else 'setting up')))
        rows = Table.grid(padding=(0, 1))
        # Where there is no room for all, the name stays.
        rows.add_column(no_wrap=True)
        rows.add_column(no_wrap=True)
        rows.add_column()
        for trial, losses in self._losses.items():
            rows.add_row(ProgressBar(1., self._now.fractions[trial], width=8),
                         _line(self._labels[trial]), _line(losses, style='dim'))
        more = len(running) - len(self._losses)
        return Group(whole, _line(self._now.counts()), rows,
                     *([_line(f'and {more} more')] if more else []))


def labels(sweep: Sweep) -> dict[Trial, str]:
    """Name every trial by what tells it from the others."""
    shared = {experiment: set.intersection(*(
        set(trial.arguments) for trial in sweep.trials
        if trial.experiment == experiment))
        for experiment in {trial.experiment for trial in sweep.trials}}
    return {trial: ' '.join([
        *([trial.experiment] if len(shared) > 1 else []),
        *(argument.removeprefix('--') for argument in trial.arguments
          if argument not in shared[trial.experiment])]) or trial.experiment
        for trial in sweep.trials}


def describe_failure(trial: Trial, names: dict[Trial, str], overview: SweepStatus
                     ) -> tuple[str, str]:
    """Say what failed, and where and why."""
    state = overview.states[trial]
    return f'failed ({state.kind}): {names[trial]}', f'{trial.folder}: {state.reason}'


def _line(text: str, style: str = '') -> Text:
    return Text(text, no_wrap=True, overflow='ellipsis', style=style)


def _done(overview: SweepStatus) -> float:
    return sum(overview.fractions.values())


def _losses(run: Path) -> str:
    losses: Iterable = last_row(run).get('loss', {}).items()
    return ', '.join(f'{name[:12]} {np.mean(value):.4g}' for name, value in losses)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    front = f'{hours}:{minutes:02d}' if hours else f'{minutes}'
    return f'{front}:{seconds:02d}'
