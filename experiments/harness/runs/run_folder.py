"""The folder of a run, which says all that is known of it.

    flags.txt         every flag, re-loadable with --flagfile=RUN/flags.txt
    manifest.json     command, flags, versions, commit, device, cores, hash of the data;
                      of a complete run its attempts and the digests of its numbers, too
    uncommitted.diff  what the code had beside its commit, if anything
    attempts.jsonl    what became of it, see `status_log`
    metrics.jsonl     one row a chunk of training; arrays have one entry a seed
    checkpoints/      where to go on, see `checkpoint`; of a complete run the last one,
                      to train it longer; may be deleted
    params.npz        the final parameters, leaf path -> array with a leading seed axis
    snapshots/        what the task shows of itself at each evaluation, see `snapshots`
    *.png             figures
    tensorboard/      with --tensorboard
"""

import contextlib
import hashlib
import itertools
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags

from cdgm.blocks import leaf_path
from experiments.harness.cli import serialise
from experiments.harness.errors import SettingError, StorageError
from experiments.harness.runs import (
    atomic, checkpoint, preemption, provenance, status_log)
from experiments.harness.runs.run_lock import RunLock, TakenError
from experiments.harness.runs.tensorboard import Events
from experiments.harness.training_flags import (
    LENGTH_FLAGS, NON_IDENTITY_FLAGS, canonical)

# What of the environment XLA's rounding depends on.
_ROUNDING_FACTS = ('versions', 'device', 'devices', 'cores', 'xla_flags')


class BusyError(SettingError):
    """The folder holds a complete run, or another process writes it."""


class CompleteError(BusyError):
    """The folder holds the run that is asked for, and all of it."""


class RunFolder(NamedTuple):
    """A folder that this process writes.

    Attributes:
      path: of the folder.
      lock: what keeps other processes out; None for a folder that was not made by
        `create`.
      events: for TensorBoard, or None.
      lengths: in cycles, at which the run was complete before it was made longer.
      home: of a `shadow`, the folder of the run itself; otherwise None.
    """

    path: Path
    lock: RunLock | None = None
    events: Events | None = None
    lengths: tuple[int, ...] = ()
    home: Path | None = None

    @property
    def named(self) -> Path:
        """The folder that messages name, for the same command to be run again."""
        return self.home or self.path

    @property
    def checkpoints(self) -> Path:
        """Where the checkpoints go."""
        return self.named / 'checkpoints'

    def add_row(self, row: dict[str, Any]) -> None:
        """Append a row to the metrics, at once, so that a crash loses none."""
        with open(self.path / 'metrics.jsonl', 'a') as file:
            file.write(json.dumps(row, default=_plain) + '\n')
        if self.events is not None:
            self.events.add_row(row)

    def save_params(self, params) -> None:
        """Write the parameters, leaf path -> array."""
        leaves = jax.tree_util.tree_flatten_with_path(params)[0]
        with atomic.atomic_write(self.path / 'params.npz', 'wb') as file:
            arrays: Any = {leaf_path(path): np.asarray(leaf) for path, leaf in leaves}
            np.savez(file, **arrays)

    def rows_so_far(self) -> dict[str, Any]:
        """Flush the metrics to the disk; return their length in bytes and their digest."""
        with open(self.path / 'metrics.jsonl', 'a+b') as file:
            atomic.sync(file)
            file.seek(0)
            content = file.read()
        return {'bytes': len(content), 'sha256': hashlib.sha256(content).hexdigest()}

    def has_rows(self, rows: dict[str, Any]) -> bool:
        """Return whether the metrics begin as `rows_so_far` described them."""
        with contextlib.suppress(FileNotFoundError):
            content = (self.path / 'metrics.jsonl').read_bytes()[:rows['bytes']]
            return (len(content) == rows['bytes']
                    and hashlib.sha256(content).hexdigest() == rows['sha256'])
        return False

    def cut_rows(self, rows: dict[str, Any] | None) -> bool:
        """Drop the metrics beyond `rows`, None for all; return whether there were any."""
        try:
            os.truncate(self.path / 'metrics.jsonl', rows['bytes'] if rows else 0)
        except FileNotFoundError:
            return False
        return True

    def begin(self, cycle: int) -> None:
        """Note that an attempt goes on from a cycle."""
        if self.lock is not None:
            status_log.began(self.path, cycle)

    @contextlib.contextmanager
    def attempt(self, alone: bool = True) -> Iterator[None]:
        """Note how an attempt ends, unless `finish` did, and let others go on.

        Args:
          alone: otherwise too little memory is no failure: alone there may be enough.
        """
        def note_preempted():
            if not status_log.is_over(self.path):
                status_log.ended(self.path, 'preempted')

        def give_back():
            if self.events is not None:
                self.events.close()
            if self.lock is not None:
                self.lock.release()
            if self.home is not None:
                shutil.rmtree(self.path, ignore_errors=True)

        def leave():
            note_preempted()
            give_back()

        try:
            with preemption.on_exit(leave):
                yield
        except preemption.PreemptedError:
            note_preempted()
            raise
        except Exception as error:
            # Where the disk refuses, it refuses this line too.
            with contextlib.suppress(OSError):
                if not alone and status_log.kind_of(error) == 'memory':
                    note_preempted()
                elif not status_log.is_over(self.path):
                    status_log.failed(self.path, error)
            raise
        finally:
            give_back()

    def finish(self) -> None:
        """Declare the run complete and drop its checkpoints but for the last."""
        if self.lock is not None and not self.lock.is_mine():
            raise StorageError(f'run folder {self.path} was taken over by another '
                               'process while this one gave no sign of life.')
        preemption.finished()
        if self.events is not None:
            self.events.add_pictures()
        manifest = status_log.read_manifest(self.path) or {}
        _write_json(self.path / 'manifest.json', {
            **manifest, 'attempts': status_log.count(status_log.read(self.path)),
            'digests': digests(self.path)})
        status_log.ended(self.path, 'done')
        if self.home is None:
            checkpoint.drop_all_but_last(self.checkpoints)


