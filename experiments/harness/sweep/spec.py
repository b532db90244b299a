"""A sweep as a value: its trials, and the tables that they make.

    title = 'Coordinate descent against joint training'
    about = 'A paragraph.'                   # optional, as is a table's

    [[table]]
    title = 'A variational autoencoder'
    experiment = 'vae'
    metric = 'neg_elbo'                      # name of a test metric
    label = 'test −ELBO, nats an image; lower is better'
    also = {active_units = 'a label'}        # the same rows by other metrics, as tables
    tune = ['learning_rate']                 # a row shows its best value in training
    flags = {epochs = 150}                   # of every trial
    list = [{name = 'joint', order = 'joint'}, {order = 'decoder,encoder'}]
    zip = {hidden = [64, 128], latent = [10, 20]}     # in step
    product = {learning_rate = [1e-3, 3e-3], seed = [0, 1, 2]}

    trials of a table = list × zip × product, each with flags
    rows of a table   = what they choose beside the seed and the tuned flags

`also`, `tune`, `flags`, `list`, `zip` and `product` are optional; `name` names a row.
An array as a value is a flag given several times: hidden = [64, 32] in flags or a
list's entry, hidden = [[64, 32], [128]] in zip or product.
"""

import contextlib
import json
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from experiments.harness import registry
from experiments.harness.errors import SettingError
from experiments.harness.orders import one_of
from experiments.harness.runs import atomic
from experiments.harness.sweep import grid, trial_flags
from experiments.harness.sweep.trial_id import identity

# Key -> the kind of what must be there, or what stands for it where it is absent.
_SWEEP_KEYS = {'title': str, 'about': '', 'table': list}
_TABLE_KEYS = {
    'title': str, 'about': '', 'experiment': str, 'metric': str, 'label': str,
    'also': {}, 'tune': [], 'flags': {}, 'list': [{}], 'zip': {}, 'product': {}}
_ENTRY_KINDS = {'table': dict, 'tune': str, 'list': dict, 'zip': list, 'product': list,
                'also': str}
_KIND_WORDS: dict[type, str] = {
    str: "text, as in 'joint'", list: 'an array, as in [0, 1] or [[table]]',
    dict: 'a table, as in {epochs = 2}'}

_FOLDER = Path(__file__).parents[2] / 'sweeps'


class Trial(NamedTuple):
    """One run.

    Attributes:
      experiment: name of one, see `registry`.
      arguments: flags as on its command line, without what is `NON_IDENTITY_FLAGS`.
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
    """Find a sweep of this repository by its name, or any other by its path.

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
    trials: dict[str, Trial] = {}
    tables: dict[str, Table] = {}
    registry.search_in(path.parent)
    with _located(str(path)):
        content = _complete(_parse(path), _SWEEP_KEYS)
        replaced = _read_overrides(overrides)
        for number, given in enumerate(content['table'], 1):
            title = given.get('title', number)
            with _located(f'table {title!r}'):
                table = grid.replace(_complete(given, _TABLE_KEYS), replaced)
                runs = _runs(table)
                for made in _tables(runs, table):
                    if made.title in tables:
                        raise ValueError(f'table {number} has this title again; give '
                                         'each its own.')
                    tables[made.title] = made
            trials |= {run.trial.id: run.trial for run in runs
                       if run.trial.id not in trials}
    return Sweep(path.stem, content['title'], content['about'],
                 tuple(trials.values()), tuple(tables.values()))


@contextlib.contextmanager
def _located(place: str) -> Iterator[None]:
    """Prefix the message of a ValueError with a place in the file."""
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
        raise ValueError(f'is not TOML: {error}; correct it there.') from None


