"""The command of a sweep as a person types it, to do something else with it."""

import shlex

from absl import flags


def command(values: flags.FlagValues, what: str) -> str:
    """Name the same sweep, in the same folder, to `commands.COMMANDS[what]`."""
    return shlex.join([
        './launch.sh', values.name, what,
        *([f'--out_dir={values.out_dir}'] if values.out_dir else []),
        *(f'--set={override}' for override in values.set)])
