"""How a sweep stands, read from the files of its trials."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from experiments.harness.runs import status_log
from experiments.harness.runs.status_log import State
from experiments.harness.sweep.spec import Sweep, Trial

# In the order of messages and reports.
NAMES = ('done', 'running', 'preempted', 'pending', 'failed')

_FINAL_STATES = ('done', 'failed')


class SweepStatus(NamedTuple):
    """The state of every trial.

    Attributes:
      states: trial -> state.
      fractions: trial -> the share of its sweeps that are done; 1 for a failed one,
        of which nothing is left to do.
    """

    states: dict[Trial, State]
    fractions: dict[Trial, float]

    def in_state(self, *names: str) -> list[Trial]:
        """Trials in one of some states."""
        return [trial for trial, state in self.states.items() if state.name in names]

    @property
    def is_over(self) -> bool:
        """Whether no trial waits or runs."""
        return len(self.in_state(*_FINAL_STATES)) == len(self.states)

    def counts(self) -> str:
        """Return the number of trials in each state, as in '3 done, 1 failed'."""
        numbers = {name: len(self.in_state(name)) for name in NAMES}
        return ', '.join(f'{number} {name}' for name, number in numbers.items()
                         if number or name == 'done')


def read_status(sweep: Sweep, folder: Path, before: SweepStatus |
                None = None) -> SweepStatus:
    """Read the states.

    Args:
      sweep: the trials.
      folder: of the sweep.
      before: an earlier look, whose final states are not read again.
    """
    states, fractions = {}, {}
    for trial in sweep.trials:
        if before and before.states[trial].name in _FINAL_STATES:
            states[trial] = before.states[trial]
            fractions[trial] = 1.
            continue
        run = folder / trial.folder
        state = states[trial] = status_log.state_of(run)
        fractions[trial] = (1. if state.name in _FINAL_STATES else
                            0. if state.name == 'pending' else _fraction(run))
    return SweepStatus(states, fractions)


def orphans(sweep: Sweep, folder: Path) -> list[Path]:
    """Folders of trials that the sweep no longer has."""
    mine = {trial.folder for trial in sweep.trials}
    return sorted(path.parent for path in folder.glob('*/manifest.json')
                  if path.parent.name not in mine)


def last_row(run: Path) -> dict:
    """Read the last whole row of metrics, without reading the rest."""
    try:
        with open(run / 'metrics.jsonl', 'rb') as file:
            file.seek(max(file.seek(0, 2) - 65536, 0))
            lines = file.read().splitlines()
    except OSError:
        return {}
    return next(_parsed(reversed(lines)), {})


def _parsed(lines: Iterable[bytes]):
    for line in lines:
        try:
            yield json.loads(line)
        except ValueError:
            continue


def _fraction(run: Path) -> float:
    manifest = status_log.read_manifest(run)
    return last_row(run).get('cycle', 0) / manifest['cycles'] if manifest else 0.
