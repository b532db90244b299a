"""From flags to a complete run: the data, the task, training, pictures, the manifest.

Runs whose flags differ only in what is traced share a `CompiledTask`, on which
everything is loaded and compiled once.
"""

import contextlib
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments.harness import cli, hosts, training_flags
from experiments.harness.errors import DivergedError, SettingError, is_storage
from experiments.harness.report import figures
from experiments.harness.runs import preemption, run_folder, status_log
from experiments.harness.runs.run_folder import CompleteError, RunFolder
from experiments.harness.sweep.trial_id import identity
from experiments.harness.task import Experiment, Task, count_examples
from experiments.harness.train.cycle_program import cycle_program
from experiments.harness.train.placement import read_mesh
from experiments.harness.train.progress import Progress
from experiments.harness.train.run_batch import RunHandle
from experiments.harness.train.trainer import CheckpointPolicy, Trainer


class CompiledTask:
    """What runs share that differ only in what is traced: data, and a trainer.

    Args:
      experiment: theirs.
      values: the flags of one of them.

    Attributes:
      experiment: as given.
      facts: what the manifest says of them: hashes of the data, number of cycles.

    Raises:
      SettingError: flags do not go together.
      DataError: the data are missing or damaged.
    """

    def __init__(self, experiment: Experiment, values: flags.FlagValues):
        self.experiment, self._values = experiment, values
        self._placement = read_mesh(values.mesh, values.batch_size)
        self._given = jax.tree.map(lambda x: x[0], experiment.traced_inputs(values))
        self._data = experiment.load(values)
        self.facts: dict[str, Any] = {
            'data': self._data.sha256,
            'cycles': training_flags.read_cycles(
                values, count_examples(self._data.train.examples))}

    def check_begins_alike(self, values: flags.FlagValues, shorter: list[str]
                           ) -> None:
        """See that a shorter run is the beginning of one of these.

        Args:
          values: flags of the one.
          shorter: flags of the other, one a line; they differ in the length alone.

        Raises:
          SettingError: what a cycle does depends on how many there are to be, or the
            shorter run is a trial of a sweep.
        """
        then = cli.parse(self.experiment.define_flags, shorter)
        id_then = identity(self.experiment.name, then)
        if Path(values.run_dir).name.endswith(id_then):
            raise SettingError(
                f'run folder {values.run_dir} is a trial of a sweep, which counts on '
                'its length; train a copy of the folder longer, or give another '
                '--run_dir.')
        if self.experiment.hyper(then) == self.experiment.hyper(values) and (
                cycle_program(self.experiment.task(then, self._data), self._given)
                == cycle_program(self.task, self._given)):
            return
        raise SettingError(
            f'a cycle of {self.experiment.name} depends on how many there are to be, '
            'as by a schedule of learning rates, so that a complete run is not the '
            'beginning of a longer one; give another --run_dir, to train it from the '
            'start.')

    @functools.cached_property
    def task(self) -> Task:
        """What is trained."""
        return self.experiment.task(self._values, self._data)

    @functools.cached_property
    def trainer(self) -> Trainer:
        """With the compiled programs; they are long to make, and only once."""
        return Trainer(self.task, self.facts['cycles'], self._values.evaluations,
                       self._given, bool(self._values.grad_norms), self._placement)


def main(experiment: Experiment, values: flags.FlagValues) -> None:
    """Make the run of a command; a complete one, made again, is left as it is.

    Raises:
      SettingError: flags do not go together, or the folder is not free.
      DataError: the data are missing or damaged.
      DivergedError: a loss is not finite.
      PreemptedError: the process was asked to leave.
    """
    compiled = CompiledTask(experiment, values)
    try:
        folder = open_folder(compiled, values)
    except CompleteError as complete:
        print(complete)
        figures.print_summary(Path(values.run_dir))
        return
    progress = Progress(experiment.name, compiled.facts['cycles'])
    error, = run(compiled, [values], [folder], progress)
    if error:
        raise error


def open_folder(compiled: CompiledTask, values: flags.FlagValues) -> RunFolder:
    """Make the folder of a run, or take over an interrupted or a shorter one."""
    made: list[RunFolder] = []

    def create():
        made.append(run_folder.create(
            compiled.experiment.name, values, compiled.facts,
            lambda flags: compiled.check_begins_alike(values, flags)))
        return made[0].path, made[0].lengths

    path, lengths = hosts.on_first(create)
    return made[0] if made else run_folder.shadow(path, lengths)


def run(compiled: CompiledTask, all_values: Sequence[flags.FlagValues],
        folders: Sequence[RunFolder], progress: Progress) -> list[Exception | None]:
    """Make runs side by side, or go on with a single one.

    Returns:
      For each run what ended it before it was complete, or None.

    Raises:
      PreemptedError: the process was asked to leave.
    """
    policy = CheckpointPolicy(all_values[0].checkpoint_every,
                              all_values[0].preempt_latency)
    with contextlib.ExitStack() as stack:
        for folder in folders:
            stack.enter_context(folder.attempt(alone=len(folders) == 1))
        with progress:
            results = compiled.trainer.train(
                [RunHandle(folder, compiled.experiment.traced_inputs(values))
                 for folder, values in zip(folders, all_values)], policy, progress)
        ended_by: list[Exception | None] = []
        for folder, model in zip(folders, results):
            if ended_by:
                preemption.begin_run()
            ended_by.append(_complete(compiled, folder, model, progress.quiet))
    return ended_by


def _complete(compiled: CompiledTask, folder: RunFolder, model, quiet: bool
              ) -> Exception | None:
    """Write what a training ended with; an error is its own, not that of others."""
    try:
        if isinstance(model, DivergedError):
            raise model
        folder.save_params(model[0])
        # On the host: JAX would compile a program for each shape.
        first = jax.tree.map(_first_on_host, model)
        compiled.task.draw(folder.path, *first)
        if not quiet:  # the report of a sweep has the curves of all its trials
            figures.loss_curves(folder)
        figures.print_summary(folder.path)
        folder.finish()
    except preemption.PreemptedError:
        raise
    except Exception as error:
        if is_storage(error):
            raise
        status_log.failed(folder.path, error)
        return error
    return None


def _first_on_host(x):
    if jax.numpy.issubdtype(x.dtype, jax.dtypes.extended):  # a typed key stays one
        return x[0]
    return np.asarray(x)[0]
