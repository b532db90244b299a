"""A worker: claims trials that no other process has, and runs them until none wait.

    python -m experiments.harness.sweep.worker --out_dir=runs/NAME

The launcher starts workers, and a person may start more, on any machine that sees the
folder. A worker leaves when it is asked to (status 75), and when the process that
holds the other end of its standard input is gone.
"""

import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from experiments.harness import cli, errors, execute, training_flags
from experiments.harness import registry
from experiments.harness.errors import SettingError, StorageError
from experiments.harness.execute import CompiledTask
from experiments.harness.runs import preemption, status_log
from experiments.harness.runs.run_folder import BusyError, RunFolder
from experiments.harness.sweep import batching
from experiments.harness.sweep.batching import Member, Plan
from experiments.harness.sweep.spec import Trial, load
from experiments.harness.sweep.work_queue import WorkQueue
from experiments.harness.train.progress import Progress
from experiments.harness.train.run_batch import concatenate_inputs

_WAITING_STATES = ('pending', 'preempted')

# Within this time a worker opens the trials that it runs side by side.
_TAKING_SECONDS = 1.


def define_operational_flags(values: flags.FlagValues) -> None:
    """Add the flags that a sweep's command hands to its workers."""
    training_flags.define_operational_flags(values)
    own: dict[str, Any] = {'flag_values': values}
    flags.DEFINE_enum('mode', 'auto', batching.MODES, 'Whether trials that share a '
                      'program run one after another or side by side; auto measures.',
                      **own)
    flags.DEFINE_integer('workers', None, 'Processes that share the trials; one for '
                         'every two cores unless given.', lower_bound=1, **own)


def define_flags(values: flags.FlagValues) -> None:
    """Add the flags of a worker."""
    define_operational_flags(values)
    own: dict[str, Any] = {'flag_values': values}
    flags.DEFINE_string('out_dir', None, "The sweep's folder.", required=True, **own)
    flags.DEFINE_integer('number', 0, 'Which of the workers this is.', lower_bound=0,
                         **own)
    flags.DEFINE_list('trials', None, 'Identities of the trials to take; all unless '
                      'given.', **own)
    flags.DEFINE_bool('attended', False, 'Leave when standard input ends.', **own)


def main(values: flags.FlagValues) -> None:
    """Run trials until none waits that no other process has."""
    if values.attended:
        threading.Thread(target=leave_with_launcher, daemon=True).start()
    folder = Path(values.out_dir)
    mine = [trial for trial in load(folder).trials
            if values.trials is None or trial.id in values.trials]
    operational = training_flags.operational_arguments(values)
    groups = batching.group(mine, lambda trial: (
        *operational, f'--run_dir={folder / trial.folder}'))
    queue = WorkQueue(folder, list(groups), values.number)
    done: set[Trial] = set()
    while True:
        with queue.take(lambda name: _anything_waits(groups[name], done)) as name:
            if name is None:
                return
            _run_group(folder, name, groups[name], queue, values)


def leave_with_launcher() -> None:
    """Ask this process to leave once its standard input ends."""
    while os.read(sys.stdin.fileno(), 64):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _run_group(folder: Path, name: str, members: Sequence[Member],
               queue: WorkQueue, values: flags.FlagValues) -> None:
    """Run the trials of a group that no other process has."""
    preemption.begin_run()  # what went before is complete, and compiling is long
    experiment = registry.load(members[0].trial.experiment)
    try:
        compiled = CompiledTask(experiment, members[0].values)
    except Exception as error:
        if errors.is_storage(error):
            raise
        for member in filter(_waits, members):
            _note(member, error)
        return
    fresh = [member for member in members if _waits(member) and _is_fresh(member)]
    plan = _plan(compiled, fresh or members[:1], values)
    queue.ready()
    _announce(folder, name, plan)
    elsewhere: set[Trial] = set()
    while batch := _choose([member for member in members
                            if member.trial not in elsewhere], plan):
        preemption.begin_run()
        opened, unavailable = _take(compiled, batch)
        elsewhere |= unavailable
        # Another number side by side would be another program to compile.
        whole = len(opened) == len(batch)
        for some in [opened] if whole else [[one] for one in opened]:
            if not _run(compiled, some):
                gc.collect()  # the error's frames hold what filled the memory
                plan = Plan(1, f'{len(some)} took more memory than there is')
                _announce(folder, name, plan)