def digests(path: Path) -> dict[str, str]:
    """Digests of a run's numbers: its parameters and, but for time, its metrics."""
    params = hashlib.sha256()
    with np.load(path / 'params.npz') as leaves:
        for name, leaf in sorted(leaves.items()):
            params.update(f'{name} {leaf.dtype} {leaf.shape}\n'.encode())
            params.update(leaf.tobytes())
    # Sorted, because a row of runs side by side names its numbers in another order.
    rows = json.dumps([{**row, 'seconds': None} for row in read_rows(path)],
                      sort_keys=True)
    return {'params': params.hexdigest(),
            'metrics': hashlib.sha256(rows.encode()).hexdigest()}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with atomic.atomic_write(path) as file:
        file.write(json.dumps(content, indent=1) + '\n')


def _plain(value):
    return np.asarray(value).tolist()


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read the metrics of a run."""
    with open(path / 'metrics.jsonl') as file:
        return [json.loads(line) for line in file]


def load_params(path: Path) -> dict[str, Any]:
    """Read the parameters of a run back as nested dicts."""
    tree: dict[str, Any] = {}
    with np.load(path / 'params.npz') as leaves:
        for name, leaf in leaves.items():
            *parents, last = name.split('/')
            node = tree
            for parent in parents:
                node = node.setdefault(parent, {})
            node[last] = leaf
    return tree


def create(experiment: str, values: flags.FlagValues, facts: dict[str, Any],
           check_longer: Callable[[list[str]], None] = lambda flags: None) -> RunFolder:
    """Make the folder of a run and write what is known before it starts.

    A folder of a run that is not complete is taken over, if the run is the same; that
    of a complete one, if the run is the same but for a greater length.

    Args:
      experiment: its name; without the flag `run_dir` the folder is the first free one
        of runs/EXPERIMENT-DATASET-ORDER, and this with -2, -3, …
      values: the flags.
      facts: what the manifest holds beside the versions and the device; `cycles` is
        the length of the run.
      check_longer: raises `SettingError` where a run of the flags it is given, one a
        line, is not the beginning of this one.

    Raises:
      CompleteError: the folder holds this run, complete.
      BusyError: it holds a longer one, or another process writes it.
      SettingError: it holds one with other flags or data, or it cannot be written.
    """
    path = Path(values.run_dir or Path('runs') / re.sub(
        r'\W+', '-', '-'.join(filter(None, (experiment, values.dataset,
                                         values.order)))))
    manifest = {'experiment': experiment, 'flags': serialise(values).splitlines(),
                **provenance.environment(), **facts}
    with _writing(path):
        if values.run_dir:
            path.mkdir(parents=True, exist_ok=True)
        else:
            path = new_folder(path)
        try:
            lock = RunLock(path)
        except TakenError as error:
            raise BusyError(f'run folder {path} is being written by {error}; give '
                            'another --run_dir, or wait for it.') from None
        try:
            events = Events(path) if values.tensorboard else None
            lengths = _open(path, values, manifest, facts, check_longer)
        except BaseException:
            lock.release()
            raise
    return RunFolder(path, lock, events, lengths)


def shadow(home: Path, lengths: tuple[int, ...]) -> RunFolder:
    """Make a folder that is thrown away, for a process whose run another one writes.

    It holds what the other writes too, from the rows on that there are already, but for
    the checkpoints, which have one place.

    Args:
      home: the folder of the run.
      lengths: as the other found them.
    """
    path = Path(tempfile.mkdtemp(prefix='run-'))
    with contextlib.suppress(FileNotFoundError):
        shutil.copy(home / 'metrics.jsonl', path)
    return RunFolder(path, lengths=lengths, home=home)


def _open(path: Path, values: flags.FlagValues, manifest: dict[str, Any],
          facts: Iterable[str], check_longer: Callable[[list[str]], None]
          ) -> tuple[int, ...]:
    """Begin a run in a folder, or see that the one there is the same.

    Returns:
      The lengths at which it was complete before.
    """
    for name in 'params.npz', 'manifest.json', 'flags.txt':
        atomic.clear(path / name)
    before, begun = status_log.read_manifest(path), (path / 'metrics.jsonl').exists()
    if before is None and begun:
        raise BusyError(f'run folder {path} holds a run already; give another '
                        '--run_dir, or move it away.')
    if before is not None and 'digests' in before:
        _check_longer(path, before, manifest)
        _check_same(path, values, before, manifest, facts)
        if manifest.get('cycles') == before.get('cycles'):
            raise CompleteError(
                f'run folder {path} holds this run already, complete; train it longer, '
                f'as with --cycles={2 * before.get("cycles", 1)}, or give another '
                '--run_dir.')
        check_longer((path / 'flags.txt').read_text().splitlines())
        before = {**{name: value for name, value in before.items()
                     if name not in ('digests', 'attempts')},
                  **{name: manifest[name] for name in ('command', 'flags', 'cycles')},
                  'lengths': [*before.get('lengths', ()), before['cycles']]}
        # From here on the run is not complete, whatever happens.
        _write_json(path / 'manifest.json', before)
    elif before is not None and begun:
        _check_same(path, values, before, manifest, facts)
    else:
        before = manifest
        if manifest['uncommitted']:
            (path / 'uncommitted.diff').write_text(provenance.diff() or '')
        _write_json(path / 'manifest.json', manifest)
    with atomic.atomic_write(path / 'flags.txt') as file:
        file.writelines(f'{line}\n' for line in before['flags'])
    return tuple(before.get('lengths', ()))


def _check_longer(path: Path, before: dict[str, Any], manifest: dict[str, Any]) -> None:
    """Refuse to go on with a complete run that is to be shorter than it is."""
    then, now = before.get('cycles', 0), manifest.get('cycles', 0)
    if now < then:
        raise BusyError(
            f'run folder {path} holds a run already, of {then} cycles; give another '
            f'--run_dir, move it away, or train it longer, as with --cycles={2 * then}.')
    if now > then and not checkpoint.numbered(path / 'checkpoints'):
        raise BusyError(
            f'run folder {path} holds a run already, of {then} cycles, whose last '
            'checkpoint is gone, so that it cannot be trained longer; give another '
            '--run_dir.')


def _check_same(path: Path, values: flags.FlagValues, before: dict[str, Any],
                manifest: dict[str, Any], facts: Iterable[str]) -> None:
    """Refuse to go on with a run of other flags or data; warn of another machine.

    The flags of the length are not compared, but what they come to: a fact, which may
    have grown where the run is complete.
    """
    kind = 'a complete' if 'digests' in before else 'an interrupted'
    there = _by_name((path / 'flags.txt').read_text())
    here = _by_name(serialise(values))
    differ = sorted(name for name in {*there, *here}
                    if name not in (*NON_IDENTITY_FLAGS, *LENGTH_FLAGS)
                    and _values(there, name) != _values(here, name))
    if differ:
        then, now = (' '.join(line for name in differ for line in lines.get(name, ()))
                     for lines in (there, here))
        raise SettingError(
            f'run folder {path} holds {kind} run with other flags (then '
            f'{then or "none"}, now {now or "none"}); give the same, or another '
            '--run_dir.')
    for name in (*facts, *_ROUNDING_FACTS):
        if before.get(name) == manifest[name]:
            continue
        if name == 'cycles':
            if 'digests' in before:
                continue
            raise SettingError(
                f'run folder {path} holds an interrupted run of {before[name]} cycles, '
                f'and this is one of {manifest[name]}; finish it with '
                f'--cycles={before[name]}, after which it can be trained longer, or '
                'give another --run_dir.')
        change = f'{name} was {before.get(name)} and is now {manifest[name]}'
        if name in facts:
            raise SettingError(f'run folder {path} holds {kind} run whose '
                               f'{change}; give another --run_dir.')
        print(f'warning: {change}: the run goes on, but its last bits may be others '
              'than those of an uninterrupted one.', file=sys.stderr, flush=True)


def _values(lines: dict[str, list[str]], name: str) -> list[str] | None:
    """What a flag was given, its numbers written in one way."""
    return [canonical(line.partition('=')[2]) for line in lines[name]
            ] if name in lines else None


def _by_name(lines: str) -> dict[str, list[str]]:
    """Flag name -> the lines that set it."""
    named: dict[str, list[str]] = {}
    for line in lines.splitlines():
        named.setdefault(line.removeprefix('--').partition('=')[0], []).append(line)
    return named


def new_folder(path: Path) -> Path:
    """Make the first of PATH, PATH-2, PATH-3, … that does not exist.

    Raises:
      SettingError: it cannot be made.
    """
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(1):
            free = path if number == 1 else path.with_name(f'{path.name}-{number}')
            with contextlib.suppress(FileExistsError):  # another process was first
                free.mkdir()
                break
    return free


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SettingError(f'folder {path} cannot be written ({error.strerror}); '
                           'name one that can.') from None
