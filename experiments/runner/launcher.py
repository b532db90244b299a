"""The launcher: watches a sweep, and keeps it going until no trial is left."""

import time
from pathlib import Path

from absl import flags

from experiments import preemption
from experiments.runner.crew import Crew
from experiments.runner.jobs import Jobs
from experiments.runner.overview import Overview, look
from experiments.runner.sweep import Sweep
from experiments.runner.view import View

# Seconds from one look at the files to the next.
_LOOK = 0.5


def run(sweep: Sweep, folder: Path, values: flags.FlagValues) -> Overview:
    """Run what is left of a sweep and show how it goes on.

    Returns:
      How it stands at the end: nothing is left, or no job of a cluster is.

    Raises:
      PreemptedError: this process was asked to leave.
      SettingError: Slurm refuses the jobs.
      StorageError: the disk refuses to write.
      RuntimeError: workers die before they begin anything.
    """
    overview = look(sweep, folder)
    waiting = overview.having('pending', 'preempted')
    preemption.unsaved()  # the workers are to be asked first
    keeper = (Jobs(folder, values, waiting) if values.cluster == 'slurm' else
              Crew(folder, values, len(waiting)))
    try:
        with View(sweep, folder, overview) as view:
            while not overview.is_over and keeper.mend(overview):
                time.sleep(_LOOK)
                if preemption.requested():
                    keeper.dismiss()
                    overview = look(sweep, folder, overview)
                    view.update(overview)
                    done = len(overview.having('done'))
                    raise preemption.PreemptedError(
                        f'left with {done} of {len(sweep.trials)} trials done; '
                        f'{keeper.parting}')
                overview = look(sweep, folder, overview)
                view.update(overview)
    finally:
        keeper.dismiss()
    return overview
