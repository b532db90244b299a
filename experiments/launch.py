"""Start an experiment: what every command has in common, and how it ends.

Exit status   0 done, 1 a crash, 2 a misspelt flag or a bad setting, 76 a loss is no
              longer finite, 77 the data are missing or damaged.
"""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import pooch
from absl import flags

from cdgm.data import DataError

BAD_SETTING, DIVERGED, BAD_DATA = 2, 76, 77


class SettingError(ValueError):
    """The configuration cannot be run; raised before anything compiles."""


class DivergedError(RuntimeError):
    """A loss is no longer finite."""


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
    return values


def run(define_flags: Callable[[flags.FlagValues], None],
        main: Callable[[flags.FlagValues], None], about: str | None) -> None:
    """Run an experiment, turning foreseen errors into one line and an exit status.

    Args:
      define_flags: adds the experiment's flags to a `FlagValues`.
      main: runs it.
      about: what `--help` says above the flags.
    """
    statuses = {SettingError: BAD_SETTING, DataError: BAD_DATA, DivergedError: DIVERGED}
    try:
        values = parse(define_flags, sys.argv[1:])
        if values.help:
            print(about, values.get_help(prefix='  '), sep='\n')
        else:
            keep_compiled_programs()
            main(values)
    except tuple(statuses) as error:
        print(f'error: {error}', file=sys.stderr, flush=True)
        sys.exit(statuses[type(error)])


def keep_compiled_programs() -> None:
    """Let JAX keep what it compiles, beside the data, for the next run to load.

    JAX_COMPILATION_CACHE_DIR names another folder; empty, it keeps nothing.
    """
    if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
        jax.config.update('jax_compilation_cache_dir',
                          str(Path(pooch.os_cache('cdgm')) / 'jax'))


def serialise(values: flags.FlagValues) -> str:
    """Write flags so that `--flagfile` reads them back."""
    lines = (values[name].serialize() for name in sorted(values) if name != 'help')
    return ''.join(line + '\n' for line in lines if line)
