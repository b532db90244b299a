from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import integrate, special, stats

import cdgm
from cdgm.losses import (
    annealed, bernoulli_log_likelihood, gaussian_kl, gaussian_kl_per_dimension,
    gaussian_log_density, gaussian_log_likelihood, neg_elbo, sample_latent,
    standard_normal_log_density)

MEAN = np.array([[0.3, -1.2], [2.0, 0.0]])
LOGVAR = np.array([[-0.5, 0.7], [0.0, -3.0]])
RNG = np.random.default_rng(20)


def test_kl_is_the_integral_of_its_definition():
    def kl(mean, logvar):
        q, p = stats.norm(mean, np.exp(logvar / 2)), stats.norm()
        return integrate.quad(lambda z: q.pdf(z) * (q.logpdf(z) - p.logpdf(z)),
                              *q.interval(1 - 1e-14))[0]

    expected = np.vectorize(kl)(MEAN, LOGVAR).sum(axis=1)
    np.testing.assert_allclose(jax.jit(gaussian_kl)(MEAN, LOGVAR), expected, rtol=1e-9)


def test_kl_is_the_mean_of_the_log_ratio_over_samples(key):
    n = 20_000
    mean, logvar = (np.broadcast_to(array, (n, 2, 2)) for array in (MEAN, LOGVAR))
    z = np.asarray(jax.jit(sample_latent)(mean, logvar, key))
    log_ratio = np.sum(
        stats.norm.logpdf(z, MEAN, np.exp(LOGVAR / 2)) - stats.norm.logpdf(z), axis=-1)
    error = log_ratio.std(axis=0, ddof=1) / np.sqrt(n)
    assert np.all(abs(log_ratio.mean(axis=0) - gaussian_kl(MEAN, LOGVAR)) < 4 * error)


def test_kl_and_its_gradient_vanish_at_the_prior_and_only_there():
    zeros = np.zeros((1, 3))
    value, grads = jax.jit(jax.value_and_grad(
        lambda mean, logvar: gaussian_kl(mean, logvar)[0], (0, 1)))(zeros, zeros)
    assert value == 0
    chex.assert_trees_all_equal(grads, (zeros, zeros))
    # A latent about to collapse: 1e-4 away from the prior the KL is 2.5e-9 nats.
    small = np.full((1, 1), 1e-4, 'float32')
    nearly = jax.jit(gaussian_kl)(0 * small, small)
    np.testing.assert_allclose(nearly, 1e-8 / 4, rtol=0.1)


def test_bernoulli_is_the_cross_entropy_of_optax_and_the_mass_of_scipy():
    logits = 5 * RNG.normal(size=(3, 4, 2))
    grey = RNG.uniform(size=(3, 4, 2))
    binary = np.round(grey)
    log_p = jax.jit(bernoulli_log_likelihood)
    entropy = jax.jit(optax.sigmoid_binary_cross_entropy)(logits, grey)
    np.testing.assert_allclose(
        log_p(logits, grey), -np.sum(entropy, axis=(1, 2)), rtol=1e-12)
    mass = stats.bernoulli.logpmf(binary, special.expit(logits))
    np.testing.assert_allclose(
        log_p(logits, binary), mass.sum(axis=(1, 2)), rtol=1e-12)


@pytest.mark.parametrize('sigma', [0.3, RNG.uniform(0.5, 2, (1, 4, 2))])
def test_gaussian_is_the_density_of_scipy(sigma):
    mean, x = RNG.normal(size=(2, 3, 4, 2))
    np.testing.assert_allclose(
        jax.jit(gaussian_log_likelihood)(mean, x, sigma),
        stats.norm.logpdf(x, mean, sigma).sum(axis=(1, 2)), rtol=1e-12)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_bernoulli_is_finite_at_any_logit(dtype):
    size = np.array([-1e4, -110, -30, 0, 30, 110, 1e4]).astype(dtype)
    logits = jnp.asarray(np.repeat(size[:, None], 784, axis=1))
    size = size.astype(float)

    @jax.jit
    def value_and_slope(x):
        log_p, pull = jax.vjp(lambda u: bernoulli_log_likelihood(u, x), logits)
        return log_p, pull(jnp.ones_like(log_p))[0]

    for x in (0, 1):
        log_p, slope = value_and_slope(jnp.full(logits.shape, x, dtype))
        assert log_p.dtype == jnp.float32 and slope.dtype == dtype
        np.testing.assert_allclose(
            log_p, 784 * special.log_expit((2 * x - 1) * size), rtol=1e-6, atol=1e-3)
        np.testing.assert_allclose(
            slope.astype(float)[:, 0], x - special.expit(size), atol=1e-6)


