"""Batch statistics are the model state of a game: a cycle is a plain loop of optax."""

import jax
import numpy as np
import optax
import pytest

import cdgm
from cdgm import losses, models

LATENT = 2


def _players(model):
    """The two losses with the state of the nets, written out."""
    def of_discriminator(params, nets, x, key):
        latent = jax.random.normal(key, (len(x), LATENT))
        fake, _ = model.generate(params, nets, latent)
        real_logits, moved = model.discriminate(params, nets, x)
        fake_logits, moved = model.discriminate(params, moved, fake)
        value = losses.non_saturating.discriminator(real_logits, fake_logits)
        return value, {**moved, 'generator': nets['generator']}

    def of_generator(params, nets, x, key):
        latent = jax.random.normal(key, (len(x), LATENT))
        fake, moved = model.generate(params, nets, latent)
        logits, _ = model.discriminate(params, nets, fake)
        value = losses.non_saturating.generator(logits, logits)
        return value, {**nets, 'generator': moved['generator']}

    return {'discriminator': of_discriminator, 'generator': of_generator}


@pytest.mark.thorough
def test_a_cycle_with_batch_statistics_is_a_loop_of_optax():
    """Parameters and running statistics, of two cycles, the frozen net's kept out."""
    model = models.dcgan((8, 8, 1), LATENT, (4, 3), (3, 4), normalisation='batch')
    params = jax.jit(model.init)(jax.random.key(0))
    nets = model.nets_state(jax.random.key(1))
    players, tx = _players(model), optax.adam(1e-2, b1=0.5)
    batches = jax.random.uniform(jax.random.key(3), (2, 5, 8, 8, 1))
    keys = [jax.random.key(4), jax.random.key(5)]
    order = 'discriminator', 'generator'

    @jax.jit
    def plain_cycle(params, nets, states, x, key):
        for name in order:
            (_, nets), grads = jax.value_and_grad(
                lambda mine: players[name]({**params, name: mine}, nets, x, key),
                has_aux=True)(params[name])
            updates, mine = tx.update(grads, states[name])
            states = {**states, name: mine}
            params = {**params, name: optax.apply_updates(params[name], updates)}
        return params, nets, states

    game = losses.gan_game(model.generate, model.discriminate, LATENT,
                           losses.non_saturating, nets_state=model.nets_state)
    descent = cdgm.block_descent({
        name: cdgm.Block(name, game.losses[name], tx) for name in order})
    cycle = jax.jit(lambda state, x, key: descent.cycle(state, x, key, order)[0])

    state = jax.jit(descent.init)(params, {'nets': nets})
    expected = params, nets, {name: tx.init(params[name]) for name in order}
    for x, key in zip(batches, keys):
        expected, state = plain_cycle(*expected, x, key), cycle(state, x, key)
    seen = state.params, state.model_state['nets']
    for a, b in zip(jax.tree.leaves(seen), jax.tree.leaves(expected[:2]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
    for name in order:
        assert all((a != b).any() for a, b in zip(
            jax.tree.leaves(expected[1][name]), jax.tree.leaves(nets[name])))
