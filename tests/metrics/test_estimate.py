import jax.numpy as jnp
import numpy as np
from scipy import stats

from cdgm.metrics import mean_and_error


def test_is_the_standard_error_of_scipy():
    values = np.random.default_rng(0).normal(size=(9, 2))
    mean, error = mean_and_error(values)
    np.testing.assert_allclose(mean, values.mean(axis=0))
    np.testing.assert_allclose(error, stats.sem(values))


def test_one_value_has_no_error():
    mean, error = mean_and_error(jnp.ones(1))
    assert mean == 1 and jnp.isnan(error)
