"""On a linear Gaussian model (probabilistic PCA), whose likelihood is known.

x = W z + sigma e, so p(x) = N(0, W W' + sigma^2 I); with orthogonal columns of W the
posterior N(M^-1 W' x, sigma^2 M^-1), M = W' W + sigma^2 I, is a diagonal Gaussian.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from cdgm.losses import gaussian_log_likelihood, neg_elbo
from cdgm.metrics import dataset_neg_elbo, importance_weighted_nll

SIGMA = 0.5
RNG = np.random.default_rng(20)
W = np.linalg.qr(RNG.normal(size=(6, 2)))[0] * np.array([[1.5, 0.7]])
IMAGES = RNG.normal(size=(11, 2)) @ W.T + SIGMA * RNG.normal(size=(11, 6))
EXACT = -stats.multivariate_normal(cov=W @ W.T + SIGMA ** 2 * np.eye(6)).logpdf(IMAGES)


def encode(params, x):
    """The exact posterior for params = (0, 0), else moved and spread."""
    shift, spread = params
    precision = jnp.asarray(np.sum(W ** 2, axis=0, keepdims=True) + SIGMA ** 2)
    mean = x @ jnp.asarray(W) / precision + shift
    return mean, jnp.broadcast_to(jnp.log(SIGMA ** 2 / precision) + spread, mean.shape)


def decode(params, latent):
    return latent @ jnp.asarray(W.T)


model = {'encode': encode, 'decode': decode,
         'log_likelihood': partial(gaussian_log_likelihood, sigma=SIGMA)}
POOR = (0.3, 0.4)


# Seven samples and eleven images: with a rest in both chunks, and in one chunk.
RESTS = {'num_samples': 7, 'chunk_size': 3, 'batch_size': 4}
WHOLE = {'num_samples': 7, 'chunk_size': 10, 'batch_size': 20}
nll = jax.jit(partial(importance_weighted_nll, **model), static_argnames=tuple(RESTS))


@pytest.mark.parametrize('sizes', [RESTS, WHOLE])
def test_the_exact_posterior_gives_the_exact_likelihood(sizes, key):
    mean, error = nll((0., 0.), IMAGES, key, **sizes)
    np.testing.assert_allclose(mean, EXACT.mean(), rtol=1e-12)
    np.testing.assert_allclose(error, stats.sem(EXACT), rtol=1e-12)


def test_chunks_change_memory_and_not_the_result(key):
    np.testing.assert_allclose(nll(POOR, IMAGES, key, **RESTS),
                               nll(POOR, IMAGES, key, **WHOLE), rtol=1e-12)


def test_the_likelihood_is_estimated_without_bias(key):
    """E exp(-estimate) = p(x) for any encoder and any number of samples."""
    def estimate(key):
        return importance_weighted_nll(
            POOR, IMAGES[:1], key, **model, num_samples=5, chunk_size=2, batch_size=1)

    keys = jax.random.split(key, 2000)
    ratio = np.exp(EXACT[0] - jax.jit(jax.vmap(estimate))(keys).mean)
    assert abs(ratio.mean() - 1) < 4 * stats.sem(ratio)
    assert ratio.std() > 0.05  # the encoder is wrong, so that there was something to do


def test_every_image_counts_once_in_the_elbo(key):
    loss = partial(neg_elbo, **model)
    keys = jax.random.split(key, len(IMAGES))
    one = jax.jit(loss)
    each = [one(POOR, image[None], k)[0] for image, k in zip(IMAGES, keys)]
    got = jax.jit(partial(
        dataset_neg_elbo, neg_elbo=loss, batch_size=4))(POOR, IMAGES, key)
    np.testing.assert_allclose(got, (np.mean(each), stats.sem(each)), rtol=1e-12)


def test_float32_in_is_float32_out_with_x64_on(key):
    single = model | {
        'encode': lambda _, x: (x[:, :2], x[:, 2:4]),
        'decode': lambda _, z: jnp.tile(z, (1, 3))}
    shapes = jax.eval_shape(
        partial(importance_weighted_nll, **single, num_samples=3, chunk_size=2,
                batch_size=11), (), IMAGES.astype('float32'), key)
    assert {leaf.dtype for leaf in shapes} == {jnp.dtype('float32')}


@pytest.mark.parametrize('bad', ['num_samples', 'chunk_size', 'batch_size'])
def test_sizes_are_positive(bad, key):
    sizes = {'num_samples': 1, 'chunk_size': 1, 'batch_size': 1} | {bad: 0}
    with pytest.raises(ValueError, match='give whole numbers > 0'):
        importance_weighted_nll((0., 0.), IMAGES, key, **model, **sizes)
