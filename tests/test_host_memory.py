"""A stack in the host's memory: what it trains to, where it stays, what is moved.

On a CPU both memories are the same, so what is moved is read off the program as JAX
hands it to the compiler of a GPU, and, where there is a `libtpu`, off the plan of the
compiler for TPUs, which needs no TPU.
"""

import importlib.util
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import cdgm
from cdgm import layers, losses, models, stacks

DEPTH, LENGTH, VOCABULARY = 4, 8, 65
ADAM = optax.adam(1e-3)


def make(depth=DEPTH, width=16, riders=(), **fields):
    model = models.transformer(VOCABULARY, width=width, depth=depth, heads=2,
                               context=LENGTH)
    loss = partial(losses.next_token_loss, hidden=model.hidden,
                   unembedding=model.unembedding)
    return model, cdgm.block_descent({
        'embedding': cdgm.Block(('embedding', 'head'), loss, ADAM, ephemeral=True),
        **layers.blocks('layers', depth, loss, ADAM, **fields,
                        riders={name: optax.sgd(1e-3) for name in riders})})


MODEL, DESCENT = make()
PARAMS = jax.tree.map(lambda x: np.asarray(x, np.float32), MODEL.init(
    jax.random.key(0)))
TOKENS = jax.random.randint(jax.random.key(1), (3, 2, LENGTH + 1), 0, VOCABULARY,
                            jnp.int32)
KEYS = jax.random.split(jax.random.key(2), 3)
RESTS = {'float32': lambda stack: stack, '16 bits': layers.encode,
         'bfloat16': lambda stack: jax.tree.map(
             lambda x: jnp.asarray(x, jnp.bfloat16), stack)}
PROGRAMS = {
    'step': lambda descent, state, number: descent.step(
        state, TOKENS[0], KEYS[0], ('layers', number)),
    'visit': lambda descent, state, number: descent.visit(
        state, TOKENS, KEYS, ('layers', number)),
    'visit on one minibatch': lambda descent, state, number: descent.visit(
        state, TOKENS[0], KEYS[0], ('layers', number), steps=3),
    'visit of a traced block': lambda descent, state, number: descent.visit(
        state, TOKENS, KEYS, number + 1),
    'visit of another block': lambda descent, state, number: descent.visit(
        state, TOKENS, KEYS, 'embedding')}


def on_host(params):
    return {**params, 'layers': layers.to_host(params['layers'])}


def kinds(stack):
    """Memory -> the numbers of axes of what is there."""
    found = {}
    for leaf in jax.tree.leaves(stack):
        found.setdefault(leaf.sharding.memory_kind, set()).add(leaf.ndim)
    return found


def assert_same(mine, other):
    assert jax.tree.structure(mine) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, mine, other)


@pytest.mark.parametrize('rest', RESTS)
@pytest.mark.parametrize('program', PROGRAMS)
@pytest.mark.sample(2)
def test_it_trains_as_on_the_device_and_stays(program, rest):
    params = {**PARAMS, 'layers': RESTS[rest](PARAMS['layers'])}
    run = jax.jit(partial(PROGRAMS[program], DESCENT), donate_argnums=0)
    ends = [run(DESCENT.init(start), jnp.int32(2))
            for start in (on_host(params), params)]
    assert kinds(ends[0][0].params['layers']) == {'pinned_host': {3}, 'device': {2}}
    assert_same(*ends)


@pytest.mark.parametrize('fields', [{'size': 2}, {'ephemeral': False}])
@pytest.mark.thorough
def test_groups_of_layers_and_kept_states(fields):
    _, descent = make(**fields)
    run = jax.jit(partial(PROGRAMS['visit'], descent), donate_argnums=0)
    assert_same(*(run(descent.init(start), jnp.int32(1))
                  for start in (on_host(PARAMS), PARAMS)))


@pytest.mark.parametrize('rest', ['float32', '16 bits'])
def test_a_loss_evaluates_it_as_it_is(rest):
    params = {**PARAMS, 'layers': RESTS[rest](PARAMS['layers'])}
    loss = jax.jit(lambda params: DESCENT.blocks['embedding'].loss(
        params, TOKENS[0], KEYS[0])[0])
    assert loss(on_host(params)) == loss(params)


@pytest.mark.parametrize('rest', ['float32', '16 bits'])
@pytest.mark.parametrize('program', ['visit', 'evaluation'])
def test_no_more_than_a_layer_is_moved_at_once(program, rest):
    """As a GPU's compiler is told: here layers alone, and back the open one."""
    stack = on_host({'layers': RESTS[rest](PARAMS['layers'])})['layers']
    state = DESCENT.init({**PARAMS, 'layers': stack})
    run = (partial(PROGRAMS['visit'], DESCENT) if program == 'visit' else
           lambda state, number: DESCENT.blocks['embedding'].loss(
               state.params, TOKENS[0], KEYS[0]))
    text = jax.jit(run).trace(state, jnp.int32(1)).lower(
        lowering_platforms=('cuda',)).as_text()
    moved = re.findall(r'annotate_device_placement.*?_xla_buffer_placement = "(\w+)"'
                       r'.*? -> tensor<([\dx]+)x', text)
    whole = {leaf.shape for leaf in jax.tree.leaves(stack) if leaf.ndim > 2}
    shapes = {kind: {tuple(map(int, shape.split('x'))) for to, shape in moved
                     if to == kind} for kind in ('device', 'pinned_host')}
    assert shapes['device'] == {shape[1:] for shape in whole}
    assert shapes['pinned_host'] == (shapes['device'] if program == 'visit' else set())


