"""What XLA makes of a step: its conditionals, its FLOPs, how often it is traced.

FLOPs are XLA's own count of the compiled program. The network is a VAE of three layers
a side, 784-200-200-(50, 50) and back, tanh, batch 100. Nothing here runs.
"""

import chex
import jax
import jax.numpy as jnp
import optax
import pytest

from cdgm import Block, block_descent, cyclic

NAMES = ('encoder', 'decoder')
TX = optax.adam(1e-3)
BATCH = jax.ShapeDtypeStruct((100, 784), jnp.float32)
KEY = jax.eval_shape(lambda: jax.random.key(0))


def layers(*sizes):
    return [{'w': jax.ShapeDtypeStruct(shape, jnp.float32),
             'b': jax.ShapeDtypeStruct(shape[1:], jnp.float32)}
            for shape in zip(sizes, sizes[1:])]


PARAMS = {'encoder': {'body': layers(784, 200, 200), 'mean': layers(200, 50),
                      'logvar': layers(200, 50)},
          'decoder': layers(50, 200, 200, 784)}


def mlp(params, x):
    for i, layer in enumerate(params):
        x = (jnp.tanh(x) if i else x) @ layer['w'] + layer['b'][None]
    return x


def neg_elbo(params, batch, key):
    hidden = jnp.tanh(mlp(params['encoder']['body'], batch))
    mean, logvar = (mlp(params['encoder'][head], hidden) for head in ('mean', 'logvar'))
    noise = jax.random.normal(key, mean.shape, mean.dtype)
    logits = mlp(params['decoder'], mean + jnp.exp(logvar / 2) * noise)
    nll = optax.sigmoid_binary_cross_entropy(logits, batch).sum(-1)
    kl = (mean ** 2 + jnp.exp(logvar) - 1 - logvar).sum(-1) / 2
    return jnp.mean(nll + kl), {'kl': jnp.mean(kl)}


VAE = block_descent({name: Block(name, neg_elbo, TX) for name in NAMES})
JOINT = block_descent({'all': Block('', neg_elbo, TX)})


def flops(function, init=VAE.init):
    state = jax.eval_shape(init, PARAMS)
    compiled = jax.jit(function).lower(state, BATCH, KEY).compile()
    return compiled.cost_analysis()['flops']


@pytest.fixture(scope='module')
def joint_flops():
    return flops(lambda *data: JOINT.step(*data, 'all'), JOINT.init)


@pytest.mark.parametrize('name', NAMES)
def test_a_named_step_costs_no_more_than_a_closure_by_hand(name):
    def init(params):
        return params, TX.init(params[name])

    def by_hand(state, batch, key):
        params, opt_state = state
        frozen = {other: x for other, x in params.items() if other != name}

        def loss(active):
            return neg_elbo({**frozen, name: active}, batch, key)

        (value, aux), grads = jax.value_and_grad(loss, has_aux=True)(params[name])
        updates, opt_state = TX.update(grads, opt_state, params[name])
        params = {**frozen, name: optax.apply_updates(params[name], updates)}
        return (params, opt_state), value, aux

    assert flops(lambda *data: VAE.step(*data, name)) <= 1.005 * flops(by_hand, init)


def test_a_simultaneous_step_costs_a_joint_step(joint_flops):
    assert abs(flops(VAE.simultaneous) / joint_flops - 1) <= 0.01


def test_decoder_then_encoder_shares_the_encoders_forward_pass(joint_flops):
    """On one minibatch with one key; the encoder first shares nothing.

    Matrix products alone: a cycle adds to a joint step the decoder's second forward
    pass and the cotangents of its layers, all three for the encoder and the last two
    for itself, (206,800 + 196,800) / 1,114,000 = 0.362 of it. What is left of the
    step, drawn and updated once a leaf as in a joint step, thins it to 0.36.
    """
    def cycle(order):
        return flops(lambda *data: VAE.cycle(*data, order))

    assert cycle(('decoder', 'encoder')) <= 1.36 * joint_flops


def small_loss(params, batch, key):
    return sum(jnp.sum((x * batch) ** 2) for x in params.values()), None


def small_descent(rule=TX):
    return block_descent({name: Block(name, small_loss, rule) for name in 'abc'})


def conditionals(function, *args):
    return jax.jit(function).lower(*args).compile().as_text().count(' conditional(')


def test_a_named_step_has_no_conditional_and_a_traced_one_has_one(key):
    descent = small_descent()
    state = descent.init({name: jnp.ones(2) for name in 'abc'})
    data = state, jnp.ones(2), key
    assert conditionals(lambda *data: descent.step(*data, 'b'), *data) == 0
    assert conditionals(lambda *data: descent.cycle(*data, 'abc'), *data) == 0
    assert conditionals(descent.step, *data, jnp.int32(0)) == 1


def test_a_sweep_of_single_updates_has_no_loop(key):
    """Not even before optimisation: a convolution in a loop is slow on a CPU."""
    descent = small_descent()
    data = descent.init({name: jnp.ones(2) for name in 'abc'}), jnp.ones(2), key
    for order, loops in (('abc', 0), ('aab', 1)):
        lowered = jax.jit(lambda *data: descent.cycle(*data, order)).lower(*data)
        assert lowered.as_text().count('stablehlo.while') == loops


def test_seeds_share_one_conditional_if_they_share_the_index(key):
    descent = small_descent()
    keys = jax.random.split(key, 4)
    states = jax.vmap(lambda _: descent.init({name: jnp.ones(2) for name in 'abc'}))(
        keys)
    data = states, jnp.ones(2), keys

    def over_seeds(index_axis):
        return jax.vmap(descent.step, in_axes=(0, None, 0, index_axis))

    assert conditionals(over_seeds(None), *data, jnp.int32(0)) == 1
    assert conditionals(jax.vmap(lambda s, b, k: descent.step(s, b, k, 'b'),
                                 in_axes=(0, None, 0)), *data) == 0
    # What sharing the index avoids: a batched one runs every branch and selects.
    assert conditionals(over_seeds(0), *data, jnp.zeros(4, jnp.int32)) == 0


@pytest.mark.parametrize('rule', [
    optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3)),
    optax.inject_hyperparams(optax.adam)(1e-3),
    optax.sgd(optax.cosine_decay_schedule(0.1, 10), momentum=0.9),
])
def test_training_traces_once(rule, key):
    """Weak types or changing dtypes in the state would trace again at the second."""
    descent, schedule = small_descent(rule), cyclic((2, 1, 1))
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def step(state, batch, key):
        return descent.step(state, batch, key, schedule(state.count))

    # Python numbers are what a careless caller has.
    state = descent.init({name: 1.0 for name in 'abc'})
    for _ in range(5):
        state, _ = step(state, jnp.ones(()), key)
    assert int(state.count) == 5
