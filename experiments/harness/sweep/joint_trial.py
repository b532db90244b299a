"""One process of a trial that several train together, on the hosts of one Slurm job.

    python -m experiments.harness.sweep.joint_trial EXPERIMENT --mesh=... --run_dir=...

A worker takes trials off a queue; these are all given the same one. A process leaves
when it is asked to (status 75), and when the one that started it is gone.
"""

import sys
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from absl import flags

from experiments.harness import cli, execute, registry
from experiments.harness.sweep.spec import Trial
from experiments.harness.sweep.worker import leave_with_launcher
from experiments.harness.training_flags import operational_arguments


def command(folder: Path, values: flags.FlagValues, trial: Trial) -> list[str]:
    """The command of each process of a trial, in the folder of its sweep."""
    return [sys.executable, '-m', 'experiments.harness.sweep.joint_trial',
            trial.experiment, *trial.arguments, *operational_arguments(values),
            f'--run_dir={folder.absolute() / trial.folder}']


def main(arguments: Sequence[str]) -> None:
    """Train a trial, with the processes that the environment names."""
    name, *rest = arguments
    with cli.one_line_errors():
        experiment = registry.load(name)
    threading.Thread(target=leave_with_launcher, daemon=True).start()
    cli.run(experiment.define_flags, partial(execute.main, experiment), __doc__, rest)


if __name__ == '__main__':
    main(sys.argv[1:])
