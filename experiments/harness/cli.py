"""Start an experiment: what every command has in common, and how it ends.

Exit status   0 done, 1 a crash, 2 a misspelt flag, a bad setting or a missing extra,
              74 the disk refuses to write, 75 asked to leave, to be run again,
              76 a loss is no longer finite, 77 the data are missing or damaged.
"""

import contextlib
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import pooch
from absl import flags

from cdgm.data import DataError
from experiments.harness import hosts
from experiments.harness.errors import (
    BAD_DATA, BAD_SETTING, BAD_STORAGE, DIVERGED, DivergedError, SettingError,
    StorageError, is_storage)
from experiments.harness.runs import preemption

# Compile time from which on a program is kept. JAX's own limit of one second would keep
# none of the dozen programs of a run.
_MIN_CACHED_SECONDS = 0.1


def parse(define_flags: Callable[[flags.FlagValues], None],
          arguments: Sequence[str]) -> flags.FlagValues:
    """Read the flags of an experiment, and of no other module.

    Raises:
      SettingError: a flag is misspelt, has a bad value, or is not a flag.
    """
    values = flags.FlagValues()
    define_flags(values)
    flags.DEFINE_bool('help', False, 'Show this help.', flag_values=values)
    try:
        _, *rest = values(['', *arguments])
    except flags.Error as error:
        raise SettingError(str(error)) from None
    if rest:
        raise SettingError(f'unexpected argument {rest[0]!r}; every setting is a flag, '
                           'as in --seeds=3.')
    for name in values:
        value = values[name].value
        if isinstance(value, float) and not math.isfinite(value):
            raise SettingError(f'--{name}={value}; give a finite number.')
    return values


def run(define_flags: Callable[[flags.FlagValues], None],
        main: Callable[[flags.FlagValues], None], about: str | None,
        arguments: Sequence[str] | None = None, grace: float = 0.) -> None:
    """Run an experiment with the arguments of this process.

    Args:
      define_flags: adds the experiment's flags to a `FlagValues`.
      main: runs it.
      about: what `--help` says above the flags.
      arguments: in place of those of this process.
      grace: seconds to leave beyond `--preempt_latency`.
    """
    warnings.formatwarning = lambda message, *_, **__: f'warning: {message}\n'
    with one_line_errors():
        values = parse(define_flags, sys.argv[1:] if arguments is None else arguments)
        if values.help:
            print(about, values.get_help(prefix='  '), sep='\n')
        else:
            keep_compiled_programs()
            if 'mesh' in values and values.mesh:
                hosts.join()
            with (preemption.handle_signals(values.preempt_latency + grace)
                  if 'preempt_latency' in values else contextlib.nullcontext()):
                main(values)


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn foreseen errors into one line and an exit status."""
    statuses = {SettingError: BAD_SETTING, DataError: BAD_DATA, DivergedError: DIVERGED,
                StorageError: BAD_STORAGE}
    try:
        yield
    except preemption.PreemptedError as error:
        print(error, file=sys.stderr, flush=True)
        sys.exit(preemption.PREEMPTED)
    except OSError as error:
        if not is_storage(error):
            raise
        print(f'error: the disk refuses to write ({error}); what is saved is intact: '
              'make room, and run the same command again.', file=sys.stderr, flush=True)
        sys.exit(BAD_STORAGE)
    except tuple(statuses) as error:
        message = ' '.join(str(error).splitlines())
        print(f'error: {message}', file=sys.stderr, flush=True)
        sys.exit(next(status for kind, status in statuses.items()
                      if isinstance(error, kind)))


def keep_compiled_programs() -> None:
    """Let JAX keep what it compiles, beside the data, for the next run to load.

    JAX_COMPILATION_CACHE_DIR names another folder; empty, it keeps nothing.
    """
    if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
        jax.config.update('jax_compilation_cache_dir',
                          str(Path(pooch.os_cache('cdgm')) / 'jax'))
    if 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS' not in os.environ:
        jax.config.update('jax_persistent_cache_min_compile_time_secs',
                          _MIN_CACHED_SECONDS)


def serialise(values: flags.FlagValues) -> str:
    """Write flags so that `--flagfile` reads them back."""
    lines = (values[name].serialize() for name in sorted(values) if name != 'help')
    return ''.join(line + '\n' for line in lines if line)