def _announce(folder: Path, name: str, plan: Plan) -> None:
    batching.note_plan(folder, name, plan)
    print(f'{name}: {plan.width} at a time ({plan.reason})', flush=True)


def _plan(compiled: CompiledTask, members: Sequence[Member],
          values: flags.FlagValues) -> Plan:
    try:
        given = [compiled.experiment.traced_inputs(member.values) for member in members]
        plan = batching.make_plan(compiled.trainer, given, values.workers or 1,
                                  values.mode)
        # A plan that needed no measuring has not compiled either.
        first = concatenate_inputs(given[:plan.width])
        compiled.trainer.program(compiled.trainer.start(first), first)
        return plan
    except Exception as error:
        # Whatever it is, a trial that meets it, too, says so.
        return Plan(1, f'not measured: {" ".join(str(error).split()):.200}')


def _choose(members: Sequence[Member], plan: Plan) -> Sequence[Member]:
    """What waits: several that are fresh, or a single one."""
    waiting = [member for member in members if _waits(member)]
    fresh = [member for member in waiting if _is_fresh(member)]
    # Fewer would be another program to compile.
    return fresh[:plan.width] if len(fresh) >= plan.width > 1 else waiting[:1]


def _take(compiled: CompiledTask, batch: Sequence[Member]) -> tuple[
        list[tuple[flags.FlagValues, RunFolder]], set[Trial]]:
    """Open the folders that no other process has.

    Returns:
      Flags and folder of each, and the trials that wait but cannot be opened.
    """
    opened, unavailable = [], set()
    for member in batch:
        try:
            opened.append((member.values, execute.open_folder(compiled, member.values)))
        except BusyError as error:
            print(error, file=sys.stderr, flush=True)
            if _waits(member):
                unavailable.add(member.trial)
            elif len(batch) > 1:
                # Another worker is opening the same trials: leave all of them to it.
                time.sleep(_TAKING_SECONDS)
                break
        except SettingError as error:
            if error.__context__ and errors.is_storage(error.__context__):
                raise StorageError(str(error)) from None
            _note(member, error)
    return opened, unavailable


def _run(compiled: CompiledTask,
         some: Sequence[tuple[flags.FlagValues, RunFolder]]) -> bool:
    """Run one trial, or several side by side; failures are noted, and end nothing.

    Returns:
      Whether there was enough memory to run them side by side.
    """
    values, folders = zip(*some)
    fits, ended_by = True, list[Exception | None]()
    try:
        ended_by = execute.run(compiled, values, folders, Progress(
            compiled.experiment.name, compiled.facts['cycles'], quiet=True))
    except preemption.PreemptedError:
        raise
    except Exception as error:
        if errors.is_storage(error):
            raise
        ended_by = [error] * len(folders)
        fits = len(folders) == 1 or status_log.kind_of(error) != 'memory'
    for folder, ending in zip(folders, ended_by):
        if ending:
            print(f'{folder.path}: {ending}', file=sys.stderr, flush=True)
    return fits


def _note(member: Member, error: Exception) -> None:
    run = Path(member.values.run_dir)
    run.mkdir(parents=True, exist_ok=True)
    status_log.failed(run, error)


def _anything_waits(members: Sequence[Member], done: set[Trial]) -> bool:
    """Return whether a trial waits; add those that are done to `done`, to skip them."""
    for member in members:
        if member.trial not in done:
            state = status_log.state_of(Path(member.values.run_dir)).name
            if state in _WAITING_STATES:
                return True
            if state == 'done':
                done.add(member.trial)
    return False


def _waits(member: Member) -> bool:
    return status_log.state_of(Path(member.values.run_dir)).name in _WAITING_STATES


def _is_fresh(member: Member) -> bool:
    return not any(Path(member.values.run_dir, 'checkpoints').glob('[0-9]*'))


if __name__ == '__main__':
    cli.run(define_flags, main, __doc__)
