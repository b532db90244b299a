"""Losses of one block each, on x = w z + s e in one dimension."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

import cdgm
from cdgm.losses import (
    learned_gaussian_log_likelihood, neg_elbo, posterior_kl, reconstruction, sleep)

W, S = 1.3, 0.6
X = np.random.default_rng(20).normal(size=(400, 1)) * np.sqrt(W ** 2 + S ** 2)


def encode(params, x):
    slope, logvar = params['encoder']
    return slope * x, jnp.broadcast_to(logvar, x.shape)


def decode(params, z):
    return params['decoder'] * z, jnp.log(S)


model = {'encode': encode, 'decode': decode}
gaussian = {'log_likelihood': learned_gaussian_log_likelihood}
PARAMS = {'encoder': jnp.array([0.2, -0.1]), 'decoder': jnp.array(W)}


def observe(decoded, key):
    mean, log_sigma = decoded
    return mean + jnp.exp(log_sigma) * jax.random.normal(key, mean.shape)


dreamt = partial(sleep, **model, sample_observation=observe, latent_size=1)


def test_the_decoder_has_the_gradient_of_the_elbo(key):
    """The KL does not depend on it."""
    def slope(loss):
        return jax.jit(jax.grad(lambda p: loss(p, X, key, **model, **gaussian)[0]))(
            PARAMS)['decoder']
    np.testing.assert_allclose(slope(reconstruction), slope(neg_elbo), rtol=1e-12)


def test_sleep_teaches_the_encoder_the_exact_posterior(key):
    """Its minimum is KL(p(z|x) || q) = 0, so -log q is the entropy of p(z|x)."""
    precision = W ** 2 / S ** 2 + 1
    exact = {**PARAMS, 'encoder': jnp.array([W / S ** 2 / precision,
                                             -np.log(precision)])}
    run = jax.jit(jax.vmap(lambda p, k: jax.value_and_grad(
        lambda p: dreamt(p, X, k)[0])(p), in_axes=(None, 0)))
    values, slopes = run(exact, jax.random.split(key, 200))
    entropy = stats.norm(scale=precision ** -0.5).entropy()
    assert abs(np.mean(values) - entropy) < 4 * stats.sem(values)
    slopes_of_encoder = np.asarray(slopes['encoder'])
    assert np.all(abs(slopes_of_encoder.mean(0)) < 4 * stats.sem(slopes_of_encoder))
    np.testing.assert_array_equal(slopes['decoder'], 0)  # nothing flows to the dreamer


@pytest.mark.thorough
def test_posterior_kl_does_not_see_the_decoder(key):
    value, grads = jax.jit(jax.value_and_grad(lambda p: posterior_kl(
        p, X, key, encode=encode)[0]))(PARAMS)
    expected = neg_elbo(PARAMS, X, key, **model, **gaussian)[1].kl
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    assert grads['decoder'] == 0 and np.all(grads['encoder'] != 0)


@pytest.mark.thorough
def test_the_split_objective_collapses_and_wake_sleep_does_not(key):
    """One descent each, from the same start; the ELBO is the third."""
    losses = {'elbo': (partial(neg_elbo, **model, **gaussian),) * 2,
              'wake-sleep': (dreamt, partial(reconstruction, **model, **gaussian)),
              'split': (partial(posterior_kl, encode=encode),
                        partial(reconstruction, **model, **gaussian))}

    def kl_after(of_encoder, of_decoder):
        descent = cdgm.block_descent({
            'encoder': cdgm.Block('encoder', of_encoder, optax.sgd(0.1)),
            'decoder': cdgm.Block('decoder', of_decoder, optax.sgd(0.02))})
        state, _ = jax.jit(lambda state: jax.lax.scan(
            lambda state, k: descent.cycle(state, X, k, ('decoder', 'encoder')),
            state, jax.random.split(key, 300)))(descent.init(PARAMS))
        return float(posterior_kl(state.params, X, key, encode=encode)[0])

    kl = {name: kl_after(*pair) for name, pair in losses.items()}
    assert kl['split'] < 1e-6
    assert kl['elbo'] > 0.3 and kl['wake-sleep'] > 0.3
