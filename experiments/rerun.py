"""Repeat a run, and say whether its numbers are identical.

    python -m experiments.rerun runs/NAME/vae-0123456789abcdef

The run is made anew from the flags in its folder, in a folder of its own, and its
parameters and metrics are compared with the digests in the manifest. Where the code,
the versions or the machine are not what they were, that is said first, with what can
then be expected. Exit status 0 where every bit is the same, 1 where not.
"""

import contextlib
import json
import math
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from experiments import attempts, launch, run_folder, trials
from experiments.launch import SettingError
from experiments.registry import EXPERIMENTS
from experiments.settings import define_manners

# What of a manifest decides about bits, and what may be expected where it differs.
_DECIDES = {
    'commit': 'other code: equal bits only if what changed leaves the numbers alone',
    'uncommitted': 'other code: its changes are in uncommitted.diff',
    'versions': 'other versions: equal random numbers, losses equal to rounding',
    'device': 'another device: losses equal to rounding',
    'cores': 'another number of cores: matrix products may round differently',
    'devices': 'another number of devices: equal bits, as far as is known',
    'xla_flags': 'other XLA flags: nothing is promised',
    'data': 'other data: another run',
}


def define_flags(values: flags.FlagValues) -> None:
    """Add the flags."""
    define_manners(values)
    flags.DEFINE_string('out_dir', None, 'Folder to keep the repetition in; it is '
                        'deleted unless given.', flag_values=values)


def main(path: Path, values: flags.FlagValues) -> None:
    """Repeat the run of a folder, and compare."""
    manifest = attempts.read_manifest(path)
    if 'digests' not in (manifest or {}):
        raise SettingError(f'{path} holds no complete run; name a folder whose '
                           'manifest.json has digests.')
    with _folder(values.out_dir) as again:
        repeat(path, again, manifest['experiment'],
               [] if values.data_dir is None else [f'--data_dir={values.data_dir}'])
        now = attempts.read_manifest(again)
        for name, meaning in _DECIDES.items():
            if manifest.get(name) != now[name]:
                print(f'{name} was {_short(manifest.get(name))} and is '
                      f'{_short(now[name])}: {meaning}')
        differ = [name for name, digest in manifest['digests'].items()
                  if now['digests'][name] != digest]
        if not differ:
            print(f'identical: {path} gave the same parameters and metrics again, bit '
                  'for bit')
            return
        print(f'different: the {" and ".join(differ)} of {path}; '
              f'{first_difference(path, again)}')
    sys.exit(1)


def repeat(path: Path, again: Path, experiment: str, more: list[str]) -> None:
    """Make the run of a folder again, in another."""
    chosen = EXPERIMENTS[experiment]
    trials.main(chosen, launch.parse(chosen.define_flags, [
        f'--flagfile={path / "flags.txt"}', *more, f'--run_dir={again}']))


def first_difference(path: Path, again: Path) -> str:
    """Say where two runs part, and by how much."""
    pairs = zip(run_folder.read_rows(path), run_folder.read_rows(again))
    for row, (before, now) in enumerate(pairs, 1):
        one, other = dict(_leaves(before)), dict(_leaves(now))
        names = [name for name in one
                 if name != 'seconds' and one[name] != other.get(name)]
        if names:
            largest = max(_relative(one[name], other.get(name)) for name in names)
            return (f'the metrics part in row {row} at {names[0]}, by at most '
                    f'{largest:.1e} there')
    with np.load(path / 'params.npz') as one, np.load(again / 'params.npz') as other:
        largest = max(float(np.max(np.abs(one[name] - other[name]))) for name in one)
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


def _relative(one: float, other: float | None) -> float:
    if other is None or not math.isfinite(one) or not math.isfinite(other):
        return math.inf
    return abs(one - other) / max(abs(one), abs(other))


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 60 else f'{text[:57]}…'


@contextlib.contextmanager
def _folder(out_dir: str | None) -> Iterator[Path]:
    if out_dir:
        yield Path(out_dir)
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / 'again'


if __name__ == '__main__':
    with launch.one_line_errors():
        if sys.argv[1:] and not sys.argv[1].startswith('-'):
            launch.run(define_flags, lambda values: main(Path(sys.argv[1]), values),
                       __doc__, sys.argv[2:])
        elif '--help' in sys.argv:
            launch.run(define_flags, lambda values: None, __doc__, ['--help'])
        else:
            raise SettingError('name the folder of a run first; see --help.')
