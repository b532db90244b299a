from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from cdgm.metrics import (
    active_units, activity, bits_per_dimension, elbo_parts, encode_all, importance_nll,
    map_examples, mutual_information)
from tests.metrics import linear

X = linear.draw(40)


@pytest.mark.parametrize('params', [linear.EXACT, linear.POOR])
def test_parts_are_those_of_the_closed_form(params, key):
    """KL in closed form; -ELBO = NLL + KL(q || posterior)."""
    parts = jax.jit(partial(elbo_parts, **linear.MODEL, batch_size=7,
                            num_samples=2000))(params, X, key)
    kl = linear.exact_kl(X, params)
    np.testing.assert_allclose(parts.kl.mean, kl.sum(1).mean(), rtol=1e-10)
    np.testing.assert_allclose(parts.kl.error, stats.sem(kl.sum(1)), rtol=1e-10)
    np.testing.assert_allclose(parts.kl_per_dimension.mean, kl.mean(0), rtol=1e-10)
    expected = linear.exact_nll(X).mean() + linear.exact_gap(params)
    # One sample of log p(x|z) has a deviation of about 2 nats.
    noise = 2 / np.sqrt(2000 * len(X))
    assert abs(parts.neg_elbo.mean - expected) < 4 * noise
    np.testing.assert_allclose(
        parts.neg_elbo.mean, parts.reconstruction.mean + parts.kl.mean, rtol=1e-10)


def test_a_prior_of_its_own_is_sampled(key):
    def log_prior(params, z):  # N(0, I), as a function
        return -jnp.sum(jnp.square(z) + jnp.log(2 * jnp.pi), -1) / 2
    parts = jax.jit(partial(
        elbo_parts, **linear.MODEL, batch_size=40, num_samples=2000,
        log_prior=log_prior))(linear.EXACT, X, key)
    expected = linear.exact_kl(X).sum(1).mean()
    assert abs(parts.kl.mean - expected) < 4 * 2 / np.sqrt(2000 * len(X))


def test_activity_is_the_variance_of_numpy_and_thresholds_make_a_curve():
    mean, _ = encode_all(linear.EXACT, X, encode=linear.encode, batch_size=9)
    np.testing.assert_allclose(mean, linear.encode(linear.EXACT, X)[0], rtol=1e-12)
    np.testing.assert_allclose(activity(mean), np.var(mean, axis=0), rtol=1e-12)
    assert active_units(mean) == 2  # the third column of W is zero
    thresholds = np.array([0., 1e-6, 0.01, 10.])
    np.testing.assert_array_equal(active_units(mean, thresholds), [
        np.sum(np.var(mean, axis=0) > t) for t in thresholds])


def test_information_is_that_of_the_gaussian_channel(key):
    """With enough data: each z has hundreds of neighbours."""
    x = linear.draw(3000)
    mean, logvar = linear.encode(linear.EXACT, x)
    got = jax.jit(partial(mutual_information, batch_size=500, num_samples=4))(
        mean, logvar, key)
    assert abs(got.mean - linear.exact_information()) < 3 * got.error
    assert got.error < 0.03


def test_information_is_the_definition_written_out(key):
    mean, logvar = map(np.asarray, linear.encode(linear.POOR, X))
    got = jax.jit(partial(mutual_information, batch_size=16, num_samples=2))(
        mean, logvar, key)
    keys = jax.random.split(key, len(X))
    noise = np.stack([jax.random.normal(k, (2, 3)) for k in keys])
    z = mean[:, None] + np.exp(logvar / 2)[:, None] * noise
    log_q = stats.norm.logpdf(z, mean[:, None], np.exp(logvar / 2)[:, None]).sum(-1)
    each = stats.norm.logpdf(z[:, :, None], mean, np.exp(logvar / 2)).sum(-1)
    values = (log_q - np.log(np.exp(each).mean(-1))).mean(1)
    np.testing.assert_allclose(got, (values.mean(), stats.sem(values)), rtol=1e-9)


def test_information_is_capped_at_the_logarithm_of_all_examples(key):
    """Not of a batch: eight at a time, thirty-two examples that are all told apart."""
    mean = 100. * jnp.arange(32.)[:, None]
    got = jax.jit(partial(mutual_information, batch_size=8))(
        mean, jnp.zeros((32, 1)), key)
    np.testing.assert_allclose(got.mean, np.log(32), rtol=1e-9)
    nothing = jax.jit(partial(mutual_information, batch_size=8))(
        jnp.zeros((32, 2)), jnp.zeros((32, 2)), key)
    np.testing.assert_allclose(nothing, 0, atol=1e-12)


def test_bits_are_nats_over_log_two():
    assert bits_per_dimension(np.log(2) * 784, 784) == 1


def test_nll_of_each_example_and_any_log_weight(key):
    """With q = p(z) the weights are the likelihoods: E exp(-nll) = p(x)."""
    def log_weight(params, x, key):
        z = jax.random.normal(key, (1, 3))
        return linear.MODEL['log_likelihood'](linear.decode(params, z), x)

    sizes = {'num_samples': 30, 'chunk_size': 8}
    run = jax.jit(jax.vmap(lambda k: importance_nll(
        (), X[:2], k, log_weight=log_weight, batch_size=1, **sizes)))
    ratio = np.exp(linear.exact_nll(X[:2]) - np.asarray(run(
        jax.random.split(key, 2000))))
    assert np.all(abs(ratio.mean(0) - 1) < 4 * stats.sem(ratio))


def test_progress_is_reported_from_within_the_program(key):
    seen = []
    double = jax.jit(lambda x: map_examples(
        lambda row: 2 * row, x, 3, lambda *numbers: seen.append(numbers)))
    np.testing.assert_array_equal(double(jnp.arange(7.)), 2 * np.arange(7))
    jax.effects_barrier()
    assert sorted(seen) == [(3, 7), (6, 7), (7, 7)]


@pytest.mark.parametrize('examples, size, message', [
    (np.zeros((0, 2)), 3, 'no example'), (X, 0, 'batch_size 0: give whole numbers')])
def test_nothing_to_map_is_refused(examples, size, message):
    with pytest.raises(ValueError, match=message):
        map_examples(lambda x: x, examples, size)
