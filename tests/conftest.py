"""What every test relies on: float64 on, implicit rank promotion off, a fixed key."""

import os

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


@pytest.fixture
def key():
    return jax.random.key(20)
