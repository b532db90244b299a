"""Where a training lies on devices: what is split, and what --mesh refuses."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from experiments.harness.errors import SettingError
from experiments.harness.train import placement

ROOT = Path(__file__).parents[4]
SMALL = ('--width=16', '--depth=2', '--heads=2', '--context=16', '--batch_size=8',
         '--visit=5', '--evaluations=1', '--cycles=10', '--decay_steps=50',
         '--warmup=5')
MESHES = ('data=8', 'data=2,model=4')


@pytest.mark.parametrize('shape, sizes, want', [
    ((1,), (2, 4), []),
    ((1, 5), (2, 4), []),
    ((3, 8), (2, 4), [None, 'model']),
    ((3, 6), (2, 4), [None, 'data']),
    ((1, 97, 128), (2, 4), [None, None, 'model']),
    ((1, 96, 128), (2, 4), [None, 'data', 'model']),
    # The layers stay whole, though their number divides.
    ((1, 8, 5, 7), (8, 1), [None, None, None, 'model']),
    ((1, 4, 128, 512), (2, 4), [None, None, 'data', 'model']),
    ((1, 4, 128), (2, 4), [None, 'data', 'model']),
])
def test_an_array_is_split_along_its_last_axes_that_divide(shape, sizes, want):
    assert placement._split(shape, dict(zip(placement.AXES, sizes))) == want


@pytest.mark.parametrize('text, part', [
    ('data', "'data' is no axis with its size"),
    ('data=0', "'data=0' is no axis"),
    ('data=two', "'data=two' is no axis"),
    ('rows=2', "'rows=2' is no axis"),
    ('data=1,data=1', 'names the axis data twice'),
    ('data=2', 'is of 2 devices, and there are 1'),
    ('data=2,model=4', 'is of 8 devices, and there are 1'),
])
def test_a_mesh_that_cannot_be_is_one_line(text, part):
    with pytest.raises(SettingError, match=part):
        placement.read_mesh(text, batch_size=8)


def test_a_mesh_divides_the_minibatch(monkeypatch):
    monkeypatch.setattr(jax, 'device_count', lambda: 3)
    with pytest.raises(SettingError, match='in 3, which does not divide --batch'):
        placement.read_mesh('data=3', batch_size=8)


@pytest.mark.parametrize('text', ['', None])
def test_without_a_mesh_nothing_is_placed(text):
    assert placement.read_mesh(text, batch_size=8) is None


def test_what_is_put_is_everywhere_keys_too():
    mesh = jax.make_mesh((1, 1), placement.AXES, (AxisType.Auto,) * 2)
    placed = placement.Placement(mesh)
    key, numbers = placed.put((jax.random.key(3), np.arange(4.)))
    assert jax.random.bits(key) == jax.random.bits(jax.random.key(3))
    assert numbers.sharding == key.sharding == placed.replicated
    assert placed.put(numbers) is numbers
    assert placed.of_state(numbers).spec == PartitionSpec()


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """(*flags) -> folder of a run on eight devices."""
    def trained(*flags):
        run = tmp_path_factory.mktemp('run') / 'run'
        done = subprocess.run(
            [sys.executable, '-m', 'experiments.language_model', *SMALL, *flags,
             f'--run_dir={run}'], capture_output=True, text=True, cwd=ROOT, env={
                 **os.environ, 'JAX_PLATFORMS': 'cpu',
                 'XLA_FLAGS': '--xla_force_host_platform_device_count=8'})
        assert done.returncode == 0, done.stderr[-2000:]
        return run
    return trained


def read(run):
    with np.load(run / 'params.npz') as leaves:
        return dict(leaves)


@pytest.mark.thorough
@pytest.mark.parametrize('flags', [('--order=joint',), ('--order=shuffled',)])
def test_fifty_steps_on_eight_devices_are_those_on_one(flags, trained):
    want = read(trained(*flags))
    for mesh in MESHES:
        got = read(trained(*flags, f'--mesh={mesh}'))
        for name, leaf in want.items():
            np.testing.assert_allclose(got[name], leaf, atol=1e-5, err_msg=name)
