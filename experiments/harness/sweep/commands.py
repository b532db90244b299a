"""Run a sweep, or say how it stands.

    ./launch.sh NAME                    run what is left of experiments/sweeps/NAME.toml
    ./launch.sh NAME --dry_run          print the command line of every trial
    ./launch.sh NAME status             say how it stands; reads only
    ./launch.sh NAME retry              run it, trying again what has failed
    ./launch.sh NAME report             write its report from what is there

NAME may be the path of a TOML file, too. A trial is run once: what is done is kept when
a sweep is run again, extended or interrupted, and two launches share the work.
"""

import contextlib
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from absl import flags

from experiments.harness import cli
from experiments.harness.errors import SettingError
from experiments.harness.orders import one_of
from experiments.harness.report import sweep_report, text
from experiments.harness.runs import preemption, status_log, tensorboard
from experiments.harness.runs.run_lock import RunLock, TakenError
from experiments.harness.sweep import (
    command_lines, jobs, launcher, live_view, sweep_status, worker)
from experiments.harness.sweep import spec as sweeps
from experiments.harness.sweep.local_pool import WorkersError
from experiments.harness.sweep.spec import Sweep
from experiments.harness.training_flags import OPERATIONAL_FLAGS

# Kinds of failure that a checkpoint leads to again: these runs restart from cycle 0.
_RESTART_KINDS = ('setting', 'data', 'diverged', 'crash')


def define_flags(values: flags.FlagValues) -> None:
    """Add the flags of a sweep."""
    worker.define_operational_flags(values)
    jobs.define_flags(values)
    own: dict[str, Any] = {'flag_values': values}
    flags.DEFINE_string('out_dir', None, 'Folder of the sweep; runs/NAME unless given.',
                        **own)
    flags.DEFINE_multi_string('set', [], 'Replace a flag in every trial, as in '
                              '--set=epochs=2; repeat for more.', **own)
    flags.DEFINE_bool('dry_run', False, 'Print what would be run, and run nothing.',
                      **own)


def run(sweep: Sweep, folder: Path, values: flags.FlagValues) -> None:
    """Run what is left, write the report, and say what failed."""
    if values.dry_run:
        _print_commands(sweep, folder, values)
        return
    if values.tensorboard:
        tensorboard.import_tensorboardx()
    sweeps.save(sweep, folder)
    orphans = sweep_status.orphans(sweep, folder)
    if orphans:
        print(f'note: {len(orphans)} runs in {folder} are of no trial of the sweep any '
              'more; with another flag, the length included, a trial starts anew.',
              flush=True)
    # The error asked for room on the disk, and the command is run again.
    _retry_failed(sweep, folder, 'disk')
    try:
        seen = launcher.run(sweep, folder, values)
    except WorkersError as error:
        _end(error)
    preemption.mark_safe('left while writing the report; '
                         f'{command_lines.command(values, "report")} writes it')
    _show(sweep, folder)
    preemption.finished()
    left = seen.in_state('pending', 'preempted', 'running')
    failed = seen.in_state('failed')
    if left:
        print(f'warning: {len(left)} of {len(sweep.trials)} trials are not done, and '
              'no job is left; run the same command again.', file=sys.stderr,
              flush=True)
    if failed:
        _end(f'{len(failed)} of {len(sweep.trials)} trials failed; their reasons: '
             f'{command_lines.command(values, "status")}')
    if left:
        sys.exit(1)


def _end(error: object) -> NoReturn:
    print(f'error: {error}', file=sys.stderr, flush=True)
    sys.exit(1)


def status(sweep: Sweep, folder: Path, values: flags.FlagValues) -> None:
    """Print the state of every trial."""
    seen, names = sweep_status.read_status(sweep, folder), live_view.labels(sweep)
    print(f'{sweep.name}: {len(sweep.trials)} trials, {seen.counts()}; in {folder}')
    for trial in seen.in_state('running', 'preempted'):
        print(f'{seen.states[trial].name} {100 * seen.fractions[trial]:.0f} %: '
              f'{names[trial]}: {trial.folder}')
    for trial in seen.in_state('failed'):
        print(': '.join(live_view.describe_failure(trial, names, seen)))
    for orphan in sweep_status.orphans(sweep, folder):
        print(f'no longer in the sweep: {orphan}')


