"""Block orders and per-block values, as people write them on a command line.

    decoder,encoder             one step of each, in this order
    discriminator*5,generator   five steps, then one
    joint                       one block that owns every leaf
    simultaneous                all blocks from the same point
"""

import difflib
import re
from collections.abc import Sequence

# Orders that name no block: everything moves at once.
JOINT_MODES = ('joint', 'simultaneous')


def parse_order(text: str, blocks: Sequence[str],
                whole: Sequence[str] = JOINT_MODES) -> tuple[str, ...]:
    """Read the order of updates in a cycle.

    Args:
      text: comma-separated names, each with an optional `*K`; or one of `whole`.
      blocks: the names that there are.
      whole: which of `JOINT_MODES` make sense for this model.

    Returns:
      Block names, one an update; or a 1-tuple of an element of `whole`.

    Raises:
      ValueError: a name is unknown, a count is not a whole number 1 … 999999, or an
        element of `whole` does not stand alone.

    >>> parse_order('discriminator*2,generator', ('discriminator', 'generator'))
    ('discriminator', 'discriminator', 'generator')
    """
    if text.strip() in whole:
        return (text.strip(),)
    order: list[str] = []
    for part in text.split(','):
        match = re.fullmatch(r'\s*(\w+)\s*(?:\*\s*(\d{1,6})\s*)?', part)
        if not match or match[2] and not int(match[2]):
            raise ValueError(f'order {text!r} has the part {part!r}; write names and '
                             f'counts, as in {blocks[0]}*2,{blocks[-1]}.')
        if match[1] in whole:
            raise ValueError(f'{match[1]!r} moves everything at once, so it stands '
                             f'alone; {text!r} has more.')
        order += [one_of('block', match[1], blocks, whole)] * int(match[2] or 1)
    return tuple(order)


def parse_per_block(text: str, blocks: Sequence[str]) -> dict[str, float]:
    """Read a number for every block: '1e-3', or 'decoder=1e-3,encoder=5e-4'.

    Raises:
      ValueError: a block is unknown or missing, or a value is not a number > 0.

    >>> parse_per_block('1e-3', ('encoder', 'decoder'))
    {'encoder': 0.001, 'decoder': 0.001}
    """
    if '=' not in text:
        return dict.fromkeys(blocks, _positive(text, text))
    values = {}
    for part in text.split(','):
        name, _, value = part.partition('=')
        values[one_of('block', name.strip(), blocks)] = _positive(value, text)
    missing = [name for name in blocks if name not in values]
    if missing:
        raise ValueError(f'{text!r} gives no value for {", ".join(missing)}; give one '
                         'number for all blocks, or one for each.')
    return values


def _positive(value: str, text: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = float('nan')
    if not 0 < number < float('inf'):
        raise ValueError(f'{text!r} has the value {value!r}; give numbers > 0, as in '
                         '1e-3 or decoder=1e-3,encoder=5e-4.')
    return number


def one_of(kind: str, name: str, names: Sequence[str],
           others: Sequence[str] = ()) -> str:
    """Return the name if it is one of the names; otherwise say which one it may be."""
    if name in names:
        return name
    near = difflib.get_close_matches(name, [*names, *others], 1)
    guess = f' Did you mean {near[0]!r}?' if near else ''
    raise ValueError(f'unknown {kind} {name!r}; there are '
                     f'{", ".join([*names, *others])}.{guess}')
