"""The folder of a run, which says all that is known of it.

    flags.txt       every flag, re-loadable with --flagfile=RUN/flags.txt
    env.json        versions, commit, device, cores, command, hashes of the data
    metrics.jsonl   one row a chunk of training; arrays have one entry a seed
    checkpoints/    while the run is not complete: where to go on, see `checkpoint`
    params.npz      the final parameters, leaf path -> array with a leading seed axis
    *.png           figures
"""

import contextlib
import fcntl
import hashlib
import itertools
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags

import cdgm
from cdgm.blocks import leaf_path
from experiments import preemption
from experiments.launch import SettingError, serialise

_PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'chex', 'numpy')


# Flags that leave the numbers as they are.
_FREE = ('run_dir', 'data_dir', 'checkpoint_every', 'preempt_latency')

# What of the environment decides how XLA rounds.
_ROUNDS = ('versions', 'device', 'cores', 'xla_flags')


class RunFolder(NamedTuple):
    """A folder that this process writes.

    Attributes:
      path: of the folder.
      lock: descriptor of the file that keeps other processes out; None for a folder
        that was not made by `create`.
    """

    path: Path
    lock: int | None = None

    @property
    def checkpoints(self) -> Path:
        """Where the checkpoints go; it is there as long as the run is not complete."""
        return self.path / 'checkpoints'

    def add_row(self, row: dict[str, Any]) -> None:
        """Append a row to the metrics, at once, so that a crash loses none."""
        with open(self.path / 'metrics.jsonl', 'a') as file:
            file.write(json.dumps(row, default=_plain) + '\n')

    def save_params(self, params) -> None:
        """Write the parameters, leaf path -> array."""
        leaves = jax.tree_util.tree_flatten_with_path(params)[0]
        with open(self.path / '.params.npz', 'wb') as file:
            np.savez(file, **{leaf_path(path): np.asarray(leaf)
                              for path, leaf in leaves})
            _sync(file)
        os.replace(self.path / '.params.npz', self.path / 'params.npz')

    def rows_so_far(self) -> dict[str, Any]:
        """Bring the metrics to the disk and say how many bytes, with what digest."""
        with open(self.path / 'metrics.jsonl', 'a+b') as file:
            _sync(file)
            file.seek(0)
            content = file.read()
        return {'bytes': len(content), 'sha256': hashlib.sha256(content).hexdigest()}

    def has_rows(self, rows: dict[str, Any]) -> bool:
        """Say whether the metrics begin as `rows_so_far` said."""
        with contextlib.suppress(FileNotFoundError):
            content = (self.path / 'metrics.jsonl').read_bytes()[:rows['bytes']]
            return (len(content) == rows['bytes']
                    and hashlib.sha256(content).hexdigest() == rows['sha256'])
        return False

    def cut_rows(self, rows: dict[str, Any] | None) -> bool:
        """Drop the metrics beyond `rows`, None for all; say whether there were any."""
        try:
            os.truncate(self.path / 'metrics.jsonl', rows['bytes'] if rows else 0)
        except FileNotFoundError:
            return False
        return True

    def finish(self) -> None:
        """Declare the run complete and drop its checkpoints."""
        preemption.finished()
        if self.checkpoints.exists():
            # Renamed first: half a folder of checkpoints would be a run to go on with.
            shutil.rmtree(self.checkpoints.rename(self.path / '.checkpoints'))
        if self.lock is not None:
            os.close(self.lock)


def _plain(value):
    return np.asarray(value).tolist()


def _sync(file) -> None:
    file.flush()
    os.fsync(file.fileno())


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


def create(name: str, values: flags.FlagValues, facts: dict[str, Any]) -> RunFolder:
    """Make the folder of a run and write what is known before it starts.

    A folder of a run that is not complete is taken over, if the run is the same.

    Args:
      name: of the run, if the flag `run_dir` names no folder: the first free one of
        runs/NAME, runs/NAME-2, … What is no letter or digit becomes a dash.
      values: the flags.
      facts: what `env.json` holds beside the versions and the device.

    Raises:
      SettingError: the folder holds a complete run or one with other flags or data, it
        is another process's, or it cannot be written.
    """
    path = Path(values.run_dir or Path('runs') / re.sub(r'\W+', '-', name))
    environment = {**_environment(), **facts}
    with _writing(path):
        if values.run_dir:
            path.mkdir(parents=True, exist_ok=True)
        else:
            path = new_folder(path)
        if not (path / 'checkpoints').exists() and (path / 'metrics.jsonl').exists():
            raise SettingError(f'run folder {path} holds a run already; give another '
                               '--run_dir, or move it away.')
        (path / 'checkpoints').mkdir(exist_ok=True)
        folder = RunFolder(path, _lock(path))
        if (path / 'metrics.jsonl').exists():
            _check_same(path, values, environment, facts)
        else:
            (path / 'flags.txt').write_text(serialise(values))
            (path / 'env.json').write_text(json.dumps(environment, indent=1) + '\n')
    return folder


def _lock(path: Path) -> int:
    """Keep other processes out, until this one ends."""
    descriptor = os.open(path / 'checkpoints' / 'lock', os.O_RDWR | os.O_CREAT)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        os.close(descriptor)
        raise SettingError(f'run folder {path} is being written by another process; '
                           'give another --run_dir, or wait for it.') from None
    return descriptor


def _check_same(path: Path, values: flags.FlagValues, environment: dict[str, Any],
                facts: Iterable[str]) -> None:
    """Refuse to go on with a run of other flags or data; tell of other machines."""
    there = _by_name((path / 'flags.txt').read_text())
    here = _by_name(serialise(values))
    differ = sorted(name for name in {*there, *here}
                    if name not in _FREE and there.get(name) != here.get(name))
    if differ:
        then, now = (' '.join(line for name in differ for line in lines.get(name, ()))
                     for lines in (there, here))
        raise SettingError(
            f'run folder {path} holds an interrupted run with other flags (then '
            f'{then or "none"}, now {now or "none"}); give the same, or another '
            '--run_dir.')
    before = json.loads((path / 'env.json').read_text())
    for name in (*facts, *_ROUNDS):
        if before.get(name) == environment[name]:
            continue
        change = f'{name} was {before.get(name)} and is now {environment[name]}'
        if name in facts:
            raise SettingError(f'run folder {path} holds an interrupted run whose '
                               f'{change}; give another --run_dir.')
        print(f'warning: {change}: the run goes on, but its last bits may be others '
              'than those of an uninterrupted one.', file=sys.stderr, flush=True)


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
            with contextlib.suppress(FileExistsError):  # perhaps just now
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


def _environment() -> dict[str, Any]:
    device = jax.devices()[0]
    return {
        'command': [Path(sys.argv[0]).name, *sys.argv[1:]],
        'started': time.strftime('%Y-%m-%dT%H:%M:%S%z'),
        'python': platform.python_version(),
        'versions': {'cdgm': cdgm.__version__,
                     **{name: metadata.version(name) for name in _PACKAGES}},
        'commit': _git('rev-parse', 'HEAD'),
        'uncommitted': bool(_git('status', '--porcelain', '--untracked-files=no')),
        'device': device.device_kind,
        'platform': device.platform,
        'devices': jax.device_count(),
        'cores': len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity')
        else os.cpu_count(),
        'xla_flags': os.environ.get('XLA_FLAGS', ''),
    }


def _git(*arguments: str) -> str | None:
    """What git says of the code; None where there is no repository, or no git."""
    try:
        done = subprocess.run(['git', *arguments], cwd=Path(__file__).parent,
                              capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