def retry(sweep: Sweep, folder: Path, values: flags.FlagValues) -> None:
    """Forget failures, and run."""
    if not values.dry_run:
        _retry_failed(sweep, folder)
    run(sweep, folder, values)


def _retry_failed(sweep: Sweep, folder: Path, *kinds: str) -> None:
    """Note that failed trials are to be tried again, of all kinds unless given."""
    seen = sweep_status.read_status(sweep, folder)
    for trial in seen.in_state('failed'):
        state, run_folder = seen.states[trial], folder / trial.folder
        if kinds and state.kind not in kinds:
            continue
        with contextlib.suppress(TakenError):
            lock = RunLock(run_folder)
            try:
                if status_log.count(status_log.read(run_folder)) != state.attempts:
                    continue  # someone else has tried it meanwhile
                if state.kind in _RESTART_KINDS:
                    _reset_run(run_folder)
                status_log.retry(run_folder)
            finally:
                lock.release()


def rewrite(sweep: Sweep, folder: Path, values: flags.FlagValues) -> None:
    """Write the report from what is there."""
    if not (folder / 'sweep.json').exists():
        raise SettingError(f'{folder} holds no sweep; run it first, or name its folder '
                           'with --out_dir.')
    _show(sweep, folder)


def _show(sweep: Sweep, folder: Path) -> None:
    print(*text.lines(sweep, folder), '', sweep_report.write(sweep, folder), sep='\n')


COMMANDS: dict[str, Callable[[Sweep, Path, flags.FlagValues], None]] = {
    'run': run, 'status': status, 'retry': retry, 'report': rewrite}


def main(arguments: Sequence[str]) -> None:
    """Do what a command line says: a sweep, what to do with it, and flags."""
    with cli.one_line_errors():
        if not arguments or '--help' in arguments:
            cli.run(define_flags, lambda values: None, __doc__, ['--help'])
            return
        name, what, rest = _read(list(arguments))
        path = sweeps.named(name)

    def act(values):
        flags.DEFINE_string('name', name, '', flag_values=values)
        jobs.require_a_cluster(values)
        sweep = sweeps.read(path, values.set)
        folder = Path(values.out_dir or Path('runs') / sweep.name)
        there = next(path for path in (folder, *folder.parents) if path.exists())
        if not there.is_dir():
            raise SettingError(f'{there} is no folder; name one with --out_dir.')
        COMMANDS[what](sweep, folder, values)

    cli.run(define_flags, act, __doc__, rest, grace=10.)


def _read(arguments: list[str]) -> tuple[str, str, list[str]]:
    name, *rest = arguments
    if name.startswith('-'):
        raise SettingError(f'{name} comes before the name of the sweep; write the name '
                           'first.')
    if not rest or rest[0].startswith('-'):
        return name, 'run', rest
    try:
        return name, one_of('command', rest[0], tuple(COMMANDS)), rest[1:]
    except ValueError as error:
        raise SettingError(str(error)) from None


def _print_commands(sweep: Sweep, folder: Path, values: flags.FlagValues) -> None:
    operational = [values[name].serialize()
                   for name in OPERATIONAL_FLAGS if values[name].present]
    seen = sweep_status.read_status(sweep, folder)
    for trial in sweep.trials:
        command = shlex.join(['./launch.sh', trial.experiment, *trial.arguments,
                              *operational, f'--run_dir={folder / trial.folder}'])
        print(f'{command}  # {seen.states[trial].name}')


def _reset_run(run: Path) -> None:
    """Delete what a failed run has reached, but for its log of attempts."""
    for name in 'manifest.json', 'metrics.jsonl', 'flags.txt', 'uncommitted.diff':
        (run / name).unlink(missing_ok=True)
    shutil.rmtree(run / 'checkpoints', ignore_errors=True)
