"""What every test relies on: float64 on, implicit rank promotion off, a fixed key."""

import os
from collections import defaultdict

import jax
import pytest

jax.config.update('jax_enable_x64', True)
jax.config.update('jax_numpy_rank_promotion', 'raise')


def pytest_configure(config):
    """Compile in half the time, for programs that run for a moment.

    The slow tests run long, and are compiled as a user's programs are. The variable is
    for the programs that tests start.
    """
    if 'not slow' in config.option.markexpr:
        os.environ.setdefault('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')
        jax.config.update('jax_disable_most_optimizations', os.environ[
            'JAX_DISABLE_MOST_OPTIMIZATIONS'] not in ('', '0', 'false'))


@pytest.hookimpl(tryfirst=True)  # before the marks of -m are looked at
def pytest_collection_modifyitems(items):
    """Of a test marked `sample(n)`, leave the default run n cases, evenly spread."""
    cases = defaultdict(list)
    for item in items:
        if item.get_closest_marker('sample'):
            cases[item.nodeid.partition('[')[0]].append(item)
    for members in cases.values():
        size, = members[0].get_closest_marker('sample').args
        kept = {index * (len(members) - 1) // max(size - 1, 1) for index in range(size)}
        for index, item in enumerate(members):
            if index not in kept:
                item.add_marker(pytest.mark.thorough)


@pytest.fixture
def key():
    return jax.random.key(20)
