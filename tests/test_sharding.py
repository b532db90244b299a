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


STACKS = ('layers', 'half', 'riders', 'companions')
DEPTH = 4


def stack_start():
    rng = np.random.default_rng(3)
    return {'in': jnp.asarray(rng.normal(size=(WIDTH, HIDDEN)), np.float32),
            'layers': {'w': jnp.asarray(rng.normal(size=(DEPTH, HIDDEN, HIDDEN)) / 4,
                                        np.float32)}}


def stack_loss(params, batch, key):
    x = cdgm.layers.apply(lambda layer, x: x + jnp.tanh(x @ layer['w']),
                          params['layers'], batch @ params['in'])
    return jnp.mean(jnp.square(x)), None


def trained_stack(how, params, batches):
    """The parameters after a visit of each block, three steps each."""
    # A larger epsilon than usual: Adam divides a gradient that is nothing but rounding
    # by its own size, and the rounding of eight devices is another.
    adam = optax.adam(1e-2, eps=1e-4)
    along_by = optax.scale(-1e-3)
    along = {'riders': {'riders': {'layers': along_by}, 'reach': 'all'},
             'companions': {'companions': ('in',)}}.get(how, {})
    descent = cdgm.block_descent({
        'in': cdgm.Block('in', stack_loss, adam),
        **cdgm.layers.blocks('layers', DEPTH, stack_loss, adam, **along)})
    visit = jax.jit(descent.visit)
    state = descent.init(params)
    for turn in range(DEPTH + 1):
        keys = jax.random.split(jax.random.key(turn), 3)
        state, _ = jax.block_until_ready(visit(state, batches, keys, jnp.int32(turn)))
    return state.params


def compare_stacks():
    """{how: what is wrong, a line each}, minibatch and parameters over all devices."""
    mesh = jax.make_mesh((DEVICES,), ('m',), (jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec

    def put(x, *axes):
        return jax.device_put(x, jax.sharding.NamedSharding(mesh, spec(*axes)))

    batches = jnp.asarray(np.random.default_rng(4).normal(size=(3, 16, WIDTH)),
                          np.float32)
    faults = {}
    for how in STACKS:
        params = stack_start()
        if how == 'half':
            params['layers'] = cdgm.layers.encode(params['layers'])
        want = trained_stack(how, params, batches)
        placed = jax.tree.map(lambda x: put(x, *[None] * (x.ndim - 1), 'm'), params)
        got = trained_stack(how, placed, put(batches, None, 'm'))
        faults[how] = [line for name, leaf in (('in', got['in']),
                                               ('w', got['layers']['w']))
                       for line in _off(name, leaf, {
                           'in': want['in'], 'w': want['layers']['w']}[name],
                           params['layers']['w'] if name == 'w' else params['in'])]
    return faults


def _off(name, got, want, before):
    decoded = [np.asarray(cdgm.layers.decode(x), np.float64) for x in (
        got, want, before)]
    gap = np.abs(decoded[0] - decoded[1])
    # Of 16 bits, which way a number goes that falls on a draw's edge is rounding's.
    if not np.quantile(gap, 0.99 if got.dtype == np.uint16 else 1) <= 1e-5:
        yield f'{name} is off by {gap.max()}'
    if not np.abs(decoded[1] - decoded[2]).max() > 1e-3:
        yield f'{name} did not move'
    if len(got.sharding.device_set) != DEVICES or got.sharding.spec[-1] != 'm':
        yield f'{name} is laid out as {got.sharding}'


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


def law():
    """{bits at rest: (bytes of a device at the peak of a visit, what the law says)}.

    24 layers of 256, eight windows of 32. A device holds an eighth of what the law says
    for one, what enters each layer for its half of the minibatch, and a layer gathered.
    """
    depth, width, context, batch = 24, 256, 32, 8
    model = cdgm.models.transformer(65, width=width, depth=depth, heads=4,
                                    context=context)
    loss = partial(cdgm.losses.next_token_loss, hidden=model.hidden,
                   unembedding=model.unembedding)
    adam = optax.adam(1e-3)
    descent = cdgm.block_descent({
        'embedding': cdgm.Block(('embedding', 'head'), loss, adam, ephemeral=True),
        **cdgm.layers.blocks('layers', depth, loss, adam)})
    mesh = jax.make_mesh((2, 4), ('data', 'model'),
                         (jax.sharding.AxisType.Auto,) * 2)

    def placed(form, *axes):
        return jax.ShapeDtypeStruct(form.shape, form.dtype,
                                    sharding=jax.sharding.NamedSharding(
                                        mesh, jax.sharding.PartitionSpec(*axes)))

    def split(leaf):
        whole = leaf.ndim < 2 or leaf.shape[-2] % 2 or leaf.shape[-1] % 4
        return placed(leaf) if whole else placed(
            leaf, *[None] * (leaf.ndim - 2), 'data', 'model')

    found, params = {}, jax.eval_shape(model.init, jax.random.key(0))
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    layer = sum(leaf.size for leaf in jax.tree.leaves(params['layers'])) // depth
    for bits in 32, 16:
        held = params if bits == 32 else {
            **params, 'layers': jax.eval_shape(cdgm.layers.encode, params['layers'])}
        state = jax.tree.map(split, jax.eval_shape(descent.init, held))
        compiled = jax.jit(
            lambda *given: descent.visit(*given)[0], donate_argnums=0,
            out_shardings=jax.tree.map(lambda leaf: leaf.sharding, state)).lower(
                state, placed(jax.ShapeDtypeStruct((5, batch, context + 1), jnp.int32),
                              None, 'data'),
                jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 5)),
                jax.ShapeDtypeStruct((), jnp.int32)).compile()
        plan = compiled.memory_analysis()
        entering = depth * batch // 2 * context * width * 4
        found[bits] = (
            plan.argument_size_in_bytes + plan.temp_size_in_bytes
            + plan.output_size_in_bytes - plan.alias_size_in_bytes,
            (bits / 8 * count + 16 * layer) / DEVICES + entering + 4 * layer)
    return found


def main():
    assert jax.device_count() == DEVICES
    params, batch = start()
    want = {way: jax.tree.map(np.asarray, call(params, batch))
            for way, call in ways(loss).items()}
    moved = {way: bool(np.abs(want[way]['enc'] - params['enc']).max() > 1e-3)
             for way in WAYS}
    faults = {kind: compare(kind, want) for kind in MESHES}
    print(json.dumps({'moved': moved, 'stacks': compare_stacks(), 'law': law(),
                      **faults}))


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
@pytest.mark.thorough
def test_sharded_over_eight_devices_is_one_device(kind, way, found):
    assert found[kind][way] == []
    assert found['moved'][way]


@pytest.mark.parametrize('how', STACKS)
@pytest.mark.thorough
def test_a_stack_sharded_over_eight_devices_is_one_device(how, found):
    assert found['stacks'][how] == []


@pytest.mark.parametrize('bits', ['32', '16'])
@pytest.mark.thorough
def test_a_device_holds_its_share_of_the_law_and_a_gathered_layer(bits, found):
    peak, law = found['law'][bits]
    assert peak < 1.1 * law, (peak, law)


if __name__ == '__main__':
    main()
