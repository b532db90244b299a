"""What is public is documented, and no file is a drawer."""

import importlib
import inspect
import pkgutil
import typing
from pathlib import Path

import optax
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


# Functions of arrays alone, whose docstrings give shapes and dtypes.
LEAVES = ('cdgm.losses', 'cdgm.models', 'cdgm.data', 'cdgm.metrics', 'cdgm.layers',
          'cdgm.stacks', 'cdgm.selection.estimates')


@pytest.mark.parametrize('name', [n for n in MODULES if not n.startswith(LEAVES)])
def test_public_functions_are_annotated(name):
    for member, value in public(importlib.import_module(name)):
        if inspect.isfunction(value):
            signature = inspect.signature(value)
            bare = [p.name for p in signature.parameters.values()
                    if p.annotation is p.empty]
            assert not bare, f'{name}.{member}: {bare}'
            assert signature.return_annotation is not signature.empty, member


@pytest.mark.parametrize('kind, made', [
    (cdgm.Descent, lambda: cdgm.block_descent({})),
    (cdgm.selection.SelectedDescent, lambda: cdgm.drive(
        cdgm.block_descent({'a': cdgm.Block('', len, optax.sgd(1.))}),
        cdgm.cyclic((1,))))])
def test_what_an_editor_shows_is_what_is_called(kind, made):
    """The protocols name the arguments of the functions, with their defaults."""
    def arguments(function):
        return [(p.name, p.kind, p.default, p.annotation) for p in inspect.signature(
            function).parameters.values() if p.name != 'self']

    protocols, made = typing.get_type_hints(kind), made()
    fields = [name for name in kind._fields if name != 'blocks']
    assert fields
    for name in fields:
        assert arguments(protocols[name].__call__) == arguments(getattr(made, name))
