"""Where the numbers of a run come from: command, code, versions and machine."""

import functools
import os
import platform
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

import cdgm

_PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'chex', 'numpy')


def environment() -> dict[str, Any]:
    """Return the command, the time, the versions, the commit and the device."""
    return {
        'command': [Path(sys.argv[0]).name, *sys.argv[1:]],
        'started': time.strftime('%Y-%m-%dT%H:%M:%S%z'), **_machine()}


@functools.cache
def _machine() -> dict[str, Any]:
    """What is the same for all runs of a process."""
    device = jax.devices()[0]
    return {
        'python': platform.python_version(),
        'versions': {'cdgm': cdgm.__version__,
                     **{name: metadata.version(name) for name in _PACKAGES}},
        'commit': _git('rev-parse', 'HEAD'),
        'uncommitted': bool(_git('status', '--porcelain', '--untracked-files=no')),
        'host': platform.node(),
        'device': device.device_kind,
        'platform': device.platform,
        'devices': jax.device_count(),
        'cores': cores(),
        'xla_flags': os.environ.get('XLA_FLAGS', ''),
    }


def cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@functools.cache
def diff() -> str | None:
    """Return what the code has beside its commit; None without a repository."""
    return _git('diff', 'HEAD')


def _git(*arguments: str) -> str | None:
    """Output of a git command; None without a repository or git."""
    try:
        done = subprocess.run(['git', *arguments], cwd=Path(__file__).parent,
                              capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