def test_losses_of_bfloat16_are_summed_in_float32():
    ones = jnp.ones((1, 784), 'bfloat16')
    kl, log_p = jax.jit(lambda a, b: (
        gaussian_kl(a, b), gaussian_log_likelihood(a, b, 1.)))(ones, 0 * ones)
    np.testing.assert_allclose(kl, 784 / 2)
    np.testing.assert_allclose(log_p, 784 * stats.norm.logpdf(1), rtol=1e-6)


@pytest.mark.parametrize('function', [
    gaussian_kl, bernoulli_log_likelihood, partial(gaussian_log_likelihood, sigma=1.)])
def test_shapes_that_would_broadcast_are_refused(function):
    with pytest.raises(ValueError, match='shapes differ'):
        function(jnp.ones((2, 3)), jnp.ones((2, 1)))


def encode(params, x):
    return x @ params['encoder']['mean'], x @ params['encoder']['logvar']


def decode(params, latent):
    return latent @ params['decoder']


loss = partial(neg_elbo, encode=encode, decode=decode)


PARAMS = {'encoder': {'mean': RNG.normal(size=(5, 2)),
                      'logvar': RNG.normal(size=(5, 2)) / 3},
          'decoder': RNG.normal(size=(2, 5))}
BATCH = np.round(RNG.uniform(size=(4, 5)))


def test_neg_elbo_is_written_out(key):
    value, terms = jax.jit(partial(loss, beta=0.7, num_samples=3))(PARAMS, BATCH, key)
    mean, logvar = encode(PARAMS, BATCH)
    noise = np.asarray(jax.random.normal(key, (3, *mean.shape)))
    p = special.expit((mean + np.exp(logvar / 2) * noise) @ PARAMS['decoder'])
    reconstruction = -np.log(np.where(BATCH == 1, p, 1 - p)).sum(-1).mean()
    kl = (mean ** 2 + np.exp(logvar) - 1 - logvar).sum(-1).mean() / 2
    np.testing.assert_allclose(
        (value, *terms), (reconstruction + 0.7 * kl, reconstruction, kl), rtol=1e-12)


def test_the_mean_over_keys_is_the_closed_form_of_a_linear_model(key):
    sigma = 0.8
    gaussian = partial(gaussian_log_likelihood, sigma=sigma)
    values = np.asarray(jax.jit(jax.vmap(
        lambda k: loss(PARAMS, BATCH, k, log_likelihood=gaussian)[0]))(
            jax.random.split(key, 500)))
    mean, logvar = encode(PARAMS, BATCH)
    # E|x - W z|^2 = |x - W mean|^2 + sum_j var_j |W_j|^2
    spread = np.exp(logvar) @ np.sum(PARAMS['decoder'] ** 2, axis=1)
    log_p = stats.norm.logpdf(BATCH, decode(PARAMS, mean), sigma).sum(1)
    kl = (mean ** 2 + np.exp(logvar) - 1 - logvar).sum(1) / 2
    expected = np.mean(kl - log_p + spread / (2 * sigma ** 2))
    assert abs(values.mean() - expected) < 4 * stats.sem(values)


def test_beta_is_traced_and_gradients_reach_both_blocks(key):
    @jax.jit
    def function(params, beta):
        return jax.value_and_grad(loss, has_aux=True)(params, BATCH, key, beta=beta)

    for beta in (0.0, 4.0):
        (value, terms), grads = function(PARAMS, beta)
        np.testing.assert_allclose(value, terms.reconstruction + beta * terms.kl)
        assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(grads))
    assert function._cache_size() == 1


