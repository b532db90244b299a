"""Parameters sharded over eight devices, against the same steps on one.

The devices are the CPU's, and their number is fixed when JAX starts: this file runs
itself in a process of its own, once, and each test reads off what it found.
"""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cdgm

DEVICES, WIDTH, HIDDEN = 8, 4, 16
ORDER = ('enc', 'dec', 'dec', 'enc')
MESHES = ('explicit', 'auto')
WAYS = ('named', 'traced', 'visit', 'cycle', 'simultaneous', 'drive', 'greedy',
        'coordinate_descent')
# Each matrix is split along its hidden axis, which is first in one and last in other.
SPECS = {'enc': (None, 'm'), 'dec': ('m', None), 'bias': ('m',)}
OWNERS = {'enc': 'enc', 'dec': 'dec', 'bias': 'enc'}


def loss(params, batch, key, out_sharding=None):
    hidden = jnp.tanh(jnp.einsum('bi,ih->bh', batch, params['enc'])
                      + params['bias'][None])
    out = jnp.einsum('bh,hi->bi', hidden, params['dec'], out_sharding=out_sharding)
    return jnp.mean((out - batch) ** 2), jnp.mean(hidden)


def start():
    rng = np.random.default_rng(2)
    shapes = {'enc': (WIDTH, HIDDEN), 'dec': (HIDDEN, WIDTH), 'bias': (HIDDEN,)}
    params = {name: jnp.asarray(rng.normal(size=shape), np.float32)
              for name, shape in shapes.items()}
    return params, jnp.asarray(rng.normal(size=(6, WIDTH)), np.float32)


def ways(loss):
    """{how: (params, batch) -> (params, moments)}, each two updates or more."""
    tx = optax.adam(1e-2)
    descent = cdgm.block_descent({
        'enc': cdgm.Block(('enc', 'bias'), loss, tx),
        'dec': cdgm.Block('dec', loss, tx)})
    key = jax.random.key(0)

    def descended(run):
        def call(params, batch):
            state = jax.jit(lambda state, batch: run(state, batch)[0])(
                descent.init(params), batch)
            return _seen(state.params, state.opt_state)
        return call

    def traced(state, batch):
        step = jax.jit(descent.step)
        for index in (0, 1, 0):
            state, info = step(state, batch, key, jnp.int32(index))
        return state, info

    def named(state, batch):
        state, _ = descent.step(state, batch, key, 'enc')
        return descent.step(state, batch, key, 'dec')

    return {
        'named': descended(named),
        'traced': lambda params, batch: _of_state(
            traced(descent.init(params), batch)[0]),
        'visit': descended(lambda state, batch: descent.visit(
            state, batch, key, 'enc', steps=3)),
        'cycle': descended(lambda state, batch: descent.cycle(
            state, batch, key, ORDER)),
        'simultaneous': descended(lambda state, batch: descent.simultaneous(
            state, batch, key)),
        'drive': partial(_driven, descent, cdgm.cyclic((1, 1))),
        'greedy': partial(_driven, descent, cdgm.selection.gauss_southwell(
            2, refresh=2, lipschitz='estimated')),
        'coordinate_descent': partial(_transformed, loss),
    }


def _seen(params, opt_states):
    """Params and Adam's moments of every block: {name: array} of each."""
    moments = {}
    for block, (adam, *_) in opt_states.items():
        for which in ('mu', 'nu'):
            moments.update({f'{which} {name}': leaf
                            for name, leaf in getattr(adam, which).items()
                            if isinstance(leaf, jax.Array)})
    return {**params, **moments}


def _of_state(state):
    return _seen(state.params, state.opt_state)


def _driven(descent, rule, params, batch):
    driven = cdgm.drive(descent, rule)
    state, step = driven.init(params), jax.jit(driven.step)
    for _ in range(3):
        state, _ = step(state, batch, jax.random.key(0))
    return _of_state(state.descent)


def _transformed(loss, params, batch):
    tx = cdgm.coordinate_descent(optax.adam(1e-2), OWNERS, schedule=cdgm.cyclic((1, 1)))

    @jax.jit
    def step(params, state):
        grads = jax.grad(lambda params: loss(params, batch, None)[0])(params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    for _ in range(3):
        params, state = step(params, state)
    return _seen(params, state.inner_states)


def compare(kind, want):
    """{way: what is wrong, a line each}."""
    types = jax.sharding.AxisType
    mesh = jax.make_mesh((DEVICES,), ('m',), (
        types.Explicit if kind == 'explicit' else types.Auto,))
    spec = jax.sharding.PartitionSpec
    params, batch = start()

    def put(x, *axes):
        return jax.device_put(x, jax.sharding.NamedSharding(mesh, spec(*axes)))

    placed = {name: put(x, *SPECS[name]) for name, x in params.items()}
    ours = partial(loss, out_sharding=spec()) if kind == 'explicit' else loss
    faults = {}
    with jax.set_mesh(mesh):
        for way, call in ways(ours).items():
            try:
                got = call(placed, put(batch))
                faults[way] = list(_differences(got, want[way], placed))
            except Exception as error:  # reported by the test of this way
                faults[way] = [f'{type(error).__name__}: {error}']
    return faults


def _differences(got, want, placed):
    if set(got) != set(want) or len(got) != 9:
        yield f'leaves {sorted(got)}'
    for name, leaf in got.items():
        gap = np.abs(np.asarray(leaf) - want[name]).max()
        if not gap <= 1e-6:
            yield f'{name} is off by {gap}'
        like = placed[name.split()[-1]].sharding
        if not leaf.sharding.is_equivalent_to(like, leaf.ndim):
            yield f'{name} is laid out as {leaf.sharding}, its parameter as {like}'


def main():
    assert jax.device_count() == DEVICES
    params, batch = start()
    want = {way: jax.tree.map(np.asarray, call(params, batch))
            for way, call in ways(loss).items()}
    moved = {way: bool(np.abs(want[way]['enc'] - params['enc']).max() > 1e-3)
             for way in WAYS}
    faults = {kind: compare(kind, want) for kind in MESHES}
    print(json.dumps({'moved': moved, **faults}))


@pytest.fixture(scope='module')
def found():
    root = Path(__file__).parent.parent
    flags = f'--xla_force_host_platform_device_count={DEVICES}'
    done = subprocess.run(
        [sys.executable, __file__], capture_output=True, text=True, timeout=300,
        cwd=root, env={**os.environ, 'XLA_FLAGS': flags, 'JAX_PLATFORMS': 'cpu',
                       'PYTHONPATH': str(root)})
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize('kind', MESHES)
def test_sharded_over_eight_devices_is_one_device(kind, way, found):
    assert found[kind][way] == []
    assert found['moved'][way]


if __name__ == '__main__':
    main()
