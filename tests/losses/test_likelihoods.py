import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from cdgm.losses import (
    LIKELIHOODS, categorical_log_likelihood, check_support, gaussian_log_likelihood,
    learned_gaussian_log_likelihood, logistic_log_likelihood)

RNG = np.random.default_rng(20)
MEAN = RNG.uniform(size=(3, 4, 2))


@pytest.mark.parametrize('log_sigma', [-0.7, RNG.normal(size=(1, 4, 2))])
def test_a_learned_sigma_is_the_density_of_scipy(log_sigma):
    x = RNG.normal(size=MEAN.shape)
    log_sigma = jnp.asarray(log_sigma)
    got = jax.jit(learned_gaussian_log_likelihood)((MEAN, log_sigma), x)
    np.testing.assert_allclose(
        got, stats.norm.logpdf(x, MEAN, np.exp(log_sigma)).sum(axis=(1, 2)), rtol=1e-12)
    np.testing.assert_allclose(
        got, gaussian_log_likelihood(MEAN, x, jnp.exp(log_sigma)), rtol=1e-12)


def test_the_best_sigma_is_the_root_mean_square_error():
    """Where the slope of the log likelihood in log sigma vanishes."""
    x = RNG.normal(size=MEAN.shape)
    best = jnp.log(np.sqrt(np.mean((x - MEAN) ** 2)))
    slope = jax.grad(lambda s: learned_gaussian_log_likelihood((MEAN, s), x).sum())(
        best)
    assert abs(slope) < 1e-9 * x.size


def test_logistic_is_the_difference_of_distributions_of_scipy():
    levels, scale = 16, 0.13
    x = RNG.integers(levels, size=MEAN.shape) / (levels - 1)
    half = 0.5 / (levels - 1)
    upper = np.where(x == 1, np.inf, x + half)
    lower = np.where(x == 0, -np.inf, x - half)
    law = stats.logistic(MEAN, scale)
    expected = np.log(law.cdf(upper) - law.cdf(lower)).sum(axis=(1, 2))
    got = jax.jit(logistic_log_likelihood, static_argnames='levels')(
        (MEAN, jnp.log(scale)), x, levels=levels)
    np.testing.assert_allclose(got, expected, rtol=1e-9)


@pytest.mark.parametrize('log_scale', [-6., 0., 3.])
@pytest.mark.sample(1)
def test_logistic_sums_to_one_over_the_levels(log_scale):
    x = jnp.arange(256)[:, None] / 255
    for mean in (-0.5, 0.303, 1.2):
        mass = jax.nn.logsumexp(logistic_log_likelihood(
            (jnp.full(x.shape, mean), jnp.array(log_scale)), x))
        np.testing.assert_allclose(mass, 0, atol=1e-9)


def test_logistic_is_finite_far_from_the_data():
    def slope(mean, x):
        return jax.value_and_grad(lambda m: logistic_log_likelihood(
            (m, jnp.float32(-7)), x).sum())(mean)

    mean = jnp.full((1, 1), 50, 'float32')
    for x in (0., 0.5019608, 1.):
        assert all(np.isfinite(np.asarray(slope(mean, jnp.full((1, 1), x, 'float32'))[
            index])).all() for index in (0, 1))


def test_categorical_is_the_mass_of_scipy_and_a_mask_leaves_out():
    logits = RNG.normal(size=(3, 5, 7))
    x = RNG.integers(7, size=(3, 5))
    mask = np.arange(5)[None] < np.array([[5], [2], [0]])
    mass = np.take_along_axis(special.log_softmax(logits, axis=-1), x[..., None], 2)
    np.testing.assert_allclose(categorical_log_likelihood(logits, x),
                               mass.sum(axis=(1, 2)), rtol=1e-12)
    np.testing.assert_allclose(categorical_log_likelihood(logits, x, mask),
                               (mass[..., 0] * mask).sum(axis=1), rtol=1e-12)


@pytest.mark.parametrize('name, good, bad', [
    ('bernoulli', [0, 0.5, 1], [1.5]), ('binary', [0, 1], [0.5]),
    ('gaussian', [-3., 7.], [np.nan]), ('logistic', [0, 3 / 255], [0.5]),
    ('categorical', [0, 12], [-1])])
def test_data_outside_the_support_are_refused(name, good, bad):
    check_support(name, np.array(good))
    with pytest.raises(ValueError, match=f'the {name} likelihood is of .* 1 of '):
        check_support(name, np.array([*good, *bad]))


def test_an_unknown_likelihood_is_refused():
    with pytest.raises(ValueError, match='unknown likelihood .poisson.; there are'):
        check_support('poisson', np.zeros(1))
    assert set(LIKELIHOODS) >= {'bernoulli', 'gaussian', 'logistic', 'categorical'}


@pytest.mark.parametrize('function', [
    learned_gaussian_log_likelihood, logistic_log_likelihood])
def test_shapes_that_would_broadcast_are_refused(function):
    with pytest.raises(ValueError, match='shapes differ'):
        function((jnp.ones((2, 1)), jnp.zeros(())), jnp.ones((2, 3)))
    with pytest.raises(ValueError, match='at least two'):
        logistic_log_likelihood((MEAN, jnp.zeros(())), MEAN, levels=1)
