import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import pdist

from cdgm.metrics import median_bandwidth, mmd2

RNG = np.random.default_rng(20)
X, Y = RNG.normal(size=(6, 3)), RNG.normal(size=(4, 3)) + 0.5


def double_loop(x, y, sigma):
    def k(a, b):
        return np.exp(-np.sum((a - b) ** 2) / (2 * sigma ** 2))

    def within(z):
        pairs = [(i, j) for i in range(len(z)) for j in range(len(z)) if i != j]
        return np.mean([k(z[i], z[j]) for i, j in pairs])

    return within(x) + within(y) - 2 * np.mean([k(a, b) for a in x for b in y])


def test_is_the_double_loop():
    np.testing.assert_allclose(
        jax.jit(mmd2)(X, Y, 0.7), double_loop(X, Y, 0.7), rtol=1e-12)


def test_several_bandwidths_are_averaged():
    sigmas = [0.3, 1., 5.]
    expected = np.mean([double_loop(X, Y, sigma) for sigma in sigmas])
    np.testing.assert_allclose(
        jax.jit(mmd2)(X, Y, jnp.array(sigmas)), expected, rtol=1e-12)


def test_has_no_bias_when_the_distributions_are_equal():
    x, y = RNG.normal(size=(2, 500, 10, 2))
    values = np.asarray(jax.jit(jax.vmap(lambda a, b: mmd2(a, b, 1.)))(x, y))
    assert abs(values.mean()) < 4 * stats.sem(values)
    assert values.min() < 0 < values.max()


def test_grows_with_the_shift():
    function = jax.jit(mmd2)
    values = [function(X, X + shift, 1.) for shift in (0.5, 1., 2.)]
    assert values == sorted(values)


def test_float32_keeps_its_digits_far_from_the_origin():
    far = [(a + 1000).astype('float32') for a in (X, Y)]
    np.testing.assert_allclose(
        jax.jit(mmd2)(*far, 0.7), double_loop(*(a.astype('float64') for a in far), 0.7),
        rtol=1e-4)


def test_the_median_is_that_of_scipy():
    np.testing.assert_allclose(
        jax.jit(median_bandwidth)(X, Y), np.median(pdist(np.concatenate([X, Y]))))


@pytest.mark.parametrize('x, y, message', [
    (X, Y[:, :2], 'equal width'), (X[0], Y, 'equal width'), (X[:1], Y, 'at least two')])
def test_refuses_what_is_not_two_samples(x, y, message):
    for function in (lambda x, y: mmd2(x, y, 1.), median_bandwidth):
        with pytest.raises(ValueError, match=message):
            function(x, y)
