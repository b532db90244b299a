"""Imports run one way, read from the source without importing anything.

blocks, schedules <- the rest of the core; the leaves (LEAVES below) stand alone.
"""

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LEAVES = ('losses', 'models', 'data', 'metrics', 'audio')
ROOTS = ('blocks', 'schedules')  # what all the core stands on
# What models are built of; it stands on the blocks alone.
STACKS = 'cdgm.stacks'
FILES = {'.'.join(path.relative_to(ROOT).with_suffix('').parts).removesuffix(
    '.__init__'): path for path in sorted((ROOT / 'cdgm').rglob('*.py'))}
CORE = [name for name in FILES if name != 'cdgm' and name.split('.')[1] not in LEAVES]


@cache
def nodes(path):
    """All nodes of a file, parsed once for all tests."""
    return list(ast.walk(ast.parse(path.read_text())))


def imported(name):
    """The modules that a module imports, by absolute name."""
    for node in nodes(FILES[name]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f'{name} has a relative import; write it out'
            for alias in node.names:
                whole = f'{node.module}.{alias.name}'
                yield whole if whole in FILES else node.module


def own(name):
    """The modules of cdgm that a module imports."""
    return sorted({other for other in imported(name) if other.split('.')[0] == 'cdgm'})


def test_the_layout_is_as_drawn():
    assert {f'cdgm.{name}' for name in LEAVES + ROOTS} <= set(FILES)


@pytest.mark.parametrize('name', [name for name in FILES if name != 'cdgm'])
def test_imports_run_one_way(name):
    part = name.split('.')[1]
    for other in own(name):
        assert other != 'cdgm', f'{name} imports the package that imports it'
        if part in LEAVES:
            assert other.split('.')[1] == part or (
                part == 'models' and other == STACKS), f'{name} imports {other}'
        elif name == STACKS:
            assert other == 'cdgm.blocks', f'{name} imports {other}'
        elif part in ROOTS:
            raise AssertionError(f'{name} is a root and imports {other}')
        else:
            assert other in CORE, f'{name} imports {other}, a leaf'


def test_the_core_has_no_cycle():
    above = {name: set(own(name)) for name in CORE}
    while above:
        free = {name for name, others in above.items() if not others & set(above)}
        assert free, f'these import each other: {sorted(above)}'
        above = {name: others for name, others in above.items() if name not in free}


@pytest.mark.parametrize('name', FILES)
def test_the_library_stays_a_library(name):
    """No flags, no experiments, no tests; flax only where the models are."""
    tops = {other.split('.')[0] for other in imported(name)}
    assert not tops & {'absl', 'experiments', 'tests', 'benchmarks'}
    assert 'flax' not in tops or name.startswith('cdgm.models')


@pytest.mark.parametrize('name', [n for n in FILES if n != 'cdgm._explain'])
def test_nobody_in_the_library_calls_jit(name):
    """The caller does, once, at the outside. Doctests, which are callers, may.

    `explain` compiles and runs nothing: what a program costs, only XLA can say.
    """
    words = {getattr(node, 'attr', None) or getattr(node, 'id', None)
             or getattr(node, 'name', None)
             for node in nodes(FILES[name])}
    assert not words & {'jit', 'pjit', 'filter_jit'}


def tops_of(path):
    """What a file imports, by the first two names of each module."""
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ([f'{node.module}.{alias.name}' for alias in node.names]
                        if node.module == 'experiments' else [node.module])


@pytest.mark.parametrize('path', sorted((ROOT / 'experiments/harness').rglob('*.py')),
                         ids=lambda path: path.stem)
def test_the_harness_knows_no_experiment(path):
    for other in tops_of(path):
        assert not other.startswith('experiments') or other.startswith(
            'experiments.harness'), f'{path} imports {other}'


@pytest.mark.parametrize('path', sorted((ROOT / 'examples').glob('*.py')),
                         ids=lambda path: path.stem)
def test_examples_stand_on_the_library_alone(path):
    assert not {other.split('.')[0] for other in tops_of(path)} & {
        'experiments', 'tests', 'benchmarks', 'absl'}
