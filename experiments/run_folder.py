"""The folder of a run, which says all that is known of it.

    flags.txt       every flag, re-loadable with --flagfile=RUN/flags.txt
    env.json        versions, commit, device, cores, command, hashes of the data
    metrics.jsonl   one row a chunk of training; arrays have one entry a seed
    params.npz      the final parameters, leaf path -> array with a leading seed axis
    *.png           figures
"""

import contextlib
import itertools
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags

import cdgm
from cdgm.blocks import leaf_path
from experiments.launch import SettingError, serialise

_PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'chex', 'numpy')


class RunFolder(NamedTuple):
    """A folder that this process writes."""

    path: Path

    def add_row(self, row: dict[str, Any]) -> None:
        """Append a row to the metrics, at once, so that a crash loses none."""
        with open(self.path / 'metrics.jsonl', 'a') as file:
            file.write(json.dumps(row, default=_plain) + '\n')

    def save_params(self, params) -> None:
        """Write the parameters, leaf path -> array."""
        leaves = jax.tree_util.tree_flatten_with_path(params)[0]
        np.savez(self.path / 'params.npz',
                 **{leaf_path(path): np.asarray(leaf) for path, leaf in leaves})


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


def create(name: str, values: flags.FlagValues, facts: dict[str, Any]) -> RunFolder:
    """Make the folder of a run and write what is known before it starts.

    Args:
      name: of the run, if the flag `run_dir` names no folder: the first free one of
        runs/NAME, runs/NAME-2, … What is no letter or digit becomes a dash.
      values: the flags.
      facts: what `env.json` holds beside the versions and the device.

    Raises:
      SettingError: the folder holds a run, or cannot be written.
    """
    path = Path(values.run_dir or Path('runs') / re.sub(r'\W+', '-', name))
    environment = {**_environment(), **facts}
    with _writing(path):
        if values.run_dir:
            path.mkdir(parents=True, exist_ok=True)
        else:
            path = new_folder(path)
        if (path / 'metrics.jsonl').exists():
            raise SettingError(f'run folder {path} holds a run already; give another '
                               '--run_dir, or move it away.')
        (path / 'flags.txt').write_text(serialise(values))
        (path / 'env.json').write_text(json.dumps(environment, indent=1) + '\n')
    return RunFolder(path)


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
