"""The cost law, by XLA's count of the compiled programs; nothing here runs.

A chain of L equal layers, in products of a layer: 3 L - 1 for the full gradient,
2 L - i for layer i (0-based), 2 (L - i) once its input is known. For VAE and GAN the
measure is the best program that a person would write by hand.
"""

from functools import partial

import jax
import jax.numpy as jnp
import optax
import pytest

import cdgm
from benchmarks import gan_parts, problems
from cdgm import losses, models
from cdgm._explain import program_cost

LENGTH, SIZE, BATCH = 16, 256, 512
PRODUCT = 2 * BATCH * SIZE ** 2
LAYERS = [f'layer{i}' for i in range(LENGTH)]
KEY = jax.eval_shape(lambda: jax.random.key(0))
TX = optax.adam(1e-3)


def chain_loss(params, x, key):
    del key
    for name in LAYERS:
        x = x @ params[name]
    return jnp.mean(jnp.square(x)), None


CHAIN = {name: jax.ShapeDtypeStruct((SIZE, SIZE), jnp.float32) for name in LAYERS}
X = jax.ShapeDtypeStruct((BATCH, SIZE), jnp.float32)


def products(descent, run):
    state = jax.eval_shape(descent.init, CHAIN)
    return program_cost(run, state, X, KEY).flops / PRODUCT


def test_the_full_gradient_of_a_chain_costs_3_l_minus_1():
    joint = cdgm.block_descent({'all': cdgm.Block('', chain_loss, optax.sgd(0.1))})
    assert products(joint, lambda *data: joint.step(*data, 'all')) == pytest.approx(
        3 * LENGTH - 1, rel=0.005)


@pytest.mark.parametrize('i', [
    i if i in (0, 7, 15) else pytest.param(i, marks=pytest.mark.slow)
    for i in range(LENGTH)])
def test_a_layer_costs_2_l_minus_i_and_2_l_minus_2_i_with_its_input_known(i):
    descent = cdgm.block_descent({
        name: cdgm.Block(name, chain_loss, optax.sgd(0.1)) for name in LAYERS})
    one = products(descent, lambda *data: descent.step(*data, LAYERS[i]))
    assert one == pytest.approx(2 * LENGTH - i, rel=0.005)
    # The prefix once, and five suffixes …
    visit = products(descent, lambda *data: descent.visit(*data, LAYERS[i], steps=5))
    assert visit == pytest.approx(i + 5 * 2 * (LENGTH - i), rel=0.005)
    # … and a second step beside the first costs the suffix alone.
    two = products(descent, lambda *data: descent.step(
        descent.step(*data, LAYERS[i])[0], *data[1:], LAYERS[i]))
    assert two - one == pytest.approx(2 * (LENGTH - i), rel=0.005)


def by_hand(loss, name, params, opt_state, batch, key):
    """One step on a closure over the frozen block."""
    frozen = {other: leaf for other, leaf in params.items() if other != name}
    (value, aux), grads = jax.value_and_grad(
        lambda mine: loss({**frozen, name: mine}, batch, key), has_aux=True)(
            params[name])
    updates, opt_state = TX.update(grads, opt_state, params[name])
    params = {**frozen, name: optax.apply_updates(params[name], updates)}
    return params, opt_state, value, aux


def vae_problem():
    model = models.vae((28, 28), 20, (128,))
    loss = partial(losses.neg_elbo, encode=model.encode, decode=model.decode)
    batch = jax.ShapeDtypeStruct((128, 28, 28), jnp.float32)
    return model, dict.fromkeys(('encoder', 'decoder'), loss), batch


def gan_problem():
    model = models.gan((28, 28), 100, (128, 256), (16,))
    nets = {'generate': model.generate, 'discriminate': model.discriminate,
            'latent_size': 100, 'loss': losses.non_saturating}
    loss = {'discriminator': partial(losses.discriminator_loss, **nets),
            'generator': partial(losses.generator_loss, **nets)}
    return model, loss, jax.ShapeDtypeStruct((64, 28, 28), jnp.float32)


