"""Every setting of the game, step for step against a plain loop of jax and optax."""

from functools import partial

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


def played(game, updates, params, batches, keys):
    """Where block descent ends, params and model state; a turn . moves both at once."""
    descent = cdgm.block_descent({
        name: cdgm.Block(name, game.losses[name], TX[name]) for name in TX})
    step = jax.jit(descent.step, static_argnums=3)
    both = jax.jit(descent.simultaneous)
    state = jax.jit(lambda params: descent.init(params, game.model_state(
        params, jax.random.key(1))))(params)
    for turn, batch, key in zip(updates, batches, keys):
        state, _ = (both(state, batch, key) if turn == '.' else
                    step(state, batch, key, TURNS[turn]))
    return state.params, state.model_state


def plain(players, updates, params, batches, keys, memory=None):
    """The parameters before each turn and at the end, by stock optax.

    Args:
      players: losses of (params, batch, key, memory) -> (loss, memory).
    """
    @partial(jax.jit, static_argnums=0)
    def move(name, params, state, batch, key, memory):
        def loss(own):
            return players[name]({**params, name: own}, batch, key, memory)

        grads, memory = jax.grad(loss, has_aux=True)(params[name])
        moves, state = TX[name].update(grads, state)
        return optax.apply_updates(params[name], moves), state, memory

    states = {name: TX[name].init(params[name]) for name in TX}
    places = [params]
    for turn, batch, key in zip(updates, batches, keys):
        here = params
        for name in TX if turn == '.' else [TURNS[turn]]:
            own, states[name], memory = move(name, here, states[name], batch, key,
                                             memory)
            params = {**params, name: own}
        places.append(params)
    return places


def forgetful(**players):
    """Losses of (params, batch, key), as `plain` takes them."""
    return {TURNS[turn]: lambda params, batch, key, memory, loss=loss: (
        loss(params, batch, key), memory) for turn, loss in players.items()}


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


CLASSIC = forgetful(d=d_cross_entropy, g=g_non_saturating)


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
    close(got, plain(forgetful(d=d_loss, g=g_loss), 'dddddg' * 2, params, batches,
                     keys)[-1])


@pytest.mark.thorough
def test_simultaneous_non_saturating():
    params, batches, keys = start()
    game = gan_game(generate, discriminate, LATENT, losses.non_saturating)
    got, _ = played(game, '.' * 5, params, batches, keys)
    close(got, plain(CLASSIC, '.' * 5, params, batches, keys)[-1])


@pytest.mark.thorough
def test_one_to_two_with_shared_noise():
    """PacGAN's: the generator moves twice on the latents of the other's step."""
    params, batches, keys = start()
    game = gan_game(generate, discriminate, LATENT, losses.non_saturating,
                    shared_noise=True)
    got, _ = played(game, 'dgg' * 3, params, batches, keys)
    of_round = keys[jnp.array([0, 0, 0, 3, 3, 3, 6, 6, 6])]
    close(got, plain(CLASSIC, 'dgg' * 3, params, batches, of_round)[-1])


@pytest.mark.thorough
def test_fresh_noise_on_one_key():
    params, batches, keys = start()
    one = jnp.broadcast_to(keys[0], (6,))
    game = gan_game(generate, discriminate, LATENT, losses.non_saturating,
                    shared_noise=False)
    got, _ = played(game, 'dggdgg', params, batches, one)
    each = jax.vmap(lambda step: jax.random.fold_in(keys[0], step))(jnp.arange(6))
    close(got, plain(CLASSIC, 'dggdgg', params, batches, each)[-1])


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
    close(got, plain(forgetful(d=d_loss, g=g_loss), 'dgdgdg', params, batches,
                     keys)[-1])


def test_lazy_r1():
    params, batches, keys = start()

    def d_loss(params, x, key, step):
        penalty = jnp.mean(jnp.sum(slopes(params, x) ** 2, axis=1))
        return (d_cross_entropy(params, x, key)
                + jnp.where(step % 3 == 0, 3 * 2 / 2 * penalty, 0), step + 1)

    game = gan_game(generate, discriminate, LATENT, losses.non_saturating,
                    penalties=[r1(2., every=3)])
    got, state = played(game, 'dgddgddgdd', params, batches, keys)
    close(got, plain({**CLASSIC, 'discriminator': d_loss}, 'dgddgddgdd', params,
                     batches, keys, jnp.array(0))[-1])
    assert int(state['discriminator_steps']) == 7


