"""Workers of a Slurm cluster: one array of jobs, each with trials of one program."""

import subprocess
import time
from pathlib import Path
from typing import Any

from absl import flags

from experiments.harness.errors import SettingError
from experiments.harness.sweep import (
    batching, command_lines, joint_trial, local_pool, slurm)
from experiments.harness.sweep.spec import Trial
from experiments.harness.sweep.sweep_status import SweepStatus

# Time from one call of squeue to the next.
_SQUEUE_SECONDS = 10.


def define_flags(values: flags.FlagValues) -> None:
    """Add the flags of a cluster."""
    own: dict[str, Any] = {'flag_values': values}
    flags.DEFINE_enum('cluster', 'local', ['local', 'slurm'], 'Where to run: in '
                      'processes of this machine, or as an array of Slurm jobs.',
                      **own)
    flags.DEFINE_string('partition', None, "Slurm's, if not its default.", **own)
    flags.DEFINE_integer('minutes', 60, 'Limit of a Slurm job, which is then '
                         'requeued.', lower_bound=1, **own)
    flags.DEFINE_integer('cpus', 2, 'Cores of a Slurm job.', lower_bound=1, **own)
    flags.DEFINE_integer('parallelism', None, 'Slurm jobs at a time; as many as there '
                         'is room for unless given.', lower_bound=1, **own)
    flags.DEFINE_integer('trials_per_job', None, 'Trials of a Slurm job; all that '
                         'share a program unless given.', lower_bound=1, **own)
    flags.DEFINE_integer('nodes', 1, 'Nodes of a Slurm job, which train each trial '
                         'together, on the devices of --mesh.', lower_bound=1, **own)
    flags.DEFINE_integer('processes_per_node', 1, 'Processes on each of the nodes.',
                         lower_bound=1, **own)
    flags.DEFINE_multi_string('sbatch', [], 'Another option of sbatch, as in '
                              '--sbatch=account=physics; repeat for more.', **own)


def require_a_cluster(values: flags.FlagValues) -> None:
    """Refuse flags of Slurm's jobs where there will be none.

    Raises:
      SettingError: one was given without --cluster=slurm.
    """
    ours = flags.FlagValues()
    define_flags(ours)
    given = [f'--{name}' for name in ours
             if name != 'cluster' and values[name].present]
    if values.cluster != 'slurm' and given:
        raise SettingError(f'{", ".join(given)} would be ignored, as the sweep runs in '
                           'processes of this machine; add --cluster=slurm, or leave '
                           'it out.')


class Jobs:
    """Jobs that go on whether or not the launcher lives.

    Args:
      folder: of the sweep.
      values: flags of the sweep's command.
      waiting: trials to run.

    Raises:
      SettingError: submitit or Slurm is not there, or refuses.
    """

    def __init__(self, folder: Path, values: flags.FlagValues, waiting: list[Trial]):
        status = command_lines.command(values, 'status')
        self.exit_message = f'the jobs go on; {status} says how they stand'
        if values.nodes * values.processes_per_node > 1:
            commands = _joint_commands(folder, values, waiting)
        else:
            commands = [
                [*local_pool.command(folder, values, workers=1),
                 '--trials=' + ','.join(ids)]
                for ids in _split(waiting, values.trials_per_job)]
        self._ids = slurm.submit(
            commands, folder / 'slurm', minutes=values.minutes, cpus=values.cpus,
            partition=values.partition, parallelism=values.parallelism,
            latency=values.preempt_latency, name=Path(values.name).stem,
            options=_options(values.sbatch), nodes=values.nodes,
            processes_per_node=values.processes_per_node)
        self._asked = time.monotonic()
        if self._ids:
            print(f'submitted {len(self._ids)} jobs to Slurm: {self._ids[0]} … '
                  f'{self._ids[-1]}', flush=True)

    def ensure_workers(self, status: SweepStatus) -> bool:
        """Return whether any job is left; Slurm requeues what it can."""
        if not self._ids:
            return False
        if time.monotonic() - self._asked > _SQUEUE_SECONDS:
            self._asked = time.monotonic()
            asked = subprocess.run(
                ['squeue', '--noheader', '--jobs', self._ids[0].split('_')[0]],
                capture_output=True, text=True, check=False)
            # Slurm forgets a job some time after its end, and then knows no such id;
            # any other error is one of asking.
            return bool(asked.stdout.strip()) or (
                asked.returncode != 0 and 'Invalid job id' not in asked.stderr)
        return True

    def shutdown(self) -> None:
        """Do nothing: the jobs go on."""


def _joint_commands(folder: Path, values: flags.FlagValues, waiting: list[Trial]
                    ) -> list[list[str]]:
    """A trial a job: its processes cannot take trials off a queue each for itself."""
    if not values.mesh:
        raise SettingError(
            f'--nodes={values.nodes} --processes_per_node={values.processes_per_node} '
            'train each trial together; say on what devices, as by --mesh=data=2.')
    return [joint_trial.command(folder, values, trial) for trial in waiting]


def _options(written: list[str]) -> dict[str, str]:
    options = dict(option.partition('=')[::2] for option in written)
    for name, value in options.items():
        if not value:
            raise SettingError(f'--sbatch={name} has no value; write it as '
                               '--sbatch=account=physics.')
    return options


def _split(trials: list[Trial], size: int | None) -> list[list[str]]:
    """Identities of the trials of each job, which share a program."""
    parts = []
    for members in batching.group(trials).values():
        step = size or len(members)
        parts += [[member.trial.id for member in members[at:at + step]]
                  for at in range(0, len(members), step)]
    return parts
