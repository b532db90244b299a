"""Bounds on linear Gaussian models, whose likelihood and posterior are known.

One dimension: z ~ N(0, 1), x|z ~ N(b z, s^2); q(z|x) = N(a x + c, v).
Two layers: h_2 ~ N(0, 1), h_1|h_2 ~ N(g h_2, t^2), x|h_1 ~ N(b h_1, s^2).
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from cdgm.losses import (
    LatentModel, learned_gaussian_log_likelihood, neg_elbo, neg_iwae, sample_prior)

B, S, G, T = 1.3, 0.6, 0.8, 0.5
X = np.array([[0.7], [-1.1], [2.0]])
EXACT = -stats.norm(scale=np.sqrt(B ** 2 + S ** 2)).logpdf(X).mean()


def encode(params, x):
    a, c, logvar = params['encoder']
    return a * x + c, jnp.broadcast_to(logvar, x.shape)


def decode(params, z):
    return params['decoder'] * z, jnp.log(S)


MODEL = LatentModel((encode,), decode, learned_gaussian_log_likelihood)
precision = B ** 2 / S ** 2 + 1
POSTERIOR = {'encoder': jnp.array([B / S ** 2 / precision, 0., -np.log(precision)]),
             'decoder': jnp.array(B)}
POOR = {'encoder': jnp.array([0.3, 0.2, -0.5]), 'decoder': jnp.array(B)}
loss = partial(neg_iwae, model=MODEL)
BOTH = ['pathwise', 'stl', 'dreg']


@pytest.mark.parametrize('estimator', BOTH)
def test_the_exact_posterior_gives_the_exact_likelihood(estimator, key):
    value, terms = jax.jit(partial(loss, num_samples=4, estimator=estimator))(
        POSTERIOR, X, key)
    np.testing.assert_allclose(value, EXACT, rtol=1e-12)
    np.testing.assert_allclose(terms.effective, 4, rtol=1e-9)


@pytest.mark.parametrize('estimator', ['stl', 'dreg'])
def test_at_the_exact_posterior_the_gradient_has_no_noise(estimator, key):
    """Roeder et al. section 3: it is zero for every draw, the pathwise one is not."""
    def slope(estimator):
        return jax.jit(jax.grad(lambda p: loss(
            p, X, key, num_samples=4, estimator=estimator)[0]))(POSTERIOR)['encoder']
    np.testing.assert_allclose(slope(estimator), 0, atol=1e-12)
    assert abs(slope('pathwise')).max() > 0.01


def bound_by_quadrature(params, x):
    """E log (w_1 + w_2) / 2 by Gauss-Hermite quadrature, for K = 2."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    weights = weights / weights.sum()
    mean, logvar = (np.asarray(a)[0, 0] for a in encode(params, np.array([[x]])))
    z = mean + np.exp(logvar / 2) * nodes
    log_w = (stats.norm.logpdf(x, B * z, S) + stats.norm.logpdf(z)
             - stats.norm.logpdf(z, mean, np.exp(logvar / 2)))
    pairs = np.logaddexp(log_w[:, None], log_w[None]) - np.log(2)
    return weights @ pairs @ weights


def test_two_samples_give_the_bound_of_quadrature(key):
    run = jax.jit(jax.vmap(lambda k: loss(POOR, X[:1], k, num_samples=2)[0]))
    values = np.asarray(run(jax.random.split(key, 20_000)))
    expected = -bound_by_quadrature(POOR, X[0, 0])
    assert abs(values.mean() - expected) < 4 * stats.sem(values)
    assert EXACT < expected or len(X) > 1


def test_one_sample_is_the_elbo_in_value_and_gradient(key):
    """With the KL estimated from the same sample, as a prior of its own asks for."""
    def elbo(params):
        return neg_elbo(params, X, key, encode=encode, decode=decode,
                        log_likelihood=learned_gaussian_log_likelihood,
                        log_prior=MODEL.log_prior)[0]
    expected = jax.jit(jax.value_and_grad(elbo))(POOR)
    got = jax.jit(jax.value_and_grad(lambda p: loss(p, X, key, num_samples=1)[0]))(POOR)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-10), got, expected)


@pytest.fixture(scope='module')
def slopes():
    """estimator -> gradients float64[draws, 4] for K = 5: encoder and decoder."""
    keys = jax.random.split(jax.random.key(20), 8000)

    def all_of(estimator):
        def one(key):
            grads = jax.grad(lambda p: loss(
                p, X, key, num_samples=5, estimator=estimator)[0])(POOR)
            return jnp.append(grads['encoder'], grads['decoder'])
        return np.asarray(jax.jit(jax.vmap(one))(keys))

    return {estimator: all_of(estimator) for estimator in BOTH}


