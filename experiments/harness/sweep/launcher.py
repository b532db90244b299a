"""The launcher: watches a sweep, and keeps it going until no trial is left."""

import time
from pathlib import Path

from absl import flags

from experiments.harness.runs import preemption
from experiments.harness.sweep.jobs import Jobs
from experiments.harness.sweep.live_view import View
from experiments.harness.sweep.local_pool import WorkerPool
from experiments.harness.sweep.spec import Sweep
from experiments.harness.sweep.sweep_status import SweepStatus, read_status

# Time from one read of the trials' files to the next.
_POLL_SECONDS = 0.5


def run(sweep: Sweep, folder: Path, values: flags.FlagValues) -> SweepStatus:
    """Run what is left of a sweep and show how it goes on.

    Returns:
      How it stands at the end: nothing is left, or no job of a cluster is.

    Raises:
      PreemptedError: this process was asked to leave.
      SettingError: Slurm refuses the jobs.
      StorageError: the disk refuses to write.
      RuntimeError: workers die before they begin anything.
    """
    status = read_status(sweep, folder)
    waiting = status.in_state('pending', 'preempted')
    preemption.mark_dirty()  # the workers are to be asked first
    pool = (Jobs(folder, values, waiting) if values.cluster == 'slurm' else
            WorkerPool(folder, values, len(waiting)))
    try:
        with View(sweep, folder, status) as view:
            while not status.is_over and pool.ensure_workers(status):
                time.sleep(_POLL_SECONDS)
                if preemption.requested():
                    pool.shutdown()
                    status = read_status(sweep, folder, status)
                    view.update(status)
                    done = len(status.in_state('done'))
                    raise preemption.PreemptedError(
                        f'left with {done} of {len(sweep.trials)} trials done; '
                        f'{pool.exit_message}')
                status = read_status(sweep, folder, status)
                view.update(status)
    finally:
        pool.shutdown()
    return status
