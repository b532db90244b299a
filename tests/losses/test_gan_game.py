"""Every setting of the game, step for step against a plain loop of jax and optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cdgm
from cdgm import losses
from cdgm.losses import gan_game, gradient_penalty, r1, r2

BATCH, LATENT, SIZE = 6, 2, 3
TX = {'discriminator': optax.adam(3e-2, b1=0.5), 'generator': optax.adam(1e-2, b1=0.5)}
TURNS = {'d': 'discriminator', 'g': 'generator'}


def generate(params, z):
    net = params['generator']
    return jnp.tanh(z @ net['w'] + net['b'][None]) @ net['v']


def discriminate(params, x):
    net = params['discriminator']
    return jnp.tanh(x @ net['w'] + net['b'][None]) @ net['v']


def start(packing=1):
    """(params, 12 minibatches, 12 keys)"""
    rng = np.random.default_rng(0)
    shapes = {'generator': {'w': (LATENT, 5), 'b': (5,), 'v': (5, SIZE)},
              'discriminator': {'w': (packing * SIZE, 4), 'b': (4,), 'v': (4,)}}
    params = jax.tree.map(lambda shape: jnp.asarray(rng.normal(size=shape)), shapes,
                          is_leaf=lambda x: isinstance(x, tuple))
    return (params, jnp.asarray(rng.normal(1, 1, size=(12, BATCH, SIZE))),
            jax.random.split(jax.random.key(5), 12))


def played(game, updates, params, batches, keys, simultaneous=False):
    """The parameters and model state that block descent ends with."""
    descent = cdgm.block_descent({
        name: cdgm.Block(name, game.losses[name], TX[name]) for name in TX})

    keys = list(keys)  # not under jit, where a key cannot be iterated over

    @jax.jit
    def play(params):
        state = descent.init(params, game.model_state(params, jax.random.key(1)))
        for turn, batch, key in zip(updates, batches, keys):
            if simultaneous:
                state, _ = descent.simultaneous(state, batch, key)
            else:
                state, _ = descent.step(state, batch, key, TURNS[turn])
        return state.params, state.model_state

    return play(params)


def plain(players, updates, params, batches, keys, simultaneous=False):
    """The same by stock optax; `players` are losses of (params, batch, key)."""
    keys = list(keys)

    @jax.jit
    def play(params):
        states = {name: TX[name].init(params[name]) for name in TX}
        for turn, batch, key in zip(updates, batches, keys):
            here = params
            for name in TX if simultaneous else [TURNS[turn]]:
                grads = jax.grad(lambda own: players[name](
                    {**here, name: own}, batch, key))(here[name])
                moves, states[name] = TX[name].update(grads, states[name])
                params = {**params, name: optax.apply_updates(here[name], moves)}
        return params

    return play(params)


def close(one, other):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12),
                 one, other)


def fakes(params, key, count=BATCH):
    return generate(params, jax.random.normal(key, (count, LATENT)))


def slopes(params, points, ask=discriminate):
    """Of the discriminator at each point, [N, ...]."""
    return jax.vmap(jax.grad(lambda x: ask(params, x[None])[0]))(points)


def bce(logits, label):
    return optax.sigmoid_binary_cross_entropy(logits, jnp.full(logits.shape, label)
                                              ).mean()


def d_cross_entropy(params, batch, key):
    return bce(discriminate(params, batch), 1.) + bce(
        discriminate(params, fakes(params, key)), 0.)


def g_non_saturating(params, batch, key):
    return bce(discriminate(params, fakes(params, key)), 1.)


def test_five_to_one_with_wgan_gp():
    params, batches, keys = start()

    def d_loss(params, x, key):
        g = fakes(params, key)
        u = jax.random.uniform(jax.random.fold_in(jax.random.fold_in(key, 1), 0),
                               (BATCH, 1))
        lengths = jnp.linalg.norm(slopes(params, u * x + (1 - u) * g), axis=1)
        return (discriminate(params, g).mean() - discriminate(params, x).mean()
                + 10 * jnp.mean((lengths - 1) ** 2))

    def g_loss(params, x, key):
        return -discriminate(params, fakes(params, key)).mean()

    game = gan_game(generate, discriminate, LATENT, losses.wasserstein,
                    penalties=[gradient_penalty(10.)])
    assert not game.stateful
    got, _ = played(game, 'dddddg' * 2, params, batches, keys)
    close(got, plain({'discriminator': d_loss, 'generator': g_loss}, 'dddddg' * 2,
                     params, batches, keys))


def test_simultaneous_non_saturating():
    params, batches, keys = start()
    game = gan_game(generate, discriminate, LATENT, losses.non_saturating)
    got, _ = played(game, '.' * 5, params, batches, keys, simultaneous=True)
    close(got, plain({'discriminator': d_cross_entropy, 'generator': g_non_saturating},
                     '.' * 5, params, batches, keys, simultaneous=True))


def test_one_to_two_with_shared_noise():
    """PacGAN's: the generator moves twice on the latents of the other's step."""
    params, batches, keys = start()
    game = gan_game(generate, discriminate, LATENT, losses.non_saturating,
                    shared_noise=True)
    got, _ = played(game, 'dgg' * 3, params, batches, keys)
    of_round = keys[jnp.array([0, 0, 0, 3, 3, 3, 6, 6, 6])]
    close(got, plain({'discriminator': d_cross_entropy, 'generator': g_non_saturating},
                     'dgg' * 3, params, batches, of_round))


def test_fresh_noise_on_one_key():
    params, batches, keys = start()
    one = jnp.broadcast_to(keys[0], (6,))
    game = gan_game(generate, discriminate, LATENT, losses.non_saturating,
                    shared_noise=False)
    got, _ = played(game, 'dggdgg', params, batches, one)
    each = jax.vmap(lambda step: jax.random.fold_in(keys[0], step))(jnp.arange(6))
    close(got, plain({'discriminator': d_cross_entropy, 'generator': g_non_saturating},
                     'dggdgg', params, batches, each))


def test_relativistic_with_r1_and_r2():
    params, batches, keys = start()

    def apart(params, x, key):
        return discriminate(params, x) - discriminate(params, fakes(params, key))

    def d_loss(params, x, key):
        squares = [jnp.mean(jnp.sum(slopes(params, points) ** 2, axis=1))
                   for points in (x, fakes(params, key))]
        return jnp.mean(jnp.log1p(jnp.exp(-apart(params, x, key)))) + 3 / 2 * (
            squares[0] + squares[1])

    def g_loss(params, x, key):
        return jnp.mean(jnp.log1p(jnp.exp(apart(params, x, key))))

    game = gan_game(generate, discriminate, LATENT, losses.relativistic,
                    penalties=[r1(3.), r2(3.)])
    got, _ = played(game, 'dgdgdg', params, batches, keys)
    close(got, plain({'discriminator': d_loss, 'generator': g_loss}, 'dgdgdg', params,
                     batches, keys))


def test_lazy_r1():
    params, batches, keys = start()
    steps = []  # of the discriminator, as the loop is traced

    def d_loss(params, x, key):
        value = d_cross_entropy(params, x, key)
        if len(steps) % 3 == 0:
            value += 3 * 2 / 2 * jnp.mean(jnp.sum(slopes(params, x) ** 2, axis=1))
        steps.append(0)
        return value

    game = gan_game(generate, discriminate, LATENT, losses.non_saturating,
                    penalties=[r1(2., every=3)])
    got, state = played(game, 'dgddgddgdd', params, batches, keys)
    close(got, plain({'discriminator': d_loss, 'generator': g_non_saturating},
                     'dgddgddgdd', params, batches, keys))
    assert int(state['discriminator_steps']) == len(steps) == 7


def test_spectral_norm():
    params, batches, keys = start()
    game = gan_game(generate, discriminate, LATENT, losses.hinge, spectral_norm=1)
    begin = game.model_state(params, jax.random.key(1))['spectral']['w']
    kept = [begin]

    def ask(params, x):
        """The discriminator of w / sigma, by one iteration; v is no matrix."""
        w, u = params['discriminator']['w'], kept[-1]
        v = w @ u / jnp.linalg.norm(w @ u)
        u = v @ w / jnp.linalg.norm(v @ w)
        sigma = jax.lax.stop_gradient(v) @ w @ jax.lax.stop_gradient(u)
        return discriminate({**params, 'discriminator': {
            **params['discriminator'], 'w': w / sigma}}, x), jax.lax.stop_gradient(u)

    def d_loss(params, x, key):
        real, u = ask(params, x)
        fake, _ = ask(params, fakes(params, key))
        kept.append(u)
        return jnp.mean(jnp.maximum(0, 1 - real)) + jnp.mean(jnp.maximum(0, 1 + fake))

    def g_loss(params, x, key):
        return -ask(params, fakes(params, key))[0].mean()

    got, state = played(game, 'dggddg', params, batches, keys)
    close(got, plain({'discriminator': d_loss, 'generator': g_loss}, 'dggddg', params,
                     batches, keys))
    w = got['discriminator']['w']
    assert np.linalg.norm(state['spectral']['w']) == pytest.approx(1)
    assert state['spectral']['v'].size == state['spectral']['b'].size == 0
    many, _ = losses.spectral_norm({'w': w}, {'w': begin}, 200)
    close(many['w'], w / np.linalg.svd(w)[1][0])


def test_packing_of_two():
    params, batches, keys = start(packing=2)

    def pairs(x):
        return jnp.concatenate([x[0::2], x[1::2]], axis=1)

    def d_loss(params, x, key):
        return bce(discriminate(params, pairs(x)), 1.) + bce(
            discriminate(params, pairs(fakes(params, key))), 0.)

    def g_loss(params, x, key):
        return bce(discriminate(params, pairs(fakes(params, key))), 1.)

    game = gan_game(generate, discriminate, LATENT, losses.non_saturating, packing=2)
    got, _ = played(game, 'dgdg', params, batches, keys)
    close(got, plain({'discriminator': d_loss, 'generator': g_loss}, 'dgdg', params,
                     batches, keys))


def test_average_in_generator_steps():
    params, batches, keys = start()
    game = gan_game(generate, discriminate, LATENT, losses.non_saturating, average=0.8)
    close(game.averaged(params, game.model_state(params, keys[0])), params)
    got, state = played(game, 'dgddgdg', params, batches, keys)
    ema, seen, players = optax.ema(0.8), [], {
        'discriminator': d_cross_entropy, 'generator': g_non_saturating}
    for steps in (1, 4, 6):  # before each step of the generator
        seen.append(plain(players, 'dgddgdg'[:steps], params, batches, keys))
    memory = ema.init(params['generator'])
    for each in seen:
        mean, memory = ema.update(each['generator'], memory)
    average = game.averaged(got, state)
    close(average['generator'], mean)
    close(average['discriminator'], got['discriminator'])
    latent = jax.random.normal(keys[0], (4, LATENT))
    close(game.sample(got, state, latent), generate(average, latent))