@pytest.mark.skipif(not importlib.util.find_spec('libtpu'), reason='no libtpu')
@pytest.mark.slow
def test_the_compiler_for_tpus_keeps_it_on_the_host():
    """PYTHONPATH=a folder with libtpu, JAX_PLATFORMS=cpu, TPU_SKIP_MDS_QUERY=1."""
    chip = topologies.get_topology_desc(platform='tpu', topology_name='v5e:2x2'
                                        ).devices[0]
    there = NamedSharding(Mesh(np.array([chip]), ('x',)), PartitionSpec())
    with jax.enable_x64(False):
        model, descent = make(depth=12, width=256)
        params = jax.eval_shape(model.init, jax.random.key(0))
        params = {**params, 'layers': jax.eval_shape(layers.encode, params['layers'])}
        state, number = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=there),
            jax.eval_shape(lambda params: (descent.init(params), jnp.int32(1)), params))
        plan = jax.jit(partial(PROGRAMS['visit'], descent), donate_argnums=0).trace(
            state._replace(params=on_host(state.params)), number
        ).lower().compile().memory_analysis()
    matrices = sum(2 * x.size for x in jax.tree.leaves(params['layers']) if x.ndim > 2)
    # In place, and no copy on the device: of twelve layers one is there in float32.
    assert plan.host_argument_size_in_bytes == matrices
    assert plan.host_alias_size_in_bytes == matrices
    assert plan.host_temp_size_in_bytes == 0
    assert plan.argument_size_in_bytes + plan.temp_size_in_bytes < 0.6 * matrices


def small_loss(params, x, key):
    def layer(own, x):
        return x + jnp.tanh(x @ own['w'] + own['b'][None])
    return jnp.mean(layers.apply(layer, params['layers'], x) ** 2), None


SMALL = cdgm.block_descent(layers.blocks('layers', 64, small_loss, ADAM))
SMALL_PARAMS = {'layers': {'w': np.ones((64, 32, 32), np.float32),
                           'b': np.ones((64, 32), np.float32)}}
SMALL_BATCH = jax.ShapeDtypeStruct((2, 32), jnp.float32)


def test_memory_counts_the_host_apart():
    forms = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), SMALL_PARAMS)
    near, _ = cdgm.memory(SMALL, forms, SMALL_BATCH)
    for params in (on_host(forms), on_host(SMALL_PARAMS)):
        far, joint = cdgm.memory(SMALL, params, SMALL_BATCH)
        assert near.host == joint.host == 0
        assert far.host == 4 * 64 * 32 * 32 == near.held - far.held
        # Were it copied as a whole, the peaks would be the same.
        assert far.peak == pytest.approx(near.peak - far.host, abs=0.1 * far.host)


@pytest.mark.thorough
def test_explain_says_what_the_host_has():
    told = cdgm.explain(SMALL, on_host(SMALL_PARAMS), SMALL_BATCH, ('layers/1',))
    assert str(told).splitlines()[-1] == (
        "In the host's memory, beside these: 0.2621 MB.")


def test_it_stays_sharded():
    mesh = Mesh(np.array(jax.devices()[:1]), ('data',))
    named = NamedSharding(mesh, PartitionSpec(None, None, 'data'))
    for leaf in (jax.device_put(np.ones((3, 2, 2)), named),
                 jax.ShapeDtypeStruct((3, 2, 2), jnp.float32, sharding=named)):
        assert layers.to_host(leaf).sharding == named.with_memory_kind('pinned_host')


def test_what_would_need_more_than_a_block_at_once_is_refused():
    _, riding = make(riders=('layers',))
    with pytest.raises(ValueError, match='ride with .* host memory'):
        jax.eval_shape(partial(PROGRAMS['step'], riding),
                       riding.init(on_host(PARAMS)), 1)
    with pytest.raises(ValueError, match='to move at once.* host memory'):
        jax.eval_shape(lambda state: DESCENT.simultaneous(state, TOKENS[0], KEYS[0]),
                       DESCENT.init(on_host(PARAMS)))
    states = jax.tree.map(lambda x: x[None], DESCENT.init(PARAMS))
    states = states._replace(params=on_host(states.params))
    with pytest.raises(ValueError, match='under vmap'):
        jax.eval_shape(jax.vmap(partial(PROGRAMS['step'], DESCENT), (0, None)),
                       states, 1)


def test_a_platform_without_such_memory_is_refused(monkeypatch):
    monkeypatch.setattr(stacks, '_HOST', 'nowhere')
    with pytest.raises(ValueError, match="no nowhere memory, only .*'device'"):
        layers.to_host(jnp.ones((2, 2, 2)))
