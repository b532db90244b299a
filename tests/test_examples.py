"""Each example runs as a user runs it, is short, and gets where it says it gets."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = {path.stem: path for path in sorted((ROOT / 'examples').glob('*.py'))}
IMPORTED = {'cdgm', 'jax', 'optax', 'flax', 'equinox', 'functools'}

# What the last line's number must be, of the first line's: how far training gets.
AFTER = {
    'vae': lambda before, after: 20 < after < 0.6 * before,  # nats
    'gan': lambda before, after: after < 0.6 * before,
    'batch_norm': lambda before, after: after < 0.6 * before,
    'nnx_gan': lambda before, after: after < 0.6 * before,
    'equinox_vae': lambda before, after: 20 < after < 0.65 * before,  # nats
    'own_loop': lambda before, after: after < 0.4 * before,
    'train_state': lambda before, after: before < 0.3 and after > 0.9,  # a share
    'unrolled': lambda before, after: after < 0.7 * before,
}


def run(path, folder):
    """What an example prints; run from elsewhere, so that cdgm alone is found."""
    return subprocess.run(
        [sys.executable, '-W', 'error::DeprecationWarning:__main__', path], cwd=folder,
        capture_output=True, text=True, timeout=300,
        env={**os.environ, 'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu'})


def number(label, text):
    return float(re.search(rf'^{label}: ([\d.]+)$', text, flags=re.MULTILINE)[1])


@pytest.mark.parametrize('name', EXAMPLES)
@pytest.mark.thorough
def test_runs(name, tmp_path):
    done = run(EXAMPLES[name], tmp_path)
    assert not done.returncode, done.stderr
    before, after = number('before', done.stdout), number('after', done.stdout)
    assert done.stdout.splitlines()[-1].startswith('after: ')
    assert AFTER[name](before, after), done.stdout
    if name == 'unrolled':
        pairs = re.findall(r'gradient (\S+), differences (\S+)', done.stdout)
        assert len(pairs) == 2 and all(float(a) == pytest.approx(float(b), abs=2e-6)
                                       and abs(float(a)) > 0.01 for a, b in pairs)


@pytest.mark.parametrize('name', EXAMPLES)
def test_is_short_and_imports_the_library_alone(name):
    source = EXAMPLES[name].read_text(encoding='utf-8')
    assert len(source.splitlines()) <= 80
    tree = ast.parse(source)
    assert ast.get_docstring(tree)
    modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import)
               for alias in node.names}
    modules |= {node.module for node in ast.walk(tree)
                if isinstance(node, ast.ImportFrom)}
    assert {module.split('.')[0] for module in modules} <= IMPORTED


def test_each_example_has_its_bound():
    assert set(EXAMPLES) <= set(AFTER)
