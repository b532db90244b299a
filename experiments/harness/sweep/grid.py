"""What the trials of a table choose: list × zip × product, each with flags."""

import itertools
from collections.abc import Iterator
from typing import Any


def combine(table: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Make the choices; those of the last flag of `product` change fastest.

    Yields:
      The name of the entry in `list`, or '', and flag -> value.

    Raises:
      ValueError: the arrays of `zip` differ in length, or a flag is there twice.
    """
    lengths = {name: len(values) for name, values in table['zip'].items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f'the arrays of zip go in step, and have the lengths {lengths}'
                         '; make them equal.')
    zipped = [dict(zip(lengths, values)) for values in zip(*table['zip'].values())]
    crossed = [dict(zip(table['product'], values))
               for values in itertools.product(*table['product'].values())]
    for shared, entry, step, cell in itertools.product(
            [table['flags']], table['list'], zipped or [{}], crossed):
        rest = {key: value for key, value in entry.items() if key != 'name'}
        choice = {**shared, **rest, **step, **cell}
        names = [*shared, *rest, *step, *cell]
        if len(choice) < len(names):
            twice = max(choice, key=names.count)
            raise ValueError(f'{twice} is in two of flags, list, zip and product; keep '
                             'one of them.')
        yield entry.get('name', ''), choice


def flags(table: dict[str, Any]) -> list[str]:
    """Return the flags that a table gives, in the order of the file."""
    listed = (name for entry in table['list'] for name in entry if name != 'name')
    return list(dict.fromkeys((*table['flags'], *listed, *table['zip'],
                               *table['product'])))


def replace(table: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """Give flags one value in every trial, wherever they had theirs."""
    def rest(choice):
        return {name: value for name, value in choice.items() if name not in values}

    entries = [rest(entry) for entry in table['list']]
    return {**table, 'flags': {**rest(table['flags']), **values},
            # Entries that have lost their only flag are all one.
            'list': entries if any(entries) else [{}],
            'zip': rest(table['zip']), 'product': rest(table['product'])}
