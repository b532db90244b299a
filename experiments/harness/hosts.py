"""Processes that train one run together, one a host; JAX joins them.

    Slurm                                                            found by JAX itself
    JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID       given by hand

All run the same code on the same flags, and JAX computes across them. What follows from
a clock, a signal or the disk may differ between them, so the first one decides and the
others are told. The first one also writes the folder of the run and speaks. Where there
is one process, everything here returns what it is given.
"""

import os
import pickle
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from experiments.harness.errors import SettingError

_BY_HAND = ('JAX_COORDINATOR_ADDRESS', 'JAX_NUM_PROCESSES', 'JAX_PROCESS_ID')
_STEP_OF_SLURM = ('SLURM_STEP_NODELIST', 'SLURM_NTASKS', 'SLURM_PROCID')

# How long a process that ends by an error of its own waits for the others to end.
_PATIENCE_SECONDS = 30

Result = TypeVar('Result')


def join() -> None:
    """Join the processes that the environment names; before JAX looks for devices.

    Raises:
      SettingError: the environment names only some of what it takes, or the others do
        not come.
    """
    given = [name for name in _BY_HAND[1:] if name in os.environ]
    if given:
        if missing := [name for name in _BY_HAND if name not in os.environ]:
            raise SettingError(f'{given[0]} is set and {missing[0]} is not; to join '
                               f'processes set {", ".join(_BY_HAND)}.')
        _initialize(*(_number(name) for name in _BY_HAND[1:]))
    elif all(name in os.environ for name in _STEP_OF_SLURM) and _number(
            'SLURM_NTASKS') > 1:
        _initialize()
    if not is_first():
        sys.stdout = open(os.devnull, 'w')  # what all would say, the first one says


def _number(name: str) -> int:
    try:
        return int(os.environ[name])
    except ValueError:
        raise SettingError(f'{name}={os.environ[name]} is no number.') from None


def _initialize(count: int | None = None, number: int | None = None) -> None:
    try:
        jax.distributed.initialize(num_processes=count, process_id=number,
                                   shutdown_timeout_seconds=_PATIENCE_SECONDS)
    except (ValueError, RuntimeError) as error:
        reason = ' '.join(str(error).split())
        raise SettingError(f'the processes do not come together ({reason:.200}); start '
                           'all of them, with one address.') from None


def are_several() -> bool:
    """Return whether other processes train the same run."""
    return jax.process_count() > 1


def is_first() -> bool:
    """Return whether this process is the one that decides, writes and speaks."""
    return jax.process_index() == 0


def agree(value: Result) -> Result:
    """Return what the first process gives; anything that can be pickled."""
    if not are_several():
        return value
    content = np.frombuffer(pickle.dumps(value if is_first() else None), np.uint8)
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(content))))
    told = multihost_utils.broadcast_one_to_all(np.resize(content, length))
    return pickle.loads(np.asarray(told).tobytes())


def any_of(flag: bool) -> bool:
    """Return whether a flag is up in any process."""
    if not are_several():
        return flag
    return bool(multihost_utils.process_allgather(np.asarray(flag)).any())


def on_first(act: Callable[[], Result]) -> Result:
    """Do something on the first process alone; all return, or raise, what it does."""
    if not are_several():
        return act()
    outcome: tuple[Any, Exception | None] = None, None
    if is_first():
        try:
            outcome = act(), None
        except Exception as error:  # the others would wait for ever
            outcome = None, error
    result, refusal = agree(outcome)
    if refusal is not None:
        raise refusal
    return result


def fetch(tree: Any) -> Any:
    """Give arrays that several processes hold in parts as whole ones, on each host."""
    if not are_several():
        return tree
    return jax.tree.map(
        lambda x: x if x.is_fully_addressable or x.is_fully_replicated
        else multihost_utils.process_allgather(x, tiled=True), tree)
