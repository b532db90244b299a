"""Hand commands to Slurm, as one array: a task a command, requeued when it must leave.

    sbatch --array --time=M --signal=USR2@D    D seconds before the limit of M minutes

Slurm rounds: USR2 may come up to a minute earlier than D. A task that left is held for
two minutes before Slurm begins it again. What came of the commands is in their own
files; Slurm's accounting is not needed and submitit's pickles are not read.

Source: https://slurm.schedmd.com/sbatch.html (--signal, --array, --requeue).
"""

import contextlib
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from experiments.harness.errors import SettingError
from experiments.harness.sweep.slurm_task import ArrayTask

# Share of its limit that a job may give up to leave in time.
_SIGNAL_SHARE = 0.2

# Share of the time from the signal to the limit after which the command is killed: the
# request to requeue must reach Slurm before the limit.
_LEAVE_SHARE = 0.8

# After three deaths of a command a fourth start is not expected to do better.
_MAX_RESTARTS = 3

# submitit counts each USR2 near the limit as a timeout, and all of them for short jobs.
_MAX_REQUEUES = 1000


def submit(commands: Sequence[Sequence[str]], folder: Path, *, minutes: int, cpus: int,
           partition: str | None = None, parallelism: int | None = None,
           latency: float = 5., signal_delay: int | None = None, name: str = 'cdgm',
           options: Mapping[str, str | int | bool] | None = None, nodes: int = 1,
           processes_per_node: int = 1) -> list[str]:
    """Submit commands as one array, and return at once.

    On TERM and USR2 a command saves and ends with 75, and goes on when run again. It
    leaves when its standard input ends, too.

    Args:
      commands: program and arguments of each.
      folder: of logs (JOB_0_log.out and .err) and submitit's files; all nodes see it.
      minutes: limit of each task, which is then requeued, not ended.
      cpus: of each task.
      partition: Slurm's default unless given.
      parallelism: tasks at a time; as many as there is room for unless given.
      latency: seconds in which a command leaves when asked to.
      signal_delay: seconds before the limit at which it is asked to, at the latest;
        twice the latency unless given.
      name: of the job.
      options: more options of sbatch, as in {'account': 'physics', 'mem': '8G'}.
      nodes: of each task.
      processes_per_node: that run the command, on each of them.

    Returns:
      Slurm's job ids, one a command, as in '17_0'.

    Raises:
      SettingError: submitit or Slurm is not there, the limit is too short for the
        signal, or sbatch refuses.
    """
    delay = math.ceil(2 * latency) if signal_delay is None else signal_delay
    _check(minutes, latency, delay)
    if not commands:
        return []
    submitit = _submitit()
    executor = submitit.AutoExecutor(folder, cluster='slurm',
                                     slurm_max_num_timeout=_MAX_REQUEUES)
    executor.update_parameters(
        name=name, timeout_min=minutes, cpus_per_task=cpus, slurm_partition=partition,
        slurm_array_parallelism=parallelism or len(commands),
        slurm_signal_delay_s=delay, nodes=nodes, tasks_per_node=processes_per_node,
        # srun does not take over the CPUs of its job by itself.
        slurm_srun_args=[f'--cpus-per-task={cpus}', '--kill-on-bad-exit=1'],
        slurm_additional_parameters={'requeue': True, **(options or {})})
    # One of several cannot come back alone: the others wait for it in vain.
    restarts = _MAX_RESTARTS if nodes * processes_per_node == 1 else 0
    tasks = [ArrayTask(command, _LEAVE_SHARE * delay, restarts) for command in commands]
    try:
        with _outside_of_jobs():
            return [job.job_id for job in executor.submit_array(tasks)]
    except submitit.core.utils.FailedJobError as error:
        raise SettingError(f'Slurm refuses the job: {error}') from None


def _check(minutes: int, latency: float, delay: float) -> None:
    """Refuse a limit that leaves no time to work, or a signal none to leave."""
    if delay > _SIGNAL_SHARE * 60 * minutes:
        raise SettingError(
            f'a signal {delay:g} s before a limit of {minutes} min takes more than '
            f'{_SIGNAL_SHARE:.0%} of it; ask for '
            f'{math.ceil(delay / 60 / _SIGNAL_SHARE)} min.')
    if _LEAVE_SHARE * delay < latency:
        raise SettingError(
            f'a signal {delay:g} s before the limit is too late to leave within '
            f'{latency:g} s; give {math.ceil(2 * latency)} s.')


def _submitit():
    try:
        import submitit
    except ImportError:
        raise SettingError('Slurm needs submitit, which the extra slurm brings: '
                           "pip install 'cdgm[slurm]'") from None
    for program in ('sbatch', 'srun'):
        if shutil.which(program) is None:
            raise SettingError(f'there is no {program} here; submit from where Slurm '
                               'is, as on the login node of a cluster.')
    return submitit


@contextlib.contextmanager
def _outside_of_jobs() -> Iterator[None]:
    """Hide that this process is in a job itself: sbatch would take over from it."""
    own = {name: value for name, value in os.environ.items()
           if name.startswith(('SLURM_', 'SRUN_')) and name != 'SLURM_CONF'}
    if 'SLURM_JOB_ID' not in own:
        own = {}
    for name in own:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(own)