def test_dreg_has_the_mean_of_the_pathwise_gradient_and_less_noise(slopes):
    """Tucker et al. eq. 8."""
    difference = slopes['dreg'] - slopes['pathwise']
    assert np.all(abs(difference.mean(0)[:3]) < 4 * stats.sem(difference)[:3])
    assert np.all(slopes['dreg'].std(0)[:3] < 0.8 * slopes['pathwise'].std(0)[:3])


def test_stl_is_biased_for_several_samples(slopes):
    difference = slopes['stl'] - slopes['pathwise']
    assert np.any(abs(difference.mean(0)[:3]) > 6 * stats.sem(difference)[:3])


def test_the_decoder_has_one_gradient_whatever_the_estimator(slopes):
    for estimator in ('stl', 'dreg'):
        np.testing.assert_allclose(slopes[estimator][:, 3], slopes['pathwise'][:, 3],
                                   rtol=1e-8)


@pytest.mark.parametrize('estimator', ['dreg'])
def test_one_sample_of_dreg_is_stl(estimator, key):
    def slope(estimator):
        return jax.jit(jax.grad(lambda p: loss(
            p, X, key, num_samples=1, estimator=estimator)[0]))(POOR)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-10), slope(estimator),
                 slope('stl'))


def two_layers():
    """A model of two layers with its exact posterior, and -log p(x)."""
    first = G ** 2 + T ** 2  # variance of h_1
    up = 1 / (B ** 2 / S ** 2 + 1 / first)
    top = 1 / (G ** 2 / T ** 2 + 1)
    model = LatentModel(
        encode=(lambda p, x: (p[0] * up * B / S ** 2 * x,
                              jnp.full_like(x, np.log(up))),
                lambda p, h: (p[1] * top * G / T ** 2 * h,
                              jnp.full_like(h, np.log(top)))),
        decode=lambda p, h: (p[2] * B * h, jnp.log(S)),
        log_likelihood=learned_gaussian_log_likelihood,
        between=(lambda p, h: (p[3] * G * h, jnp.full_like(h, 2 * np.log(T))),))
    scale = np.sqrt(B ** 2 * first + S ** 2)
    return model, scale, -stats.norm(scale=scale).logpdf(X).mean()


@pytest.mark.parametrize('estimator', BOTH)
def test_two_layers_are_exact_at_their_posterior(estimator, key):
    model, _, exact = two_layers()
    value, slope = jax.jit(jax.value_and_grad(lambda p: neg_iwae(
        p, X, key, model=model, num_samples=3, estimator=estimator)[0]))(jnp.ones(4))
    np.testing.assert_allclose(value, exact, rtol=1e-12)
    if estimator != 'pathwise':
        np.testing.assert_allclose(slope[:2], 0, atol=1e-12)


def test_dreg_of_two_layers_has_the_mean_of_the_pathwise_gradient(key):
    model, *_ = two_layers()
    params = jnp.array([0.6, 1.3, 1., 1.])

    def both(key):
        return [jax.grad(lambda p: neg_iwae(
            p, X, key, model=model, num_samples=4, estimator=e)[0])(params)
            for e in ('dreg', 'pathwise')]

    dreg, pathwise = map(np.asarray, jax.jit(jax.vmap(both))(
        jax.random.split(key, 8000)))
    difference = dreg - pathwise
    assert np.all(abs(difference.mean(0)[:2]) < 4 * stats.sem(difference)[:2])


def test_the_prior_is_sampled_from_the_top_down(key):
    model, *_ = two_layers()
    top = jnp.ones((20_000, 1))
    drawn = np.asarray(sample_prior(model, jnp.ones(4), top, key))[:, 0]
    assert stats.kstest(drawn, stats.norm(G, T).cdf).pvalue > 1e-3


@pytest.mark.parametrize('bad, message', [
    ({'num_samples': 0}, 'draw at least one'),
    ({'num_samples': 1, 'estimator': 'reinforce'}, 'unknown estimator'),
    ({'num_samples': 1, 'model': MODEL._replace(between=(encode,))}, 'L - 1 between')])
def test_bad_input_is_refused(bad, message, key):
    with pytest.raises(ValueError, match=message):
        neg_iwae(POOR, X, key, **({'model': MODEL} | bad))