@pytest.mark.thorough
def test_a_lazy_penalty_is_skipped_side_by_side_too():
    params, batches, keys = start()
    game = gan_game(generate, discriminate, LATENT, losses.non_saturating,
                    penalties=[r1(2., every=3)])

    def loss(steps):
        return game.losses['discriminator'](
            params, {'discriminator_steps': steps}, batches[0], keys[0])[0]

    steps = jnp.arange(6)
    assert ' cond[' in str(jax.make_jaxpr(jax.vmap(loss))(steps))
    # Runs that are out of step are as they are alone.
    close(jax.vmap(loss)(steps), jnp.stack([loss(step) for step in steps]))
    assert np.ptp(jax.vmap(loss)(steps)) > 0.1


@pytest.mark.thorough
def test_spectral_norm():
    params, batches, keys = start()
    game = gan_game(generate, discriminate, LATENT, losses.hinge, spectral_norm=1)
    begin, = game.model_state(params, jax.random.key(1))['spectral']  # v is no matrix

    def ask(params, u):
        """The discriminator of w / sigma by one iteration, and u."""
        w = params['discriminator']['w']
        v = w @ u / jnp.linalg.norm(w @ u)
        u = v @ w / jnp.linalg.norm(v @ w)
        u, v = jax.lax.stop_gradient((u, v))
        net = {**params['discriminator'], 'w': w / (v @ w @ u)}
        return partial(discriminate, {**params, 'discriminator': net}), u

    def d_loss(params, x, key, u):
        divided, u = ask(params, u)
        real, fake = divided(x), divided(fakes(params, key))
        return jnp.maximum(0, 1 - real).mean() + jnp.maximum(0, 1 + fake).mean(), u

    def g_loss(params, x, key, u):  # u moves on in the discriminator's steps only
        return -ask(params, u)[0](fakes(params, key)).mean(), u

    got, state = played(game, 'dggddg', params, batches, keys)
    close(got, plain({'discriminator': d_loss, 'generator': g_loss}, 'dggddg', params,
                     batches, keys, begin)[-1])
    assert np.linalg.norm(state['spectral'][0]) == pytest.approx(1)


@pytest.mark.thorough
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
    close(got, plain(forgetful(d=d_loss, g=g_loss), 'dgdg', params, batches, keys)[-1])


@pytest.mark.thorough
def test_average_in_generator_steps():
    params, batches, keys = start()
    game = gan_game(generate, discriminate, LATENT, losses.non_saturating, average=0.8)
    close(game.averaged(params, game.model_state(params, keys[0])), params)
    got, state = played(game, 'dgddgdg', params, batches, keys)
    ema = optax.ema(0.8)
    memory = ema.init(params['generator'])
    places = plain(CLASSIC, 'dgddgdg', params, batches, keys)
    for turn, before in zip('dgddgdg', places):
        if turn == 'g':
            mean, memory = ema.update(before['generator'], memory)
    average = game.averaged(got, state)
    close(average['generator'], mean)
    close(average['discriminator'], places[-1]['discriminator'])
    latent = jax.random.normal(keys[0], (4, LATENT))
    close(game.sample(got, state, latent), generate(average, latent))
    close(game.sample(got, state, latent, average=False), generate(got, latent))


def test_instance_noise_is_added_to_both_kinds_of_points():
    params, batches, keys = start()
    seen = []

    def spy(params, x):
        seen.append(x)
        return discriminate(params, x)

    game = gan_game(generate, spy, LATENT, losses.relativistic, instance_noise=0.3)
    for player in game.losses.values():
        player(params, batches[0], keys[0])
    for at in (0, 2):  # the step of each player
        noise = [(shown - plain) / 0.3 for shown, plain in zip(
            seen[at:], (batches[0], fakes(params, keys[0])))]
        for which, index in zip(noise, (2, 3)):
            close(which, jax.random.normal(jax.random.fold_in(keys[0], index),
                                           which.shape))


def test_labels_are_told_to_both_nets():
    params, batches, keys = start()
    labels = jnp.arange(BATCH)

    def told(net):
        return lambda params, x, labels: net(params, x) * (
            labels if net is discriminate else labels[:, None])

    game = gan_game(told(generate), told(discriminate), LATENT, losses.non_saturating,
                    conditional=True)
    value, terms = game.losses['discriminator'](params, (batches[0], labels), keys[0])
    real = discriminate(params, batches[0]) * labels
    fake = discriminate(params, fakes(params, keys[0]) * labels[:, None]) * labels
    close((value, tuple(terms)), (bce(real, 1.) + bce(fake, 0.),
                                  (real.mean(), fake.mean())))
    latent = jax.random.normal(keys[0], (BATCH, LATENT))
    close(game.sample(params, None, latent, labels),
          generate(params, latent) * labels[:, None])