@pytest.mark.parametrize('problem', [vae_problem, gan_problem])
@pytest.mark.sample(1)
def test_a_block_costs_what_a_closure_by_hand_costs(problem):
    model, loss, batch = problem()
    descent = cdgm.block_descent({name: cdgm.Block(name, loss[name], TX)
                                  for name in loss})
    params = jax.eval_shape(model.init, KEY)
    state = jax.eval_shape(descent.init, params)
    for name in loss:
        step = program_cost(lambda *data: descent.step(*data, name), state, batch, KEY)
        hand = program_cost(partial(by_hand, loss[name], name), params,
                            jax.eval_shape(TX.init, params[name]), batch, KEY)
        assert step.flops == pytest.approx(hand.flops, rel=0.005)


@pytest.mark.thorough
def test_the_products_that_are_timed_apart_are_those_of_a_gan_iteration():
    problem = problems.gan()
    descent = cdgm.block_descent({name: cdgm.Block(name, loss, TX)
                                  for name, loss in problem.losses.items()})
    state = jax.eval_shape(descent.init, problem.params)

    def iteration(state, batch, key):
        for name in 'discriminator', 'generator':
            key, mine = jax.random.split(key)
            state, _ = descent.step(state, batch, mine, name)
        return state

    counted = program_cost(iteration, state, problem.batch, KEY).flops
    assert 1 <= counted / gan_parts.flops() < 1.04


@pytest.mark.thorough
def test_a_gan_iteration_runs_the_generator_forward_once():
    """As by hand, where the pullback of the one forward pass is kept for its step."""
    model, loss, batch = gan_problem()
    score = losses.non_saturating

    def iteration(params, opt_state, images, key):
        latent = jax.random.normal(key, (len(images), 100))
        fakes, pullback = jax.vjp(
            lambda generator: model.generate({'generator': generator}, latent),
            params['generator'])

        def discriminator_loss(mine):
            mine = {'discriminator': mine}
            return score.discriminator(model.discriminate(mine, images),
                                       model.discriminate(mine, fakes))

        def generator_loss(fakes):
            return score.generator(None, model.discriminate(params, fakes))

        def move(name, grads):
            updates, mine = TX.update(grads, opt_state[name], params[name])
            return ({**params, name: optax.apply_updates(params[name], updates)},
                    {**opt_state, name: mine}, optax.tree.norm(grads))

        first, grads = jax.value_and_grad(discriminator_loss)(params['discriminator'])
        params, opt_state, first_norm = move('discriminator', grads)
        second, cotangent = jax.value_and_grad(generator_loss)(fakes)
        params, opt_state, second_norm = move('generator', pullback(cotangent)[0])
        return params, opt_state, (first, second), (first_norm, second_norm)

    descent = cdgm.block_descent({name: cdgm.Block(name, loss[name], TX)
                                  for name in loss})
    params = jax.eval_shape(model.init, KEY)
    state = jax.eval_shape(descent.init, params)
    cycle = program_cost(lambda *data: descent.cycle(*data, tuple(loss)), state, batch,
                         KEY)
    opt_state = {name: jax.eval_shape(TX.init, params[name]) for name in loss}
    hand = program_cost(iteration, params, opt_state, batch, KEY)
    assert cycle.flops <= 1.005 * hand.flops
    # Apart, the two steps run it twice.
    apart = sum(program_cost(lambda *data: descent.step(*data, name), state, batch,
                             KEY).flops for name in loss)
    forward = program_cost(lambda params: model.generate(
        params, jnp.zeros((64, 100), jnp.float32)), params).flops
    assert apart - cycle.flops == pytest.approx(forward, rel=0.05)


def test_a_program_that_is_only_counted_costs_what_it_costs_to_run():
    descent = cdgm.block_descent({
        name: cdgm.Block(name, chain_loss, optax.sgd(0.1)) for name in LAYERS})
    state = jax.eval_shape(descent.init, CHAIN)

    def run(state, x, key):
        return descent.step(state, x, key, LAYERS[7])

    program = jax.jit(run).lower(state, X, KEY).compile().cost_analysis()
    assert program_cost(run, state, X, KEY) == (
        program['flops'], program['bytes accessed'])


def test_what_a_loop_computes_for_nobody_is_not_counted():
    """XLA drops it, as of a layer in a backward pass what it returned."""
    def run(x, square):
        def body(i, x):
            # Used are the first product and two on the way back, not the second.
            return jax.vjp(lambda x: jnp.tanh(x @ square) @ square, x)[1](x)[0]

        return jax.lax.fori_loop(0, 4, body, x)

    counted = program_cost(run, X, CHAIN['layer0']).flops
    assert counted / PRODUCT == pytest.approx(3 * 4, rel=0.05)
