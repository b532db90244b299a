"""Runs of the experiments, real ones, cheap to compile."""

import contextlib
import functools
import importlib

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from experiments import launch


@contextlib.contextmanager
def _configured(**settings):
    def use(values):
        for name, value in values.items():
            jax.config.update(name, value)
        # Otherwise JAX would remember whether there was a folder for programs.
        compilation_cache.reset_cache()

    before = {name: jax.config.values[name] for name in settings}
    use(settings)
    try:
        yield
    finally:
        use(before)


@pytest.fixture(scope='session')
def cheap_compilation(tmp_path_factory):
    """() -> context: half of LLVM's work, and none for a program seen before."""
    folder = tmp_path_factory.mktemp('compiled')
    return lambda: _configured(
        jax_disable_most_optimizations=True, jax_compilation_cache_dir=str(folder),
        jax_persistent_cache_min_compile_time_secs=0.)


@pytest.fixture(scope='session')
def run(tmp_path_factory, cheap_compilation):
    """(experiment, *arguments) -> folder of the run; equal calls share it.

    In float32, as people run them.
    """
    @functools.cache
    def run(name, *arguments):
        folder = tmp_path_factory.mktemp(name) / 'run'
        experiment = importlib.import_module(f'experiments.{name}')
        values = launch.parse(
            experiment.define_flags, [*arguments, f'--run_dir={folder}'])
        with jax.enable_x64(False), cheap_compilation():
            experiment.main(values)
        return folder
    return run
