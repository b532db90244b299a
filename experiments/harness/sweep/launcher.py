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

# Seconds from one look at the files to the next.
_LOOK = 0.5


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
    overview = read_status(sweep, folder)
    waiting = overview.in_state('pending', 'preempted')
    preemption.mark_dirty()  # the workers are to be asked first
    keeper = (Jobs(folder, values, waiting) if values.cluster == 'slurm' else
              WorkerPool(folder, values, len(waiting)))
    try:
        with View(sweep, folder, overview) as view:
            while not overview.is_over and keeper.mend(overview):
                time.sleep(_LOOK)
                if preemption.requested():
                    keeper.dismiss()
                    overview = read_status(sweep, folder, overview)
                    view.update(overview)
                    done = len(overview.in_state('done'))
                    raise preemption.PreemptedError(
                        f'left with {done} of {len(sweep.trials)} trials done; '
                        f'{keeper.parting}')
                overview = read_status(sweep, folder, overview)
                view.update(overview)
    finally:
        keeper.dismiss()
    return overview