def _complete(given: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """Check the keys of a table and the kinds of its values; add what it leaves out."""
    for key, value in given.items():
        example = wanted[one_of('key', key, tuple(wanted))]
        _expect(key, value, example if isinstance(example, type) else type(example))
        if key in _ENTRY_KINDS:
            for one in value.values() if isinstance(value, dict) else value:
                _expect(f'an entry of {key}', one, _ENTRY_KINDS[key])
    for key, kind in wanted.items():
        if isinstance(kind, type) and key not in given:
            raise ValueError(f'{key} is missing; make it {_KIND_WORDS[kind]}.')
    return {**wanted, **given}


def _expect(name: str, value: Any, kind: type) -> None:
    if not isinstance(value, kind) or value == []:
        raise ValueError(f'{name} is {value!r:.60}; make it {_KIND_WORDS[kind]}.')


def _read_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    replaced: dict[str, list[str]] = {}
    for override in overrides:
        name, equals, value = override.partition('=')
        if not equals:
            raise ValueError(f'{override!r} replaces nothing; write it as epochs=2.')
        replaced.setdefault(name, []).append(value)
    return {name: values if values[1:] else values[0]
            for name, values in replaced.items()}


class _Run(NamedTuple):
    """A trial, the name of its list entry or '', and its flags as read."""

    trial: Trial
    name: str
    values: flags.FlagValues


def _runs(table: dict[str, Any]) -> list[_Run]:
    """Make and check the trials of a table."""
    experiment = one_of('experiment', table['experiment'], registry.names())
    for metric in table['metric'], *table['also']:
        one_of('metric', metric, tuple(registry.load(experiment).metrics))
    runs: dict[str, _Run] = {}
    for name, choice in grid.combine(table):
        _expect('name in list', name, str)
        written, values = trial_flags.parse(experiment, choice)
        trial = Trial(experiment, written, identity(experiment, values))
        if trial.id in runs:
            raise ValueError(f'the trial {" ".join(written)} is there twice; drop one, '
                             'or give it another seed.')
        runs[trial.id] = _Run(trial, name, values)
    return list(runs.values())


def _tables(runs: Sequence[_Run], table: dict[str, Any]) -> Iterator[Table]:
    """Make the table of each metric; the first has the title and what is about it."""
    rows = _rows(runs, table)
    yield Table(rows=rows, **{name: table[name] for name in Table._fields[:-1]})
    for metric, label in table['also'].items():
        yield Table(f'{table["title"]}: {metric}', '', table['experiment'], metric,
                    label, rows)


def _rows(runs: Sequence[_Run], table: dict[str, Any]) -> tuple[Row, ...]:
    """Put runs into rows by what varies beside the seed and the tuned flags."""
    def words(names, run):
        return tuple(trial_flags.text(name, run.values) for name in names)

    free = [name for name in grid.flags(table) if name != 'seed']
    for name in table['tune']:
        one_of('flag to tune', name, free)
    varying = [name for name in free if name not in table['tune']
               and len({words([name], run) for run in runs}) > 1]
    listed = {name for entry in table['list'] for name in entry}
    rows: dict[tuple[str, ...], Row] = {}
    for run in runs:
        # A list entry's own name stands for its flags.
        shown = [name for name in varying if not (run.name and name in listed)]
        label = [word.removeprefix(f'{name}=') if len(varying) == 1 else word
                 for name, word in zip(shown, words(shown, run))]
        row = rows.setdefault((run.name, *words(varying, run)), Row(
            ', '.join([run.name, *label] if run.name else label)
            or table['experiment'], {}))
        variant = ', '.join(words(table['tune'], run))
        row.variants[variant] = (*row.variants.get(variant, ()), run.trial.id)
    names = [row.name for row in rows.values()]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f'two rows have the name {name!r}; give each its own.')
    return tuple(rows.values())


def save(sweep: Sweep, folder: Path) -> None:
    """Write a sweep to folder/sweep.json, all of it or nothing.

    Raises:
      OSError: it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with atomic.atomic_write(folder / 'sweep.json') as file:
        json.dump(_plain(sweep), file, indent=1, ensure_ascii=False)


def load(folder: Path) -> Sweep:
    """Read the sweep that `save` wrote.

    Raises:
      SettingError: there is none.
    """
    try:
        content = (folder / 'sweep.json').read_text(encoding='utf-8')
    except FileNotFoundError:
        raise SettingError(f'{folder} holds no sweep; name the folder of one that was '
                           'started.') from None
    return json.loads(content, object_hook=_typed)


def _plain(value: Any) -> Any:
    """Turn named tuples into dicts, which keep their names in JSON."""
    if hasattr(value, '_asdict'):
        return {name: _plain(field) for name, field in value._asdict().items()}
    return [_plain(one) for one in value] if isinstance(value, tuple) else value


def _typed(fields: dict[str, Any]) -> Any:
    """Turn the dicts of `_plain` back."""
    for kind in Trial, Row, Table, Sweep:
        if kind._fields == tuple(fields):
            return kind(*map(_frozen, fields.values()))
    return {name: _frozen(value) for name, value in fields.items()}


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
