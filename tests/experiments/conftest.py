"""Runs of the experiments, real ones, cheap to compile."""

import contextlib
import functools
import importlib
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from experiments.harness import cli
from experiments.harness.runs import preemption

ROOT = Path(__file__).parents[2]


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


@pytest.fixture(autouse=True)
def state_on_exit_of_a_new_process(monkeypatch):
    """What one test's command noted of leaving is not what the next one's would say."""
    monkeypatch.setattr(preemption, '_exit_state', preemption._INITIAL_STATE)


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
        values = cli.parse(
            experiment.define_flags, [*arguments, f'--run_dir={folder}'])
        with jax.enable_x64(False), cheap_compilation():
            experiment.main(values)
        return folder
    return run


@pytest.fixture
def launch_sweep(tmp_path):
    """(TOML, folder, *flags) -> a launcher's process; its programs are kept."""
    environment = {**os.environ, 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
                   'JAX_COMPILATION_CACHE_DIR': str(tmp_path / 'programs')}
    started = []

    def start(toml, folder, *flags):
        path = tmp_path / 'a_sweep.toml'
        path.write_text(toml)
        process = subprocess.Popen(
            [sys.executable, '-m', 'experiments.harness.sweep', str(path),
             f'--out_dir={folder}', *flags], cwd=ROOT, env=environment, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