def test_float32_in_is_float32_out_with_x64_on(key):
    single = jax.tree.map(lambda leaf: leaf.astype('float32'), (PARAMS, BATCH))
    shapes = jax.eval_shape(partial(loss, num_samples=2), *single, key)
    assert {(leaf.dtype, leaf.shape) for leaf in jax.tree.leaves(shapes)} == {
        (jnp.dtype('float32'), ())}


def test_no_sample_is_refused(key):
    with pytest.raises(ValueError, match='num_samples is 0'):
        loss(PARAMS, BATCH, key, num_samples=0)


def test_free_bits_hold_a_dimension_that_is_below_them(key):
    """Kingma et al. 2016 eq. 15: below them a dimension has no gradient of the KL."""
    kl = gaussian_kl_per_dimension(*encode(PARAMS, BATCH)).mean(0)
    between = float(kl.mean())
    assert kl.min() < between < kl.max()
    free = jax.jit(partial(loss, beta=0.7))
    value, terms = free(PARAMS, BATCH, key, free_bits=between)
    np.testing.assert_allclose(terms.kl, kl.sum(), rtol=1e-12)
    np.testing.assert_allclose(
        value, terms.reconstruction + 0.7 * np.maximum(kl, between).sum(), rtol=1e-12)

    def punished(params, **free_bits):
        value, terms = loss(params, BATCH, key, **free_bits)
        return value - terms.reconstruction

    low = int(kl.argmin())
    slope = jax.jit(jax.grad(punished))
    np.testing.assert_array_equal(
        slope(PARAMS, free_bits=between)['encoder']['mean'][:, low], 0)
    assert np.any(slope(PARAMS)['encoder']['mean'][:, low] != 0)


def test_a_prior_of_its_own_is_estimated_by_samples(key):
    """With N(0, I) for that prior the mean is the closed form."""
    estimate = jax.jit(jax.vmap(lambda k: loss(
        PARAMS, BATCH, k, log_prior=standard_normal_log_density)[1].kl))
    values = np.asarray(estimate(jax.random.split(key, 2000)))
    expected = gaussian_kl(*encode(PARAMS, BATCH)).mean()
    assert abs(values.mean() - expected) < 4 * stats.sem(values)


def test_free_bits_and_a_prior_of_its_own_do_not_go_together(key):
    with pytest.raises(ValueError, match='leave one of them out'):
        loss(PARAMS, BATCH, key, free_bits=0.1, log_prior=standard_normal_log_density)


def test_a_warm_up_counts_the_updates_of_its_own_block(key):
    warm = annealed(loss, beta=optax.linear_schedule(0., 1., 4))
    descent = cdgm.block_descent({
        'encoder': cdgm.Block('encoder', warm, optax.sgd(0.)),
        'decoder': cdgm.Block('decoder', annealed(loss, clock=''), optax.sgd(0.))})
    state = descent.init(PARAMS, {'updates': jnp.array(0)})
    state, infos = jax.jit(lambda state: descent.cycle(
        state, BATCH, key, ('decoder', 'encoder') * 6))(state)
    assert state.model_state['updates'] == 6
    terms = infos.aux['encoder']
    np.testing.assert_allclose(
        infos.loss[1::2] - terms.reconstruction,
        np.minimum(np.arange(6) / 4, 1) * terms.kl, rtol=1e-9)


@pytest.mark.parametrize('shape', [(), (2, 1)])
def test_gaussian_log_density_is_that_of_scipy(shape):
    z = RNG.normal(size=(*shape, *MEAN.shape))
    mean, logvar = (np.broadcast_to(a, z.shape) for a in (MEAN, LOGVAR))
    expected = stats.norm.logpdf(z, mean, np.exp(logvar / 2))
    np.testing.assert_allclose(
        gaussian_log_density(z, mean, logvar),
        expected.sum(axis=tuple(range(1, z.ndim))), rtol=1e-12)
