"""The experiments by name: a file NAME.py that defines EXPERIMENT is one, on no list.

They are looked for in the folder `experiments`, and in the folders that the environment
variable CDGM_EXPERIMENTS names, as PYTHONPATH names folders; that of a sweep's own file
is among them.
"""

import functools
import importlib
import importlib.util
import os
import re
import sys
from pathlib import Path

from experiments.harness.errors import SettingError
from experiments.harness.task import Experiment

_VARIABLE = 'CDGM_EXPERIMENTS'
_OWN_FOLDER = Path(__file__).parents[1]


def search_in(folder: Path) -> None:
    """Look for experiments in a folder too, here and in processes started from here."""
    folders = os.environ.get(_VARIABLE, '').split(os.pathsep)
    if str(folder.resolve()) not in folders:
        os.environ[_VARIABLE] = os.pathsep.join(
            [*filter(None, folders), str(folder.resolve())])


def names() -> tuple[str, ...]:
    """Return the names of all experiments, without importing them."""
    return tuple(sorted({path.stem for folder in _folders()
                         for path in folder.glob('*.py')
                         if re.search(r'^EXPERIMENT = ', path.read_text('utf-8'),
                                      flags=re.MULTILINE)}))


@functools.cache
def load(name: str) -> Experiment:
    """Import an experiment.

    Raises:
      SettingError: there is none of this name, or its file cannot be imported.
    """
    for folder in _folders():
        path = folder / f'{name}.py'
        if path.exists():
            return _import(path).EXPERIMENT
    raise SettingError(f'there is no experiment {name!r}; there are '
                       f'{", ".join(names())}.')


def _folders() -> list[Path]:
    more = os.environ.get(_VARIABLE, '').split(os.pathsep)
    return [_OWN_FOLDER, *map(Path, filter(None, more))]


def _import(path: Path):
    if path.parent == _OWN_FOLDER:
        return importlib.import_module(f'experiments.{path.stem}')
    main = sys.modules['__main__']
    command = getattr(main, '__file__', None)
    if command and Path(command).resolve() == path:
        return main  # it is the command itself
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader, 'the name ends with .py'
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise SettingError(
            f'experiment {path} cannot be imported: {error!r}.') from error
    return module
