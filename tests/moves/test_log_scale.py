import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cdgm
from cdgm.losses import learned_gaussian_log_likelihood, linear_neg_elbo
from cdgm.models import linear_vae
from cdgm.moves import log_det_minimisation, log_scale_minimisation

X = np.random.default_rng(20).normal(size=(12, 5))


def test_a_global_sigma_is_the_root_mean_square_error():
    def loss(params, batch, key):
        return -jnp.mean(learned_gaussian_log_likelihood(
            (jnp.full(batch.shape, params['mean']), params['log_sigma']), batch)), None

    descent = cdgm.block_descent({
        'sigma': cdgm.Block('log_sigma', loss, log_scale_minimisation(-2, 5)),
        'mean': cdgm.Block('mean', loss, log_scale_minimisation(1, 1))})
    state = descent.init({'mean': jnp.array(0.3), 'log_sigma': jnp.array(4.)})
    state, _ = jax.jit(lambda s: descent.step(s, jnp.asarray(X), None, 'sigma'))(state)
    np.testing.assert_allclose(jnp.exp(state.params['log_sigma']),
                               np.sqrt(np.mean((X - 0.3) ** 2)), rtol=1e-12)


def test_a_running_sigma_averages_squares_by_their_age():
    def loss(params, batch, key):
        return -jnp.mean(learned_gaussian_log_likelihood(
            (jnp.zeros_like(batch), params), batch)), None

    decay = 0.5
    descent = cdgm.block_descent({
        'sigma': cdgm.Block('', loss, log_scale_minimisation(-2, 5, decay))})
    state = descent.init(jnp.array(4.))
    step = jax.jit(lambda state, x: descent.step(state, x, None, 'sigma')[0])
    for at in range(3):
        state = step(state, jnp.asarray(X[4 * at:4 * at + 4]))
    ages = decay ** np.arange(3)[::-1]
    squares = np.mean(X.reshape(3, -1) ** 2, axis=1)
    np.testing.assert_allclose(jnp.exp(2 * state.params),
                               ages @ squares / ages.sum(), rtol=1e-12)
    # A batch without error is one of several.
    after = step(state, jnp.zeros((4, 5)))
    np.testing.assert_allclose(
        jnp.exp(2 * after.params), decay * (ages @ squares) / (1 + decay * ages.sum()),
        rtol=1e-12)


@pytest.mark.thorough
def test_each_variance_of_a_linear_vae_is_that_of_the_posterior(key):
    """S_j = 1 / (|W_j|^2 / s^2 + 1), and in full s^2 (W'W + s^2 I)^-1."""
    rng = np.random.default_rng(21)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape),
                          jax.eval_shape(linear_vae(5, 2).init, key))
    weight = params['decoder']['weight']
    noise = np.exp(2 * params['decoder']['log_sigma'])
    one = cdgm.block_descent({'spread': cdgm.Block(
        'encoder/logvar', linear_neg_elbo, log_scale_minimisation(1, -0.5)),
        'rest': cdgm.Block(('decoder', 'encoder/weight', 'encoder/bias'),
                           linear_neg_elbo, log_scale_minimisation(1, 1))})
    state, _ = one.step(one.init(params), jnp.asarray(X), None, 'spread')
    np.testing.assert_allclose(jnp.exp(state.params['encoder']['logvar']),
                               1 / (np.sum(weight ** 2, 0) / noise + 1), rtol=1e-10)
    encoder = {name: params['encoder'][name] for name in ('weight', 'bias')}
    full = {**params, 'encoder': {**encoder, 'covariance': np.eye(2)}}
    two = cdgm.block_descent({'spread': cdgm.Block(
        'encoder/covariance', linear_neg_elbo, log_det_minimisation(1)),
        'rest': cdgm.Block(('decoder', 'encoder/weight', 'encoder/bias'),
                           linear_neg_elbo, log_scale_minimisation(1, 1))})
    state, _ = two.step(two.init(full), jnp.asarray(X), None, 'spread')
    np.testing.assert_allclose(
        state.params['encoder']['covariance'],
        noise * np.linalg.inv(weight.T @ weight + noise * np.eye(2)), rtol=1e-10)


def test_a_loss_that_falls_without_end_stays_and_is_not_a_number():
    def loss(u, batch, key):  # errors of zero: sigma would be zero
        return u, None

    descent = cdgm.block_descent({'u': cdgm.Block('', loss,
                                                  log_scale_minimisation(-2, 1))})
    state, info = descent.step(descent.init(jnp.array(1.)), None, None, 'u')
    assert state.params == 1 and np.isnan(info.loss)


def test_a_factor_of_zero_is_refused():
    with pytest.raises(ValueError, match='neither may be zero'):
        log_scale_minimisation(0, 1)
    with pytest.raises(ValueError, match='decay is 1'):
        log_scale_minimisation(1, 1, decay=1)
