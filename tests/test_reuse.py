"""Work that the active block cannot change is done once, and nothing else changes."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

import cdgm
from cdgm import losses, models
from cdgm._explain import program_cost
from cdgm.reuse import hoist_invariants

SIZE, STEPS = 12, 3


def assert_equal(one, other):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=0, atol=1e-12), one, other)


def wide(tree):
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), tree)


def primitives(function, *arguments):
    return [eqn.primitive.name
            for eqn in jax.make_jaxpr(function)(*arguments).jaxpr.eqns]


def vae_problem(key, rule):
    model = models.vae((4, 4), 3, (8,))
    params = wide(model.init(key))
    batch = jax.random.bernoulli(key, 0.4, (6, 4, 4)).astype(float)
    loss = partial(losses.neg_elbo, encode=model.encode, decode=model.decode)
    descent = cdgm.block_descent({name: cdgm.Block(name, loss, rule)
                                  for name in ('encoder', 'decoder')})
    return descent, params, batch


def gan_problem(key, rule):
    model = models.gan((4, 4), 3, (8, 8), (4,))
    nets = {'generate': model.generate, 'discriminate': model.discriminate,
            'latent_size': 3, 'loss': losses.non_saturating}
    loss = {'discriminator': partial(losses.discriminator_loss, **nets),
            'generator': partial(losses.generator_loss, **nets)}
    descent = cdgm.block_descent({name: cdgm.Block(name, loss[name], rule)
                                  for name in loss})
    batch = jax.random.uniform(key, (6, 4, 4), float)
    return descent, wide(model.init(key)), batch


def layers_problem(key, rule):
    """A list of layers, some of whose work is inside a call and inside a loop."""
    params = {'layers': list(jax.random.normal(key, (3, SIZE, SIZE)) / 4),
              'scale': jnp.ones(SIZE)}

    def loss(params, batch, key):
        x = batch
        for weights in params['layers']:
            x = jax.jit(lambda x, w: jnp.tanh(x @ w))(x, weights)
            x = lax.fori_loop(0, 2, lambda _, x: jax.nn.relu(x) - x / 2, x)
        x = x * params['scale'][None] + 0.1 * jax.random.normal(key, x.shape)
        return jnp.mean(jnp.square(x - 1)), {'mean': jnp.mean(x)}

    names = {'first': 'layers/0', 'middle': 'layers/1', 'last': ('layers/2', 'scale')}
    descent = cdgm.block_descent({name: cdgm.Block(leaves, loss, rule)
                                  for name, leaves in names.items()})
    return descent, params, jax.random.normal(key, (5, SIZE))


PROBLEMS = {'vae': vae_problem, 'gan': gan_problem, 'layers': layers_problem}


@pytest.mark.parametrize('problem', PROBLEMS)
@pytest.mark.sample(1)
def test_a_visit_on_one_minibatch_is_its_steps(problem, key):
    descent, params, batch = PROBLEMS[problem](key, optax.adam(1e-2))
    state = descent.init(params)
    batches = jnp.broadcast_to(batch, (STEPS, *batch.shape))

    @jax.jit
    def both(state, keys):
        return [(descent.visit(state, batches, keys, name),
                 descent.visit(state, batch, keys, name, steps=STEPS,
                               fresh_keys=True))
                for name in descent.blocks]

    for plain, shared in both(state, jax.random.split(key, STEPS)):
        assert_equal(plain, shared)


def test_a_visit_reports_its_steps(key):
    descent, params, batch = layers_problem(key, optax.sgd(0.1))
    state = descent.init(params)

    @jax.jit
    def both(state):
        stacked = [jnp.broadcast_to(x, (STEPS, *x.shape)) for x in (batch, key)]
        return (descent.visit(state, *stacked, 'last'),
                descent.visit(state, batch, key, 'last', steps=STEPS))

    plain, shared = both(state)
    assert_equal(plain, shared)
    assert shared[1].loss.shape == (STEPS,) and int(shared[0].count) == STEPS


def test_a_traced_block_and_seeds_side_by_side_visit_alike(key):
    descent, params, batch = layers_problem(key, optax.sgd(0.1))
    pairs = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), params)
    states = jax.vmap(descent.init)(pairs)

    @jax.jit
    def run(states, index):
        return jax.vmap(lambda state: descent.visit(state, batch, key, index,
                                                    steps=STEPS)[0])(states)

    named = jax.jit(lambda state: descent.visit(state, batch, key, 'middle',
                                                steps=STEPS)[0])
    for i, end in enumerate(jax.tree.map(lambda x: x[i], run(states, 1))
                            for i in range(2)):
        assert_equal(end, named(jax.tree.map(lambda x: x[i], states)))


@pytest.mark.parametrize('problem, order', [
    ('vae', ('decoder', 'decoder', 'encoder')),
    ('gan', ('discriminator',) * 3 + ('generator',)),
    ('layers', ('last', 'first', 'first', 'middle'))])
@pytest.mark.sample(1)
def test_a_sweep_on_one_minibatch_is_its_steps_one_by_one(problem, order, key):
    descent, params, batch = PROBLEMS[problem](key, optax.adam(1e-2))
    state = descent.init(params)

    @jax.jit
    def both(state):
        plain = state
        for name in order:
            plain, _ = descent.step(plain, batch, key, name)
        return plain, descent.cycle(state, batch, key, order)[0]

    assert_equal(*both(state))


def test_only_what_depends_on_the_arguments_is_left():
    weights = jnp.eye(SIZE)

    def loss(x):
        y = jax.jit(lambda x, w: (jnp.sin(w @ w), jnp.cos(x)))(x, weights)
        return jnp.sum(y[0] @ y[1] + 1.0), jnp.exp(weights)

    x = jnp.ones(SIZE)
    left = primitives(hoist_invariants(loss, x), x)
    assert 'cos' in left and 'sin' not in left and 'exp' not in left
    assert left.count('dot_general') == 1
    assert_equal(hoist_invariants(loss, x)(x), loss(x))


def test_a_result_larger_than_its_parts_is_not_kept():
    bias = jnp.arange(3.0)

    def loss(x):
        return jnp.sum(x + jnp.broadcast_to(bias, (100, 3)) + jnp.zeros((100, 3)))

    x = jnp.ones((100, 3))
    closed = jax.make_jaxpr(hoist_invariants(loss, x))(x)
    assert all(np.size(const) <= 3 for const in closed.consts)
    assert_equal(hoist_invariants(loss, x)(x), loss(x))


def test_an_effect_stays_where_it_is(capsys):
    def loss(x):
        jax.debug.print('seen')
        return x

    again = hoist_invariants(loss, 1.0)
    assert capsys.readouterr().out == ''
    for _ in range(2):
        jax.block_until_ready(again(1.0))
    jax.effects_barrier()
    assert capsys.readouterr().out == 'seen\n' * 2


def test_derivative_rules_survive():
    @jax.custom_vjp
    def double_gradient(x, scale):
        return x * scale

    double_gradient.defvjp(lambda x, scale: (x * scale, scale),
                           lambda scale, g: (2 * g * scale, None))
    scale = jnp.array(3.0)
    loss = hoist_invariants(lambda x: double_gradient(x, jnp.sin(scale)), 1.0)
    assert float(jax.grad(loss)(1.0)) == pytest.approx(2 * np.sin(3.0))


def test_another_number_of_arguments_is_an_error():
    with pytest.raises(ValueError):
        hoist_invariants(lambda x: x, 1.0)(1.0, 2.0)


def dense_chain(length, size, batch):
    """float32, as the FLOP law counts products and not conversions."""
    def loss(params, x, key):
        for i in range(length):
            x = x @ params[f'layer{i}']
        return jnp.mean(jnp.square(x)), None

    params = {f'layer{i}': jnp.zeros((size, size), jnp.float32) for i in range(length)}
    return loss, params, jnp.zeros((batch, size), jnp.float32)


def test_the_frozen_prefix_is_outside_of_the_loop(key):
    """A prefix once, and a suffix a step."""
    loss, params, x = dense_chain(8, 64, 128)
    descent = cdgm.block_descent({name: cdgm.Block(name, loss, optax.sgd(0.1))
                                  for name in params})
    state = descent.init(params)
    jaxpr = jax.make_jaxpr(lambda state: descent.visit(
        state, x, key, 'layer5', steps=STEPS))(state).jaxpr
    outside = [eqn.primitive.name for eqn in jaxpr.eqns]
    (scan,) = [eqn for eqn in jaxpr.eqns if eqn.primitive.name == 'scan']
    inside = [eqn.primitive.name for eqn in scan.params['jaxpr'].jaxpr.eqns]
    assert outside.count('dot_general') == 5  # layers 0 to 4
    assert inside.count('dot_general') == 2 * (8 - 5)
    cost = program_cost(lambda state: descent.visit(
        state, x, key, 'layer5', steps=STEPS), state)
    assert cost.flops == pytest.approx((5 + STEPS * 2 * 3) * 2 * 128 * 64 ** 2,
                                       rel=0.01)
