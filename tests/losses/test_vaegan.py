"""The three losses of a VAE-GAN, against plain NumPy and a plain loop of optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cdgm
from cdgm import losses, models

ORDER = 'encoder', 'decoder', 'discriminator'
GAMMA, BETA, R1 = 0.7, 0.3, 0.5
RANDOM = np.random.RandomState(0)
X = RANDOM.rand(6, 4, 4, 1)


@pytest.fixture(scope='module')
def model():
    made = models.vaegan((4, 4, 1), latent_size=2, channels=(3,), width=4)
    return made._replace(init=jax.jit(made.init))


@pytest.fixture(scope='module')
def nets(model):
    return losses.VaeGanNets(model.encode, model.decode, model.discriminate)


@pytest.fixture(scope='module')
def params(model):
    return jax.tree.map(lambda x: x + 0.3 * RANDOM.normal(size=x.shape),
                        model.init(jax.random.key(0)))


def softplus(x):
    return np.logaddexp(0, x)


@pytest.mark.thorough
def test_values_by_hand(nets, params):
    key = jax.random.key(3)

    @jax.jit
    def all_of_it(params):
        posterior, prior = jax.random.split(key)
        mean, logvar = nets.encode(params, X)
        noise = jax.random.normal(posterior, mean.shape, mean.dtype)
        fakes = [nets.decode(params, z) for z in (
            mean + jnp.exp(logvar / 2) * noise,
            jax.random.normal(prior, mean.shape, mean.dtype))]
        seen = [nets.discriminate(params, x) for x in (X, *fakes)]
        slopes = jax.grad(lambda x: nets.discriminate(params, x)[0].sum())(X)
        made = losses.vae_gan(nets, gamma=GAMMA, beta=BETA, penalties=[losses.r1(R1)])
        return mean, logvar, seen, slopes, {
            name: made[name](params, X, key) for name in made}

    mean, logvar, seen, slopes, got = jax.device_get(all_of_it(params))
    kl = (mean ** 2 + np.exp(logvar) - 1 - logvar).sum(1).mean() / 2
    (real, h), (rebuilt, h_rebuilt), (made, _) = seen
    likeness = ((h - h_rebuilt) ** 2).sum(1).mean() / 2
    fake = [softplus(logits).mean() for logits in (rebuilt, made)]
    fooled = [softplus(-logits).mean() for logits in (rebuilt, made)]
    expected = {
        'encoder': BETA * kl + likeness,
        'decoder': GAMMA * likeness + np.mean(fooled),
        'discriminator': softplus(-real).mean() + np.mean(fake)
        + R1 / 2 * (slopes ** 2).sum((1, 2, 3)).mean()}
    for name, (value, _) in got.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-10)
    logit = (rebuilt.mean() + made.mean()) / 2
    np.testing.assert_allclose(got['encoder'][1], (kl, likeness), rtol=1e-10)
    np.testing.assert_allclose(got['decoder'][1], (likeness, logit), rtol=1e-10)
    np.testing.assert_allclose(got['discriminator'][1], (real.mean(), logit),
                               rtol=1e-10)


@pytest.mark.parametrize('order', [ORDER, ('simultaneous',)],
                         ids=['in turns', 'simultaneous'])
@pytest.mark.thorough
def test_one_block_descent_is_a_loop_of_optax(nets, params, order):
    tx = optax.adam(1e-2, b1=0.5)

    def value(params, name, x, key):
        """The paper's, written anew."""
        posterior, prior = jax.random.split(key)
        mean, logvar = nets.encode(params, x)
        z = mean + jnp.exp(logvar / 2) * jax.random.normal(
            posterior, mean.shape, mean.dtype)
        fakes = [nets.decode(params, z), nets.decode(
            params, jax.random.normal(prior, mean.shape, mean.dtype))]
        (d, h), *seen = [nets.discriminate(params, x) for x in (x, *fakes)]
        if name == 'discriminator':
            return (-jax.nn.log_sigmoid(d).mean()
                    - sum(jax.nn.log_sigmoid(-fake).mean() for fake, _ in seen) / 2)
        likeness = jnp.square(h - seen[0][1]).sum(1).mean() / 2
        if name == 'decoder':
            return GAMMA * likeness - sum(
                jax.nn.log_sigmoid(fake).mean() for fake, _ in seen) / 2
        return likeness + BETA * (
            jnp.square(mean) + jnp.exp(logvar) - 1 - logvar).sum(1).mean() / 2

    @jax.jit
    def plain_cycle(params, states, key):
        start = params
        for name in ORDER:
            at = start if order == ('simultaneous',) else params
            grads = jax.grad(lambda mine: value({**at, name: mine}, name, X, key))(
                at[name])
            updates, moved = tx.update(grads, states[name])
            states = {**states, name: moved}
            params = {**params, name: optax.apply_updates(params[name], updates)}
        return params, states

    made = losses.vae_gan(nets, gamma=GAMMA, beta=BETA)
    descent = cdgm.block_descent({
        name: cdgm.Block(name, made[name], tx) for name in ORDER})

    @jax.jit
    def cycle(state, key):
        if order == ('simultaneous',):
            return descent.simultaneous(state, X, key)[0]
        return descent.cycle(state, X, key, order)[0]

    state = descent.init(params)
    expected = params, {name: tx.init(params[name]) for name in ORDER}
    for seed in range(3):
        key = jax.random.key(seed)
        state, expected = cycle(state, key), plain_cycle(*expected, key)
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(expected[0]),
                    strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


def test_the_decoder_does_not_descend_the_kl(nets, params):
    made = losses.vae_gan(nets)
    grads = jax.jit(jax.grad(lambda params: made['encoder'](
        params, X, jax.random.key(0))[1].kl))(params)
    assert not any(np.any(x) for x in jax.tree.leaves(grads['decoder']))


def test_feature_error_is_a_gaussians():
    a, b = RANDOM.normal(size=(2, 5, 3))
    log_p = losses.gaussian_log_likelihood(b, a, sigma=1.)
    np.testing.assert_allclose(losses.feature_error(a, b),
                               -log_p.mean() - 3 * np.log(2 * np.pi) / 2, rtol=1e-12)


def test_what_is_refused(nets, params):
    with pytest.raises(ValueError, match='the penalty r1 is computed every 4 steps, '
                                         'and these losses count none; give every=1'):
        losses.vae_gan(nets, penalties=[losses.r1(1., every=4)])
    other = nets._replace(decode=lambda params, z: jnp.zeros((len(z), 3, 4, 1)))
    with pytest.raises(ValueError, match=r'images of shape \(3, 4, 1\) and the data '
                                         r'are \(4, 4, 1\); give it that shape'):
        jax.eval_shape(lambda params: losses.vae_gan(other)['encoder'](
            params, X, jax.random.key(0)), params)
