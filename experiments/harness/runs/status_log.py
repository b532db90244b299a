"""What has become of a run: one line an attempt's beginning and one its end.

    RUN/attempts.jsonl   {"began": …, "host": …, "pid": …, "cycle": …, "job": of Slurm}
                         {"ended": …, "outcome": "failed", "kind": …, "reason": …}
                         {"retry": …}   a person wants it tried again

A run is *pending* until it has begun, *running* while a process holds its lease,
*preempted* when that process left or died, *failed* when another attempt would be of no
use, and *done* when its manifest has its digests.

    kind of failure   setting    a flag has a value that the model refuses
                      data       the data are missing or damaged
                      disk       the disk refuses to write
                      memory     there is not enough of it
                      diverged   a loss is not finite
                      crash      any other error; its trace is in RUN/crash.txt
                      killed     its process died so often, without getting further
"""

import contextlib
import json
import os
import socket
import time
import traceback
from pathlib import Path
from typing import Any, NamedTuple

from cdgm.data import DataError
from experiments.harness.errors import DivergedError, SettingError, is_storage
from experiments.harness.runs import run_lock

_KINDS = {'setting': SettingError, 'data': DataError, 'diverged': DivergedError,
          'memory': MemoryError}

# After this many deaths of its process at one cycle a run has failed.
_MAX_DEATHS = 5


class State(NamedTuple):
    """What has become of a run.

    Attributes:
      name: pending, running, preempted, failed or done.
      kind: of a failure.
      reason: for a failure, one line.
      attempts: how many have begun.
    """

    name: str
    kind: str = ''
    reason: str = ''
    attempts: int = 0


def began(run: Path, cycle: int) -> None:
    """Note that this process goes on with a run from a cycle."""
    _add(run, {'began': _now(), 'host': socket.gethostname(), 'pid': os.getpid(),
               'cycle': cycle, **({'job': _job()} if _job() else {})})


def ended(run: Path, outcome: str, kind: str = '', reason: str = '') -> None:
    """Note how this process's attempt ended: done, preempted or failed."""
    _add(run, {'ended': _now(), 'outcome': outcome,
               **({'kind': kind, 'reason': reason} if kind else {})})


def failed(run: Path, error: Exception) -> None:
    """Note that an error ended an attempt; keep the trace of an unforeseen one."""
    kind = kind_of(error)
    if kind == 'crash':
        (run / 'crash.txt').write_text(''.join(traceback.format_exception(error)))
    reason = ' '.join(str(error).split())
    ended(run, 'failed', kind, reason if kind != 'crash' else
          f'{type(error).__name__}: {reason}')


def kind_of(error: Exception) -> str:
    """Return the kind of a failure."""
    if is_storage(error):
        return 'disk'
    for kind, types in _KINDS.items():
        if isinstance(error, types):
            return kind
    # XLA has no type of its own for it.
    return 'memory' if 'RESOURCE_EXHAUSTED' in str(error) else 'crash'


def count(lines: list[dict[str, Any]]) -> int:
    """Return how many attempts have begun, of the lines that `read` gives."""
    return sum('began' in line for line in lines)


def is_over(run: Path) -> bool:
    """Return whether the end of the last attempt is noted."""
    return 'ended' in (read(run) or [{}])[-1]


def retry(run: Path) -> None:
    """Note that a failed run is to be tried again."""
    _add(run, {'retry': _now()})


def read(run: Path) -> list[dict[str, Any]]:
    """Read the lines; one that a dying process left incomplete is passed over."""
    lines = []
    with contextlib.suppress(FileNotFoundError):
        for line in (run / 'attempts.jsonl').read_text().splitlines():
            with contextlib.suppress(ValueError):
                lines.append(json.loads(line))
    return lines


def read_manifest(run: Path) -> dict[str, Any] | None:
    """Read what is known of a run; None before it has begun."""
    with contextlib.suppress(FileNotFoundError):
        return json.loads((run / 'manifest.json').read_text())
    return None


def state_of(run: Path) -> State:
    """Read what has become of a run."""
    lines = read(run)
    begun = count(lines)
    if 'digests' in (read_manifest(run) or {}):
        return State('done', attempts=begun)
    if run_lock.is_held(run):
        return State('running', attempts=begun)
    if not lines or 'retry' in lines[-1]:
        return State('pending', attempts=begun)
    last = lines[-1]
    if last.get('outcome') == 'failed':
        return State('failed', last['kind'], last['reason'], begun)
    deaths = _deaths_in_place(lines)
    if deaths >= _MAX_DEATHS:
        return State('failed', 'killed', f'its process died {deaths} times at cycle '
                     f'{last["cycle"]}', begun)
    return State('preempted', attempts=begun)


def _deaths_in_place(lines: list[dict[str, Any]]) -> int:
    """Attempts, the last ones, that began at one cycle and have no end."""
    deaths = 0
    for line in reversed(lines):
        if line.get('cycle') != lines[-1].get('cycle') or 'began' not in line:
            break
        deaths += 1
    return deaths


def _job() -> str | None:
    """The Slurm job of this process; of an array, as scancel takes it."""
    array = os.environ.get('SLURM_ARRAY_JOB_ID')
    if array:
        return f'{array}_{os.environ["SLURM_ARRAY_TASK_ID"]}'
    return os.environ.get('SLURM_JOB_ID')


def _add(run: Path, line: dict[str, Any]) -> None:
    # One write, so that lines of two processes do not mix.
    with open(run / 'attempts.jsonl', 'a+b', buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        is_cut = size and os.pread(file.fileno(), 1, size - 1) != b'\n'
        file.write(b'\n' * bool(is_cut) + json.dumps(line).encode() + b'\n')


def _now() -> str:
    return time.strftime('%Y-%m-%dT%H:%M:%S%z')