def centred(name, net):
    """A net whose outputs are centred, by the minibatch or by the running mean."""
    def apply(params, nets, x, *, train):
        out = net(params, x)
        mean = out.mean(0) if train else nets[name]
        running = 0.5 * nets[name] + 0.5 * out.mean(0) if train else nets[name]
        return out - jnp.expand_dims(mean, 0), {**nets, name: running}

    return apply


@pytest.mark.parametrize('frozen', losses.FROZEN)
def test_what_the_normalisation_of_a_frozen_net_does(frozen):
    params, batches, keys = start()
    nets = {'generator': jnp.full(SIZE, 2.), 'discriminator': jnp.array(3.)}
    game = gan_game(centred('generator', generate),
                    centred('discriminator', discriminate), LATENT,
                    losses.wasserstein, clipped=True, nets_state=lambda key: nets,
                    frozen=frozen)
    state = game.model_state(params, keys[0])
    x, fake = batches[0], fakes(params, keys[0])

    def logits(points, running):
        out = discriminate(params, points)
        return (out - running, running) if frozen == 'running' and moving == 'g' else (
            out - out.mean(), 0.5 * running + 0.5 * out.mean())

    moving = 'd'
    made = fake - (nets['generator'] if frozen == 'running' else fake.mean(0))[None]
    _, running = logits(x, 3.)
    _, running = logits(made, running)
    value, (_, after) = game.losses['discriminator'](params, state, x, keys[0])
    close(value, 0.)  # both kinds of logits are centred
    close(after['nets']['discriminator'], running)
    close(after['nets']['generator'], 1. + fake.mean(0) / 2 if frozen == 'update'
          else nets['generator'])

    moving = 'g'
    made = fake - fake.mean(0)[None]
    real, running = logits(x, 3.)
    out, running = logits(made, running)
    value, (_, after) = game.losses['generator'](params, state, x, keys[0])
    close(value, -out.mean())
    close(after['nets']['generator'], 1. + fake.mean(0) / 2)
    close(after['nets']['discriminator'], running if frozen == 'update' else 3.)
    close(game.sample(params, state, jax.random.normal(keys[0], (BATCH, LATENT))),
          fake - nets['generator'][None])


NETS = generate, discriminate, LATENT


@pytest.mark.parametrize('settings, line', [
    ({'packing': 4}, 'a batch of 6 does not divide into packs of 4'),
    ({'packing': 0}, 'packing is 0; give a whole number > 0'),
    ({'packing': 2, 'conditional': True}, 'a pack of 2 have labels of their own'),
    ({'conditional': True}, 'the batch holds none; give \\(examples, labels\\)'),
    ({'spectral_norm': -1}, 'spectral_norm is -1; give a number'),
    ({'frozen': 'eval'}, "frozen is 'eval'; give one of batch, update, running"),
    ({'generate': lambda params, z: z}, r'makes examples of shape \(2,\) and .*\(3,\)'),
    ({'loss': losses.hinge, 'label_smoothing': 0.1}, 'this loss has none')])
def test_what_does_not_go_is_said_in_one_line(settings, line):
    params, batches, keys = start()
    nets = dict(zip(('generate', 'discriminate', 'latent_size'), NETS))
    with pytest.raises(ValueError, match=line) as error:
        gan_game(**{**nets, 'loss': losses.minimax, **settings}).losses[
            'generator'](params, batches[0], keys[0])
    assert '\n' not in str(error.value)


def test_a_penalty_is_computed_every_whole_number_of_steps():
    with pytest.raises(ValueError, match='computed every 0 steps; give'):
        r1(1., every=0)


@pytest.mark.parametrize('loss, settings, line', [
    (losses.wasserstein, {}, 'nothing keeps the Wasserstein critic Lipschitz'),
    (losses.minimax, {'penalties': [gradient_penalty(10.)]}, 'slopes of length one'),
    (losses.hinge, {'clipped': True}, 'only bounds the logits of this one')])
def test_what_does_not_suit_the_loss_is_warned_of(loss, settings, line):
    with pytest.warns(UserWarning, match=line):
        gan_game(*NETS, loss, **settings)


@pytest.mark.parametrize('settings', [
    {'penalties': [gradient_penalty(10.)]}, {'penalties': [r1(1.)]}, {'clipped': True},
    {'spectral_norm': 1}])
def test_what_keeps_a_wasserstein_critic_lipschitz_is_not_warned_of(settings):
    assert not losses.unsuited(losses.wasserstein, **settings)


def test_data_out_of_the_generators_range_are_refused():
    losses.check_output_range(np.array([[-1., 1.]]), -1, 1)
    with pytest.raises(ValueError, match='reach from -1 to 255, .* from 0 to 1; scale'):
        losses.check_output_range(np.array([[-1., 255.]]), 0, 1)
