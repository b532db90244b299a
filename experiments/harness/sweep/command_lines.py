"""Command lines of a sweep, for messages that name the next step."""

import shlex

from absl import flags


def command(values: flags.FlagValues, what: str) -> str:
    """Return the command line of the same sweep and folder for `COMMANDS[what]`."""
    return shlex.join([
        './launch.sh', values.name, what,
        *([f'--out_dir={values.out_dir}'] if values.out_dir else []),
        *(f'--set={override}' for override in values.set)])
