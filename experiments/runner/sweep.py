"""A sweep as a value: its trials, and the tables that they make.

    title = 'Coordinate descent against joint training'
    about = 'A paragraph.'                   # optional, as is a table's

    [[table]]
    title = 'A variational autoencoder'
    experiment = 'vae'
    metric = 'neg_elbo'                      # name of a test metric
    label = 'test −ELBO, nats an image; lower is better'
    tune = ['learning_rate']                 # a row shows its best value in training
    flags = {epochs = 150}                   # of every trial
    list = [{name = 'joint', order = 'joint'}, {order = 'decoder,encoder'}]
    zip = {hidden = [64, 128], latent = [10, 20]}     # in step
    product = {learning_rate = [1e-3, 3e-3], seed = [0, 1, 2]}

    trials of a table = list × zip × product, each with flags
    rows of a table   = what they choose beside the seed and the tuned flags

`tune`, `flags`, `list`, `zip` and `product` are optional; `name` names a row. An array
as a value is a flag given several times: hidden = [64, 32] in flags or a list's entry,
hidden = [[64, 32], [128]] in zip or product.
"""

import contextlib
import importlib
import itertools
import json
import os
import secrets
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from experiments import launch
from experiments.launch import SettingError
from experiments.orders import one_of
from experiments.runner.identity import FREE, identity

# Experiment -> its test metrics.
EXPERIMENTS = {'vae': ('neg_elbo',), 'gan': ('mmd2',)}

# Key -> the type of what must be there, or what stands for it where it is absent.
_SWEEP = {'title': str, 'about': '', 'table': list}
_TABLE = {'title': str, 'about': '', 'experiment': str, 'metric': str, 'label': str,
          'tune': [], 'flags': {}, 'list': [{}], 'zip': {}, 'product': {}}
_KINDS = {str: "text, as in 'joint'", list: 'an array, as in [0, 1] or [[table]]',
          dict: 'a table, as in {epochs = 2}'}

_FOLDER = Path(__file__).parents[1] / 'sweeps'


class Trial(NamedTuple):
    """One run.

    Attributes:
      experiment: vae or gan.
      arguments: flags as on its command line, without what is `FREE`.
      id: its identity.
    """

    experiment: str
    arguments: tuple[str, ...]
    id: str

    @property
    def folder(self) -> str:
        """Name of its folder within the sweep's."""
        return f'{self.experiment}-{self.id}'


class Row(NamedTuple):
    """A line of a table.

    Attributes:
      name: what it chooses.
      variants: the tuned flags, as in 'learning_rate=1e-3' ('' where none is), -> the
        identities of the trials to average over, one a seed.
    """

    name: str
    variants: dict[str, tuple[str, ...]]


class Table(NamedTuple):
    """A section of the report.

    Attributes:
      title: above it; no two have the same.
      about: a paragraph, or ''.
      experiment: vae or gan.
      metric: name of the test metric.
      label: what the metric is, for people.
      rows: in the order of the file.
    """

    title: str
    about: str
    experiment: str
    metric: str
    label: str
    rows: tuple[Row, ...]


class Sweep(NamedTuple):
    """Trials and their tables.

    Attributes:
      name: of its file, without .toml.
      title: of the report.
      about: a paragraph, or ''.
      trials: each identity once, in the order of the file.
      tables: in the order of the file.
    """

    name: str
    title: str
    about: str
    trials: tuple[Trial, ...]
    tables: tuple[Table, ...]


def named(name: str) -> Path:
    """Find a sweep of this package by its name, or of anybody's by its path.

    Raises:
      SettingError: there is none of this name.
    """
    if name.endswith('.toml'):
        return Path(name)
    names = sorted(path.stem for path in _FOLDER.glob('*.toml'))
    try:
        return _FOLDER / f'{one_of("sweep", name, names)}.toml'
    except ValueError as error:
        raise SettingError(f'{error} A file of your own is named by its path, as in '
                           f'./{name}.toml.') from None


def read(path: Path, overrides: Sequence[str] = ()) -> Sweep:
    """Read a sweep and check all of it.

    Args:
      path: of the TOML file.
      overrides: 'epochs=2' replaces a flag in every trial; a flag that takes several
        values may be there several times.

    Raises:
      SettingError: the file cannot be read, a key, flag or value is mistyped, or what
        is there does not go together.
    """
    with _at(f'{path}'):
        content = _complete(_parse(path), _SWEEP)
        replaced = _read_overrides(overrides)
        trials: dict[str, Trial] = {}
        tables: dict[str, Table] = {}
        for number, given in enumerate(content['table'], 1):
            title = given.get('title', number) if isinstance(given, dict) else number
            with _at(f'table {title!r}'):
                table = _read_table(_complete(given, _TABLE), replaced, trials)
                if tables.setdefault(table.title, table) is not table:
                    raise ValueError(f'table {number} has this title too; give each '
                                     'its own.')
    return Sweep(path.stem, content['title'], content['about'], (*trials.values(),),
                 (*tables.values(),))


@contextlib.contextmanager
def _at(place: str) -> Iterator[None]:
    """Say of an error where it was."""
    try:
        yield
    except ValueError as error:
        raise SettingError(f'{place}: {error}') from None


def _parse(path: Path) -> dict[str, Any]:
    try:
        # Numbers stay as they are written: flags are text on a command line.
        return tomllib.loads(path.read_text(encoding='utf-8'), parse_float=str)
    except OSError as error:
        raise ValueError(f'cannot be read ({error.strerror}); name a file that '
                         'can.') from None
    except ValueError as error:
        raise ValueError(f'is not TOML: {error}; mend it there.') from None


def _complete(given: Any, wanted: dict[str, Any]) -> dict[str, Any]:
    """Check the keys of a table and the kinds of its values; add what it leaves out."""
    for key, value in [('table', given), *given.items()] if isinstance(
            given, dict) else [('table', given)]:
        pass
    return {**wanted, **given}
