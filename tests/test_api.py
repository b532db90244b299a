"""What is public is documented, and no file is a drawer."""

import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest

import cdgm

MODULES = ['cdgm', *(module.name for module in pkgutil.walk_packages(
    cdgm.__path__, 'cdgm.'))]


def public(module):
    """The public functions and classes that a module defines."""
    for name, value in vars(module).items():
        if (not name.startswith('_') and getattr(value, '__module__', None)
                == module.__name__ and (inspect.isclass(value) or callable(value))):
            yield name, value


@pytest.mark.parametrize('name', MODULES)
def test_every_public_name_has_a_docstring_of_its_own(name):
    module = importlib.import_module(name)
    assert module.__doc__, f'{name} does not say what it is'
    for member, value in public(module):
        document = value.__doc__ or ''
        # A NamedTuple without one gets its signature for a docstring.
        assert document and not document.startswith(f'{member}('), f'{name}.{member}'


def test_the_package_exports_what_it_says():
    for name in ('Block', 'block_descent', 'coordinate_descent', 'cyclic', 'shuffled',
                 'uniform', 'phases'):
        assert callable(getattr(cdgm, name))
    assert cdgm.__version__


def test_there_is_no_drawer():
    for path in Path(cdgm.__file__).parent.rglob('*.py'):
        assert path.stem not in ('utils', 'util', 'helpers', 'misc', 'common')
