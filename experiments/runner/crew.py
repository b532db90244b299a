"""Workers of this machine: processes that share the trials, replaced when they die."""

import os
import subprocess
import sys
import time
from pathlib import Path

from absl import flags

from experiments import launch, preemption
from experiments.launch import StorageError
from experiments.runner.overview import Overview
from experiments.settings import MANNERS

# So many workers that end before any begins a trial, one after another, would go on to
# do so: by an error, or because someone, perhaps the system for want of memory, kills
# them.
_ERRORS, _KILLS = 3, 10


def command(folder: Path, values: flags.FlagValues, workers: int) -> list[str]:
    """The command of one of some workers."""
    manners = [f'--{name}={values[name].value}' for name in (*MANNERS, 'mode')
               if values[name].value is not None]
    return [sys.executable, '-m', 'experiments.runner.worker', '--attended',
            f'--out_dir={folder.absolute()}', f'--workers={workers}', *manners]


class Crew:
    """Keeps workers going as long as trials wait.

    Args:
      folder: of the sweep.
      values: flags of the sweep's command.
      waiting: how many trials wait.
    """

    parting = 'run the same command again to continue'

    def __init__(self, folder: Path, values: flags.FlagValues, waiting: int):
        size = min(values.workers or max(_cores() // 2, 1), max(waiting, 1))
        self._folder, self._latency = folder, values.preempt_latency
        self._command = command(folder, values, size)
        self._members: dict[int, subprocess.Popen | None] = dict.fromkeys(range(size))
        self._errors, self._kills, self._begun = 0, 0, -1

    def mend(self, overview: Overview) -> bool:
        """Start workers where some are missing and trials wait.

        Returns:
          True: as long as a trial waits, somebody will run it.

        Raises:
          StorageError: the disk refused to write.
          RuntimeError: workers die before they begin anything.
        """
        begun = sum(state.attempts for state in overview.states.values())
        if begun > self._begun:
            self._errors, self._kills, self._begun = 0, 0, begun
        idle = []
        for number, worker in self._members.items():
            status = None if worker is None else worker.poll()
            if worker is None or status is not None:
                idle.append(number)
                self._heed(number, status)
        busy = len(self._members) - len(idle)
        waiting = len(overview.having('pending', 'preempted'))
        for number in idle[:max(waiting - busy, 0)]:
            self._members[number] = self._start(number)
        return True

    def dismiss(self) -> None:
        """Ask all to leave, and wait until they have."""
        workers = [worker for worker in self._members.values() if worker is not None]
        for worker in workers:
            worker.terminate()
        deadline = time.monotonic() + self._latency + 1
        for worker in workers:
            try:
                worker.wait(max(deadline - time.monotonic(), 0))
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()
            worker.stdin.close()

    def _heed(self, number: int, status: int | None) -> None:
        """Look at what a worker ended with."""
        self._members[number] = None
        if status == launch.BAD_STORAGE:
            raise StorageError(f'worker {number}: {self._last_words(number)}')
        if status is not None:
            self._kills += status < 0
            self._errors += status not in (0, preemption.PREEMPTED) and status > 0
        if self._errors >= _ERRORS or self._kills >= _KILLS:
            raise RuntimeError(
                f'{self._errors + self._kills} workers ended before they began a trial,'
                f' the last with status {status}; {self._log(number)} ends with: '
                f'{self._last_words(number)}')

    def _log(self, number: int) -> Path:
        return self._folder / 'logs' / f'worker-{os.getpid()}-{number}.log'

    def _last_words(self, number: int) -> str:
        lines = self._log(number).read_text(errors='replace').strip().splitlines()
        return lines[-1].removeprefix('error: ') if lines else 'nothing'

    def _start(self, number: int) -> subprocess.Popen:
        self._log(number).parent.mkdir(parents=True, exist_ok=True)
        with open(self._log(number), 'ab') as log:
            # A session of its own: Ctrl-C is the launcher's, who asks them to leave.
            return subprocess.Popen(
                [*self._command, f'--number={number}'], stdin=subprocess.PIPE,
                stdout=log, stderr=log, start_new_session=True)


def _cores() -> int:
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
