"""Repeat a run, and say whether its numbers are identical.

    ./launch.sh rerun runs/NAME/vae-0123456789abcdef

The run is made anew from the flags in its folder, in a folder of its own, and its
parameters and metrics are compared with the digests in the manifest. Where the code,
the versions or the machine are not what they were, that is said first, with what can
then be expected. Exit status 0 where every bit is the same, 1 where not, or where the
files of the run are not those of its manifest.
"""

import contextlib
import hashlib
import json
import math
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from experiments.harness import cli, execute
from experiments.harness import registry
from experiments.harness.errors import SettingError
from experiments.harness.runs import preemption, run_folder, status_log
from experiments.harness.training_flags import (
    define_operational_flags, operational_arguments)

# Field of a manifest that bits depend on -> what to expect where it differs.
_MEANINGS = {
    'commit': 'other code: equal bits only if what changed leaves the numbers alone',
    'uncommitted': 'other code: its changes are in uncommitted.diff, as digested here',
    'versions': 'other versions: equal random numbers, losses equal to rounding',
    'device': 'another device: losses equal to rounding',
    'cores': 'another number of cores: matrix products may round differently',
    'devices': 'another number of devices: equal bits, as far as is known',
    'xla_flags': 'other XLA flags: nothing is promised',
    'data': 'other data: another run',
}


def define_flags(values: flags.FlagValues) -> None:
    """Add the flags."""
    define_operational_flags(values)
    flags.DEFINE_string('out_dir', None, 'Folder to keep the repetition in; it is '
                        'deleted unless given.', flag_values=values)


def main(path: Path, values: flags.FlagValues) -> None:
    """Repeat the run of a folder, and compare.

    Raises:
      SettingError: the folder holds no complete run.
    """
    manifest = _complete_manifest(path)
    with _folder(values.out_dir) as again:
        repeat(path, again, manifest['experiment'], manifest.get('lengths', ()),
               operational_arguments(values))
        now = _complete_manifest(again)
        _compare_circumstances({**manifest, 'uncommitted': _changes(path)},
                               {**now, 'uncommitted': _changes(again)})
        altered = _differing(manifest['digests'], _digests_of_files(path))
        if altered:
            print(f'altered: the {" and ".join(altered)} in {path} are not those that '
                  'its manifest has the digests of')
        different = _differing(manifest['digests'], now['digests'])
        if different:
            print(f'different: the {" and ".join(different)} of {path}'
                  + ('' if altered else f'; {first_difference(path, again)}'))
        else:
            print(f'identical: {path} gave the same parameters and metrics again, bit '
                  'for bit')
    if altered or different:
        sys.exit(1)


def _complete_manifest(path: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        manifest = status_log.read_manifest(path)
        if manifest and 'digests' in manifest:
            return manifest
    raise SettingError(f'{path} holds no complete run; name a folder whose '
                       'manifest.json has digests.')


def repeat(path: Path, again: Path, experiment: str, lengths: Sequence[int],
           more: list[str]) -> None:
    """Make the run of a folder again, in another.

    Args:
      path: of the run.
      again: folder of its repetition.
      experiment: its name.
      lengths: in cycles, at which it was complete before it was trained longer.
      more: arguments beside those of the run.
    """
    chosen = registry.load(experiment)
    for length in [*(f'--cycles={cycles}' for cycles in lengths), None]:
        preemption.begin_run()
        execute.main(chosen, cli.parse(chosen.define_flags, [
            f'--flagfile={path / "flags.txt"}', *([length] if length else []), *more,
            f'--run_dir={again}']))


def _compare_circumstances(then: dict[str, Any], now: dict[str, Any]) -> None:
    for name, meaning in _MEANINGS.items():
        if then.get(name) != now[name]:
            print(f'{name} was {_short(then.get(name))} and is {_short(now[name])}: '
                  f'{meaning}')


def _changes(path: Path) -> str | None:
    """Return a digest of the uncommitted changes that a run was made with."""
    try:
        return hashlib.sha256(
            (path / 'uncommitted.diff').read_bytes()).hexdigest()[:12]
    except FileNotFoundError:
        return None


def _digests_of_files(path: Path) -> dict[str, str]:
    # What numpy and zipfile raise for a damaged file is not documented.
    with contextlib.suppress(Exception):
        return run_folder.digests(path)
    return {}


def _differing(wanted: dict[str, str], found: dict[str, str]) -> list[str]:
    return [name for name, digest in wanted.items() if found.get(name) != digest]


def first_difference(path: Path, again: Path) -> str:
    """Return a sentence on where two runs differ first, and by how much."""
    before, now = run_folder.read_rows(path), run_folder.read_rows(again)
    for number, rows in enumerate(zip(before, now), 1):
        one, other = (dict(_leaves(row)) for row in rows)
        names = [name for name in {**one, **other} if name != 'seconds'
                 and json.dumps(one.get(name)) != json.dumps(other.get(name))]
        if names:
            largest = max(_relative(one.get(name), other.get(name)) for name in names)
            return (f'the metrics part in row {number} at {names[0]}, by at most '
                    f'{largest:.1e} there')
    if len(before) != len(now):
        return f'there were {len(before)} rows of metrics and are {len(now)}'
    with np.load(path / 'params.npz') as one, np.load(again / 'params.npz') as other:
        if len({tuple((name, tree[name].shape) for name in tree)
                for tree in (one, other)}) > 1:
            return 'the metrics are the same, the parameters have other shapes'
        largest = max(float(np.max(np.abs(one[name] - other[name]), initial=0.))
                      for name in one)
    return f'the metrics are the same, the parameters differ by up to {largest:.1e}'


def _leaves(tree: Any, name: str = '') -> Iterator[tuple[str, Any]]:
    """The numbers of a row, by their place in it."""
    parts = (tree.items() if isinstance(tree, dict) else
             enumerate(tree) if isinstance(tree, list) else None)
    if parts is None:
        yield name, tree
        return
    for key, value in parts:
        yield from _leaves(value, f'{name}.{key}' if name else str(key))


def _relative(one: float | None, other: float | None) -> float:
    if (one is None or other is None
            or not math.isfinite(one) or not math.isfinite(other)):
        return math.inf
    return abs(one - other) / max(abs(one), abs(other))


def _short(value: Any) -> str:
    text = 'none' if value is None else json.dumps(value)
    return text if len(text) < 60 else f'{text[:57]}…'


@contextlib.contextmanager
def _folder(out_dir: str | None) -> Iterator[Path]:
    if out_dir:
        yield Path(out_dir)
        return
    with (tempfile.TemporaryDirectory() as folder,
          preemption.on_exit(lambda: shutil.rmtree(folder, ignore_errors=True))):
        yield Path(folder) / 'again'


if __name__ == '__main__':
    with cli.one_line_errors():
        if sys.argv[1:] and not sys.argv[1].startswith('-'):
            cli.run(define_flags, lambda values: main(Path(sys.argv[1]), values),
                    __doc__, sys.argv[2:])
        elif '--help' in sys.argv:
            cli.run(define_flags, lambda values: None, __doc__, ['--help'])
        else:
            raise SettingError('name the folder of a run first; see --help.')
