"""The flags of a trial: from what a sweep's file says, as text, and for people.

A choice is {flag: value}; a value is text, a number, true or false, or, for a flag that
may be given several times, an array of them.
"""

from collections.abc import Mapping
from typing import Any

from absl import flags

from experiments.harness import cli
from experiments.harness import registry
from experiments.harness.orders import one_of
from experiments.harness.training_flags import NON_IDENTITY_FLAGS


def parse(experiment: str, choice: Mapping[str, Any]) -> tuple[
        tuple[str, ...], flags.FlagValues]:
    """Write a choice as on a command line, read it back and check all of it.

    Raises:
      ValueError: a flag or value is mistyped, or they do not go together.
    """
    chosen = registry.load(experiment)
    known = cli.parse(chosen.define_flags, [])
    arguments = tuple(
        f'--{"" if one else "no"}{name}' if isinstance(one, bool) else f'--{name}={one}'
        for name, value in choice.items() for one in _checked(name, value, known))
    values = cli.parse(chosen.define_flags, arguments)
    chosen.hyper(values)  # what flags mean together, only the experiment knows
    return arguments, values


def _checked(name: str, value: Any, known: flags.FlagValues) -> list[str | int]:
    """Refuse what would make no flag, or another one than meant; absl does the rest."""
    if name in NON_IDENTITY_FLAGS:
        raise ValueError(f'{name} says where and how a run is made, not what it is; '
                         'leave it to the command line of the sweep.')
    if name == 'seeds':
        raise ValueError('seeds makes several runs one, whose rule sees all of them; '
                         'give seed = [0, 1, 2] in product, a trial each.')
    names = sorted(name for name in known if name not in (*NON_IDENTITY_FLAGS, 'help'))
    flag = known[one_of('flag', name, names)]
    if isinstance(value, list) and not (value and isinstance(flag, flags.MultiFlag)):
        raise ValueError(f'{name} = {value} is not what --{name} takes; to try several '
                         'values, give them in product.')
    values = value if isinstance(value, list) else [value]
    for one in values:
        if not isinstance(one, str | int) or (
                isinstance(one, bool) and not flag.boolean):
            raise ValueError(f'{name} = {one!r} is no value for --{name}; give text or '
                             'a number, or, where it is a switch, true or false.')
        if hasattr(flag.parser, 'enum_values'):
            one_of(name, str(one), flag.parser.enum_values)
    return values


def text(name: str, values: flags.FlagValues) -> str:
    """Write a flag for people, as in hidden=64,32 or nofresh_minibatches."""
    value = values[name].value
    if isinstance(value, bool):
        return name if value else f'no{name}'
    if isinstance(value, float):
        return f'{name}={value}'.removesuffix('.0')
    return f'{name}={",".join(map(str, value)) if isinstance(value, list) else value}'
