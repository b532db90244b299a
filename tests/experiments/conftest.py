"""Runs of the experiments: real ones, cheap to compile, and one written by hand."""

import contextlib
import functools
import importlib
import json

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from experiments import figures, launch


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


@pytest.fixture
def write_run():
    """(folder, gflop, values, commit, metric) -> the folder, as of a run by hand.

    It has two evaluations, and 'b' takes no step in its first chunk.
    """
    def write(folder, gflop, values, commit=None, metric='neg_elbo'):
        folder.mkdir(parents=True)
        seeds = len(values)
        rows = [{'sweep': 0, 'gflop': 0., 'seconds': 0.,
                 'test': {metric: [9.] * seeds}},
                {'sweep': 1, 'gflop': gflop / 2, 'seconds': 1.,
                 'loss': {'a': [3.] * seeds}},
                {'sweep': 2, 'gflop': gflop, 'seconds': 2.,
                 'loss': {'a': [2.] * seeds, 'b': [1.] * seeds},
                 'test': {metric: values}}]
        (folder / 'metrics.jsonl').write_text(
            ''.join(json.dumps(row) + '\n' for row in rows))
        (folder / 'env.json').write_text(json.dumps({
            'python': '3.11', 'versions': {'jax': '0.10'}, 'device': 'cpu <8>',
            'cores': 2, 'commit': commit, 'uncommitted': False,
            'command': ['vae.py', '--order=a,b', f'--run_dir={folder}', '--seeds=2']}))
        figures.grid(folder / 'samples.png', np.eye(8)[None, :, :, None].repeat(8, 0))
        return folder
    return write
