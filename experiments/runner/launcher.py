"""The launcher: keeps workers going on this machine until no trial is left."""

import os
import subprocess
import sys
import time
from pathlib import Path

from absl import flags

from experiments import launch, preemption
from experiments.launch import StorageError
from experiments.runner.overview import Overview, look
from experiments.runner.sweep import Sweep
from experiments.runner.view import View
from experiments.settings import MANNERS

# Seconds from one look at the files to the next.
_LOOK = 0.5

# Workers that die before they begin any trial, one after another, are not replaced.
_STILLBORN = 3


def count_workers(wanted: int | None, num_trials: int) -> int:
    """How many processes share the trials of a sweep on this machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else (
        os.cpu_count() or 1)
    return min(wanted or max(cores // 2, 1), max(num_trials, 1))


def worker_command(folder: Path, values: flags.FlagValues, workers: int
                   ) -> list[str]:
    """The command of a worker, but for its number."""
    manners = [f'--{name}={values[name].value}' for name in (*MANNERS, 'mode')
               if values[name].value is not None]
    return [sys.executable, '-m', 'experiments.runner.worker',
            f'--out_dir={folder.absolute()}', f'--workers={workers}', *manners]


def run(sweep: Sweep, folder: Path, values: flags.FlagValues) -> Overview:
    """Run what is left of a sweep, here, and show how it goes on.

    Raises:
      PreemptedError: this process was asked to leave; the workers have saved and left.
      StorageError: the disk refuses to write.
      RuntimeError: workers die before they begin anything.
    """
    overview = look(sweep, folder)
    waiting = len(overview.having('pending', 'preempted'))
    crew = _Crew(folder, values, count_workers(values.workers, waiting))
    try:
        with View(sweep, folder, overview) as view:
            while not overview.is_over:
                crew.mend(overview)
                time.sleep(_LOOK)
                overview = look(sweep, folder, overview)
                view.update(overview)
                if preemption.requested():
                    crew.dismiss(values.preempt_latency)
                    overview = look(sweep, folder)
                    view.update(overview)
                    raise preemption.PreemptedError(
                        f'preempted with {len(overview.having("done"))} of '
                        f'{len(sweep.trials)} trials done; run the same command again '
                        'to continue')
    finally:
        crew.dismiss(values.preempt_latency)
    return overview


class _Crew:
    """Processes that share the trials, replaced when they die."""

    def __init__(self, folder: Path, values: flags.FlagValues, size: int):
        self._folder, self._size = folder, size
        self._command = worker_command(folder, values, size)
        self._members: dict[int, subprocess.Popen | None] = dict.fromkeys(range(size))
        self._stillborn, self._begun = 0, -1

    def mend(self, overview: Overview) -> None:
        """Start workers where some are missing and trials wait."""
        begun = sum(state.attempts for state in overview.states.values())
        if begun > self._begun:
            self._stillborn, self._begun = 0, begun
        left = len(overview.having('pending', 'preempted'))
        for number, worker in self._members.items():
            if worker is not None and worker.poll() is None:
                left -= 1
        for number, worker in self._members.items():
            status = None if worker is None else worker.poll()
            if worker is not None and status is None:
                continue
            self._heed(number, status)
            if left > 0:
                self._members[number] = self._start(number)
                left -= 1

    def _heed(self, number: int, status: int | None) -> None:
        if status == launch.BAD_STORAGE:
            raise StorageError(f'worker {number}: {self._last_words(number)}')
        if status not in (None, 0, preemption.PREEMPTED):
            self._stillborn += 1
            self._members[number] = None
        if self._stillborn >= _STILLBORN:
            raise RuntimeError(
                f'{_STILLBORN} workers died, status {status}, before they began any '
                f'trial; {self._log(number)} ends with: {self._last_words(number)}')

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
                [*self._command, f'--number={number}', '--attended'],
                stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True)

    def dismiss(self, latency: float) -> None:
        """Ask all to leave, and wait until they have."""
        workers = [worker for worker in self._members.values() if worker is not None]
        for worker in workers:
            worker.terminate()
        deadline = time.monotonic() + latency + 1
        for worker in workers:
            try:
                worker.wait(max(deadline - time.monotonic(), 0))
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()
            worker.stdin.close()
