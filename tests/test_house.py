"""The code stays readable: short functions, annotated and documented in public.

Read from the source, without importing anything.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ('cdgm', 'experiments', 'examples', 'benchmarks', 'tests')
LONGEST = 80  # lines, docstring and signature included

# Share of public functions that are documented, of their arguments that are annotated:
# floors just below what is there. A function within a function is nobody's interface.
FLOORS = {'cdgm': (1., 0.82), 'experiments/harness': (1., 0.95)}


def functions(node, public=True):
    """(function, whether it is public) of all that there are below a node."""
    for child in ast.iter_child_nodes(node):
        shown = public and not getattr(child, 'name', '').startswith('_')
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield child, shown
            yield from functions(child, public=False)
        else:
            yield from functions(child, shown)


def read(folder):
    return {path: ast.parse(path.read_text(encoding='utf-8'))
            for path in sorted((ROOT / folder).rglob('*.py'))}


@pytest.mark.parametrize('folder', FOLDERS)
def test_functions_are_short(folder):
    trees = read(folder)
    assert trees
    long = {f'{path.relative_to(ROOT)}: {function.name}': lines
            for path, tree in trees.items() for function, _ in functions(tree)
            if (lines := function.end_lineno - function.lineno + 1) > LONGEST}
    assert not long, f'more than {LONGEST} lines: {long}; split them'


@pytest.mark.parametrize('folder', FLOORS)
def test_public_functions_are_documented_and_annotated(folder):
    public = {f'{path.relative_to(ROOT)}: {function.name}': function
              for path, tree in read(folder).items()
              for function, shown in functions(tree) if shown}
    arguments = {f'{place}({argument.arg})': argument.annotation is not None
                 for place, function in public.items()
                 for argument in (*function.args.posonlyargs, *function.args.args,
                                  *function.args.kwonlyargs)
                 if argument.arg not in ('self', 'cls')}
    bare = [place for place, function in public.items()
            if not ast.get_docstring(function)]
    documented, annotated = FLOORS[folder]
    assert len(bare) <= (1 - documented) * len(public), f'without a docstring: {bare}'
    untyped = [name for name, there in arguments.items() if not there]
    assert len(untyped) <= (1 - annotated) * len(arguments), (
        f'without an annotation: {untyped}')
