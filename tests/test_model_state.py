"""Model state: what the losses change and nobody descends, against a loop by hand.

A linen generator and discriminator with batch normalisation; the state holds their
statistics, an integer counter and a typed key. The generator's loss freezes the
discriminator's statistics; the discriminator's moves both.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import cdgm


class Generator(nn.Module):
    @nn.compact
    def __call__(self, z):
        x = nn.BatchNorm(use_running_average=False, momentum=0.5)(
            nn.Dense(4, use_bias=False)(z))
        return nn.Dense(2)(jnp.tanh(x))


class Discriminator(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.BatchNorm(use_running_average=False, momentum=0.9)(
            nn.Dense(3, use_bias=False)(x))
        return nn.Dense(1)(jnp.tanh(x))[:, 0]


NETS = {'g': Generator(), 'd': Discriminator()}


def apply(name, params, model_state, x):
    """What a net gives, and its new statistics."""
    out, new = NETS[name].apply({'params': params[name],
                                 'batch_stats': model_state['stats'][name]}, x,
                                mutable=['batch_stats'])
    return out, new['batch_stats']


def latents(model_state, batch):
    return jax.random.normal(model_state['key'], (len(batch), 2), batch.dtype)


def advance(model_state, **stats):
    return {'stats': {**model_state['stats'], **stats},
            'count': model_state['count'] + 1,
            'key': jax.random.fold_in(model_state['key'], model_state['count'])}


def d_loss(params, model_state, batch, key):
    fake, g = apply('g', params, model_state, latents(model_state, batch))
    real_logits, d = apply('d', params, model_state, batch)
    fake_logits, d = apply('d', params, {'stats': {'d': d}}, fake)
    loss = jnp.mean(jax.nn.softplus(-real_logits) + jax.nn.softplus(fake_logits))
    return loss, ({'real': real_logits, 'seen': jnp.int32(2 ** 24 + 1)},
                  advance(model_state, g=g, d=d))


def g_loss(params, model_state, batch, key):
    fake, g = apply('g', params, model_state, latents(model_state, batch))
    fake_logits, _ = apply('d', params, model_state, fake)
    return jnp.mean(jax.nn.softplus(-fake_logits)), (model_state['key'],
                                                     advance(model_state, g=g))


LOSSES = {'d': d_loss, 'g': g_loss}
TX = optax.adam(1e-2)
DESCENT = cdgm.block_descent({name: cdgm.Block(name, loss, TX)
                              for name, loss in LOSSES.items()})


@pytest.fixture(scope='module')
def start():
    """(params, model_state, minibatches)"""
    keys = jax.random.split(jax.random.key(0), 3)
    both = {name: NETS[name].init(key, jnp.ones((8, 2)))
            for (name, key) in zip(NETS, keys)}
    params = {name: variables['params'] for name, variables in both.items()}
    model_state = {
        'stats': {name: variables['batch_stats'] for name, variables in both.items()},
        'count': jnp.int32(0), 'key': jax.random.key(7)}
    return params, model_state, jax.random.normal(keys[2], (6, 8, 2))


@jax.jit
def by_hand(params, model_state, batches):
    """d, d, g twice, by stock optax and nothing else."""
    states = {name: TX.init(params[name]) for name in LOSSES}
    for name, batch in zip('ddgddg', batches):
        def own(mine):
            return LOSSES[name]({**params, name: mine}, model_state, batch, None)

        grads, (_, model_state) = jax.grad(own, has_aux=True)(params[name])
        updates, states[name] = TX.update(grads, states[name])
        params = {**params, name: optax.apply_updates(params[name], updates)}
    return params, model_state


def named(state, batches):
    for name, batch in zip('ddgddg', batches):
        state, _ = DESCENT.step(state, batch, None, name)
    return state


def traced(state, batches):
    return jax.lax.scan(lambda state, data: DESCENT.step(state, data[0], None, data[1]),
                        state, (batches, jnp.array([0, 0, 1, 0, 0, 1])))[0]


def visits(state, batches):
    for name, start, stop in (('d', 0, 2), ('g', 2, 3), ('d', 3, 5), ('g', 5, 6)):
        state, _ = DESCENT.visit(state, batches[start:stop], None, name)
    return state


def cycles(state, batches):
    for at in (0, 3):
        state, infos = DESCENT.cycle(state, batches[at:at + 3], None, 'ddg',
                                     stacked=True)
        assert jax.tree.map(jnp.shape, infos.aux) == {
            'd': {'real': (2, 8), 'seen': (2,)}, 'g': (1,)}
    return state


def driven(state, batches):
    run = cdgm.drive(DESCENT, cdgm.sequence((0, 0, 1), 2))
    state = cdgm.selection.SelectedDescentState(state, run.init(
        state.params, state.model_state).rule)
    for batch in batches:
        state, _ = run.step(state, batch, None)
    return state.descent


def close(one, other):
    """To 1e-5, for flax keeps statistics in float32 whatever the parameters are."""
    def plain(x):
        return jax.random.key_data(x) if jnp.issubdtype(
            x.dtype, jax.dtypes.prng_key) else x

    jax.tree.map(lambda a, b: np.testing.assert_allclose(plain(a), plain(b), 1e-5,
                                                         1e-5), one, other)


@pytest.mark.parametrize('run', [named, traced, visits, cycles, driven])
@pytest.mark.sample(1)
def test_equals_a_loop_by_hand(run, start):
    params, model_state, batches = start
    state = jax.jit(run)(DESCENT.init(params, model_state), batches)
    wanted = by_hand(params, model_state, batches)
    close((state.params, state.model_state), wanted)
    assert int(state.model_state['count']) == 6
    assert jax.tree.map(lambda x: x.dtype, state.model_state) == jax.tree.map(
        lambda x: x.dtype, model_state)


@pytest.mark.thorough
def test_a_visit_on_one_minibatch_carries_it(start):
    params, model_state, batches = start
    state = DESCENT.init(params, model_state)
    visited, infos = jax.jit(lambda s: DESCENT.visit(
        s, batches[0], None, 'd', steps=3))(state)
    wanted = jax.jit(lambda s: visits_of_steps(s, batches[0]))(state)
    close((visited.params, visited.model_state), (wanted.params, wanted.model_state))
    assert infos.aux['d']['seen'].tolist() == [2 ** 24 + 1] * 3


def visits_of_steps(state, batch):
    for _ in range(3):
        state, _ = DESCENT.step(state, batch, None, 'd')
    return state


def test_simultaneous_hands_it_from_loss_to_loss(start):
    params, model_state, batches = start
    state, infos = jax.jit(DESCENT.simultaneous)(
        DESCENT.init(params, model_state), batches[0], None)
    between = d_loss(params, model_state, batches[0], None)[1][1]
    close(state.model_state, g_loss(params, between, batches[0], None)[1][1])
    assert set(infos.aux) == {'d', 'g'}


def test_aux_comes_back_as_it_was_returned(start):
    params, model_state, batches = start
    state = DESCENT.init(params, model_state)
    _, info = jax.jit(DESCENT.step, static_argnums=3)(state, batches[0], None, 'g')
    assert info.aux['g'] == model_state['key'] and list(info.aux) == ['g']
    _, info = jax.jit(DESCENT.step)(state, batches[0], None, jnp.int32(0))
    assert info.aux['d']['seen'].dtype == jnp.int32
    assert int(info.aux['d']['seen']) == 2 ** 24 + 1
    assert info.aux['g'].dtype == model_state['key'].dtype


@pytest.mark.parametrize('params', [
    {'net': {'params': {'w': jnp.ones(2)}, 'batch_stats': {'mean': jnp.ones(2)}}},
    # Under a name of the user's own, as a block that nobody visits.
    {'net': {'w': jnp.ones(2), 'BatchNorm_0': {'scale': jnp.ones(2),
                                               'mean': jnp.ones(2)}}}])
def test_statistics_among_the_parameters_are_refused(params):
    descent = cdgm.block_descent({
        'net': cdgm.Block('net', lambda p, b, k: (0., None), optax.set_to_zero())})
    with pytest.raises(ValueError) as caught:
        descent.init(params)
    assert str(caught.value).count('\n') == 0
    assert "/mean' is a batch statistic" in str(caught.value)


def test_statistics_of_nnx_are_refused():
    from flax import nnx
    descent = cdgm.block_descent({
        'all': cdgm.Block('', lambda p, b, k: (0., None), optax.sgd(0.1))})
    params = nnx.split(nnx.BatchNorm(2, rngs=nnx.Rngs(0)))[1]
    with pytest.raises(ValueError, match='nnx.split'):
        descent.init(params)
    descent.init(nnx.split(nnx.BatchNorm(2, rngs=nnx.Rngs(0)), nnx.Param, ...)[1])


@pytest.mark.parametrize('returned, words', [
    (lambda s: (0., None), 'with a model state a loss returns'),
    (lambda s: (0., (None, {**s, 'more': 1.})), 'a model state of another form')])
def test_a_loss_that_forgets_the_state(returned, words):
    descent = cdgm.block_descent({'x': cdgm.Block(
        '', lambda p, s, b, k: returned(s), optax.sgd(0.1))})
    with pytest.raises((TypeError, ValueError), match=words):
        descent.step(descent.init({'w': jnp.ones(2)}, {'n': jnp.ones(2)}), None, None,
                     'x')


@pytest.mark.parametrize('blocks', [10, 30])
def test_a_traced_step_traces_each_loss_twice(blocks):
    calls = [0] * blocks

    def loss(index):
        def own(params, batch, key):
            calls[index] += 1
            return sum(jnp.sum(x ** 2) for x in params), None
        return own

    descent = cdgm.block_descent({str(i): cdgm.Block(str(i), loss(i), optax.sgd(0.1))
                                  for i in range(blocks)})
    state = descent.init([jnp.ones(2)] * blocks)
    jax.jit(descent.step).lower(state, None, None, jnp.int32(0))
    assert calls == [2] * blocks


@pytest.mark.parametrize('tx', [
    optax.lbfgs(), optax.contrib.prodigy(), optax.contrib.dog(),
    optax.chain(optax.sgd(0.1), cdgm.transforms.average_params(0.9))])
def test_a_fresh_state_may_be_donated(tx):
    descent = cdgm.block_descent({'x': cdgm.Block(
        '', lambda p, b, k: (jnp.sum(p['w'] ** 2), None), tx)})
    params = {'w': jnp.ones(3)}
    step = jax.jit(lambda state: descent.step(state, None, None, 'x'), donate_argnums=0)
    state, _ = step(descent.init(params))
    state, _ = step(state)
    assert params['w'].tolist() == [1, 1, 1] and not (state.params['w'] == 1).any()


def test_a_block_sees_its_part_of_the_batch():
    def loss(name):
        return lambda p, batch, key: (jnp.sum((p[name] - batch) ** 2), None)

    descent = cdgm.block_descent({
        name: cdgm.Block(name, loss(name), optax.sgd(0.5), batch=lambda b, name=name: b[
            name]) for name in 'xy'})
    state = descent.init({'x': jnp.zeros(2), 'y': jnp.zeros(3)})
    state, _ = jax.jit(descent.simultaneous)(
        state, {'x': jnp.ones(2), 'y': 2 * jnp.ones(3)}, None)
    assert state.params['x'].tolist() == [1, 1]
    assert state.params['y'].tolist() == [2, 2, 2]


def test_no_norm_unless_asked_for():
    descent = cdgm.block_descent({'x': cdgm.Block(
        '', lambda p, b, k: (jnp.sum(p ** 2), None), optax.sgd(0.1))}, grad_norm=False)
    for block in 'x', jnp.int32(0):
        _, info = jax.jit(lambda s: descent.step(s, None, None, block))(
            descent.init(jnp.ones(2)))
        assert info.grad_norm is None
