"""Workers of this machine: processes that share the trials, replaced when they die.

By hand: in `concurrent.futures` one killed worker breaks the whole pool, and workers
are given their work; these find it in files, as workers of other machines do.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

from absl import flags

from experiments.harness import errors
from experiments.harness.errors import StorageError
from experiments.harness.runs import preemption, status_log
from experiments.harness.runs.provenance import cores
from experiments.harness.sweep.sweep_status import SweepStatus
from experiments.harness.training_flags import operational_arguments

# The pool gives up after this many workers, one after another, that end before any
# begins a trial: by an error, or killed, as by the system when memory runs out.
_MAX_ERRORS, _MAX_KILLS = 3, 10


class WorkersError(RuntimeError):
    """Workers end, one after another, and no trial begins."""


def command(folder: Path, values: flags.FlagValues, workers: int) -> list[str]:
    """The command of one of some workers."""
    return [sys.executable, '-m', 'experiments.harness.sweep.worker', '--attended',
            f'--out_dir={folder.absolute()}', f'--workers={workers}',
            f'--mode={values.mode}', *operational_arguments(values)]


class WorkerPool:
    """Keeps workers going as long as trials wait.

    Args:
      folder: of the sweep.
      values: flags of the sweep's command.
      waiting: how many trials wait.
    """

    exit_message = 'run the same command again to continue'

    def __init__(self, folder: Path, values: flags.FlagValues, waiting: int):
        size = min(values.workers or max(cores() // 2, 1), max(waiting, 1))
        self._folder, self._latency = folder, values.preempt_latency
        self._command = command(folder, values, size)
        self._members: dict[int, subprocess.Popen | None] = dict.fromkeys(range(size))
        self._errors, self._kills, self._begun = 0, 0, -1

    def ensure_workers(self, status: SweepStatus) -> bool:
        """Start workers where some are missing and trials wait.

        Returns:
          True: as long as a trial waits, a worker will run it.

        Raises:
          StorageError: the disk refused to write.
          WorkersError: workers end before they begin anything.
        """
        begun = sum(state.attempts for state in status.states.values())
        if begun > self._begun:
            self._errors, self._kills, self._begun = 0, 0, begun
        waiting = len(status.in_state('pending', 'preempted'))
        self._collect_exits(waiting)
        idle = [number for number, worker in self._members.items() if worker is None]
        # The others run a trial or are about to open one.
        about = len(self._members) - len(idle) - self._at_work(status)
        for number in idle[:max(waiting - about, 0)]:
            self._members[number] = self._start(number)
        return True

    def shutdown(self) -> None:
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
            _close(worker)

    def _collect_exits(self, waiting: int) -> None:
        """Read the exit statuses of workers that have ended."""
        counted_idle = False
        for number, worker in self._members.items():
            if worker is None or worker.poll() is None:
                continue
            status = worker.returncode
            self._members[number] = None
            _close(worker)
            if status == errors.BAD_STORAGE:
                raise StorageError(f'worker {number}: {self._last_line(number)}')
            self._kills += status < 0
            self._errors += status > 0 and status != preemption.PREEMPTED
            if status == 0 and waiting and not counted_idle:
                # Those that end together may all have missed what now waits.
                self._errors, counted_idle = self._errors + 1, True
            if self._errors >= _MAX_ERRORS or self._kills >= _MAX_KILLS:
                raise WorkersError(
                    f'{self._errors + self._kills} workers ended before they began a '
                    f'trial, the last with status {status}; {self._log(number)} ends '
                    f'with: {self._last_line(number)}')

    def _at_work(self, status: SweepStatus) -> int:
        """Count the workers that have begun a trial."""
        begun = {line.get('pid') for trial in status.in_state('running')
                 for line in status_log.read(self._folder / trial.folder)[-1:]}
        return sum(worker is not None and worker.pid in begun
                   for worker in self._members.values())

    def _log(self, number: int) -> Path:
        return self._folder / 'logs' / f'worker-{os.getpid()}-{number}.log'

    def _last_line(self, number: int) -> str:
        lines = self._log(number).read_text(errors='replace').strip().splitlines()
        return lines[-1].removeprefix('error: ') if lines else 'nothing'

    def _start(self, number: int) -> subprocess.Popen:
        self._log(number).parent.mkdir(parents=True, exist_ok=True)
        with open(self._log(number), 'ab') as log:
            # A session of its own: Ctrl-C is the launcher's, who asks them to leave.
            return subprocess.Popen(
                [*self._command, f'--number={number}', *self._mode_after_failures()],
                stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True)

    def _mode_after_failures(self) -> list[str]:
        """Do not measure after failures: measuring may be what ended the workers."""
        return ['--mode=sequential'] if self._errors + self._kills > 1 else []


def _close(worker: subprocess.Popen) -> None:
    """Close what a worker, which has ended, was given as its standard input."""
    if worker.stdin is not None:
        worker.stdin.close()
