import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from sklearn.decomposition import PCA

from cdgm.losses import learned_gaussian_log_likelihood, linear_neg_elbo, neg_elbo
from cdgm.models import diagonalise, linear_nll, linear_vae, ppca_optimum

RNG = np.random.default_rng(20)
X = RNG.normal(size=(50, 5)) @ RNG.normal(size=(5, 5)) + 3


def covariance(params):
    weight = np.asarray(params['decoder']['weight'])
    return weight @ weight.T + np.exp(2 * params['decoder']['log_sigma']) * np.eye(5)


def test_the_optimum_is_that_of_scikit_learn():
    best, pca = ppca_optimum(X, 2), PCA(2).fit(X)
    # scikit-learn divides the covariance by N - 1.
    shrink = 49 / 50
    np.testing.assert_allclose(best.noise, shrink * pca.noise_variance_, rtol=1e-9)
    np.testing.assert_allclose(
        best.weight @ best.weight.T + best.noise * np.eye(5),
        shrink * pca.get_covariance(), rtol=1e-8)
    law = stats.multivariate_normal(best.bias, shrink * pca.get_covariance())
    np.testing.assert_allclose(best.nll, -law.logpdf(X).mean(), rtol=1e-10)


def test_nll_is_the_density_of_scipy_and_rotation_leaves_it(fill):
    params = fill(linear_vae(5, 2).init)
    law = stats.multivariate_normal(params['decoder']['bias'], covariance(params))
    np.testing.assert_allclose(linear_nll(params, X), -law.logpdf(X).mean())
    turned = diagonalise(params)
    np.testing.assert_allclose(covariance(turned), covariance(params), rtol=1e-9)
    # Its encoder is the posterior, so the bound is tight.
    np.testing.assert_allclose(linear_neg_elbo(turned, jnp.asarray(X), None)[0],
                               linear_nll(params, X), rtol=1e-10)


def test_the_closed_form_is_the_mean_of_the_estimate(fill, key):
    model = linear_vae(5, 2)
    params = fill(model.init)

    def estimate(key):
        return neg_elbo(params, jnp.asarray(X), key, encode=model.encode,
                        decode=model.decode,
                        log_likelihood=learned_gaussian_log_likelihood)[0]

    values = np.asarray(jax.jit(jax.vmap(estimate))(jax.random.split(key, 500)))
    expected, _ = linear_neg_elbo(params, jnp.asarray(X), None)
    assert abs(values.mean() - expected) < 4 * stats.sem(values)
    full = {**params, 'encoder': {
        **{n: params['encoder'][n] for n in ('weight', 'bias')},
        'covariance': np.diag(np.exp(params['encoder']['logvar']))}}
    np.testing.assert_allclose(linear_neg_elbo(full, jnp.asarray(X), None)[0], expected)


@pytest.mark.parametrize('latent', [0, 5])
def test_a_latent_that_does_not_fit_is_refused(latent):
    with pytest.raises(ValueError, match=f'latent_size is {latent}'):
        linear_vae(5, latent)


def test_data_without_a_maximum_are_refused():
    flat = X * np.array([1., 1., 0., 0., 0.])
    with pytest.raises(ValueError, match='the 3 smallest variances'):
        ppca_optimum(flat, 2)
