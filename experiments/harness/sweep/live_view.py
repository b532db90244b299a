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

# Running trials that are shown, one a line; the others are counted.
_MAX_TRIALS_SHOWN = 8


class View:
    """Shows how a sweep goes on: rate, remaining time, failures as they happen.

    Args:
      sweep: what is run.
      folder: of the sweep.
      status: how it stands at the start.
    """

    def __init__(self, sweep: Sweep, folder: Path, status: SweepStatus):
        self._sweep, self._folder, self._labels = sweep, folder, labels(sweep)
        self._began, self._first = time.monotonic(), _done(status)
        self._now, self._reported = status, set(status.in_state('failed'))
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
                # `print` joins texts and drops their settings, so they are given here.
                self._console.print(Text(line), no_wrap=True, overflow='ellipsis')
        else:
            self._console.print(Text(': '.join(lines)), soft_wrap=True)

    def update(self, status: SweepStatus) -> None:
        """Show how it stands now."""
        self._now = status
        for trial in status.in_state('failed'):
            if trial not in self._reported:
                self._reported.add(trial)
                self.say(*describe_failure(trial, self._labels, status))
        if not self._console.is_terminal:
            if self._tenths() > self._tenth:
                self._tenth, self._said = self._tenths(), status.counts()
                self.say(f'{self._sweep.name}: {self._said}{self._left("; ")}')
            return
        self._losses = {trial: _losses(self._folder / trial.folder)
                        for trial in status.in_state('running')[:_MAX_TRIALS_SHOWN]}

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
    """Return a label of each trial: the arguments that not all trials share."""
    shared = {experiment: set.intersection(*(
        set(trial.arguments) for trial in sweep.trials
        if trial.experiment == experiment))
        for experiment in {trial.experiment for trial in sweep.trials}}
    return {trial: ' '.join([
        *([trial.experiment] if len(shared) > 1 else []),
        *(argument.removeprefix('--') for argument in trial.arguments
          if argument not in shared[trial.experiment])]) or trial.experiment
        for trial in sweep.trials}


def describe_failure(trial: Trial, names: dict[Trial, str], status: SweepStatus
                     ) -> tuple[str, str]:
    """Return a line that names a failed trial, and one with its folder and reason."""
    state = status.states[trial]
    return f'failed ({state.kind}): {names[trial]}', f'{trial.folder}: {state.reason}'


def _line(text: str, style: str = '') -> Text:
    return Text(text, no_wrap=True, overflow='ellipsis', style=style)


def _done(status: SweepStatus) -> float:
    return sum(status.fractions.values())


def _losses(run: Path) -> str:
    losses: Iterable = last_row(run).get('loss', {}).items()
    return ', '.join(f'{name[:12]} {np.mean(value):.4g}' for name, value in losses)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    front = f'{hours}:{minutes:02d}' if hours else f'{minutes}'
    return f'{front}:{seconds:02d}'
