"""What one task of a Slurm array does: it keeps a command going, and asks it to leave.

    the command is killed       it is started again, a few times at most
    USR2: the limit is near     the command is asked to leave, Slurm to start it again
    TERM: scancel, a requeue    Slurm sends it to the command as well, which leaves
    this process is killed      the command's standard input ends, at which it leaves

submitit pickles the object, runs it in the job and calls `checkpoint` on USR2; the job
needs no more of this package than this file, and nothing is read from its pickles.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from experiments.harness.runs.preemption import PREEMPTED

# Slurm signals all processes of a job, in any order: the command may have left before
# this process receives the signal.
_SIGNAL_DELAY_SECONDS = 1.

_LEAVE_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


class ArrayTask:
    """A command that goes on where it was whenever it is run again.

    It ends with 0 when it is done and with 75 when it was asked to leave.
    """

    def __init__(self, command: Sequence[str], patience: float, restarts: int):
        """Hold a command.

        Args:
          command: program and arguments.
          patience: seconds it has to leave within, when asked to.
          restarts: times that it is started again after it was killed.
        """
        self._command, self._patience = list(command), patience
        self._restarts = restarts
        self._child: int | None = None

    def __call__(self) -> None:
        """Run the command to its end.

        Raises:
          SystemExit: it did not end with 0; the status is the command's.
        """
        for number in (signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, lambda *_: None)
        for left in reversed(range(1 + self._restarts)):
            status = self._run()
            if status >= 0 or -status in _LEAVE_SIGNALS:
                break
            print(f'killed by {signal.Signals(-status).name}; '
                  f'{left} restarts left', file=sys.stderr, flush=True)
        if -status in _LEAVE_SIGNALS:  # it had not set up its handlers yet
            status = PREEMPTED
        if status == PREEMPTED:
            time.sleep(_SIGNAL_DELAY_SECONDS)
        if status:
            sys.exit(status if status > 0 else 128 - status)

    def _run(self) -> int:
        with subprocess.Popen(self._command, stdin=subprocess.PIPE) as child:
            self._child = child.pid
            # Reaped later: until then `checkpoint`, which may come at any moment,
            # cannot mistake another process for it.
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
            self._child = None
            return child.wait()

    def checkpoint(self) -> Any:
        """Ask the command to leave, and wait until it has.

        Returns:
          submitit's DelayedSubmission of a task like this one.
        """
        from submitit.helpers import DelayedSubmission
        if self._child is not None:
            # It heard USR2 as well, unless it was not listening yet.
            os.kill(self._child, signal.SIGTERM)
            if not _ends(self._child, self._patience):
                os.kill(self._child, signal.SIGKILL)
                print(f'killed: it did not leave within {self._patience:g} s',
                      file=sys.stderr, flush=True)
        return DelayedSubmission(ArrayTask(self._command, self._patience,
                                           self._restarts))


def _ends(pid: int, seconds: float) -> bool:
    """Return whether a child ends in time; it is left for its parent to reap."""
    deadline = time.monotonic() + seconds
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
