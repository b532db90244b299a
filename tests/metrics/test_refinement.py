from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdgm.metrics import Refinement, amortisation_gap, rate_distortion
from tests.metrics import linear

X = linear.draw(6)
how = Refinement(steps=300, learning_rate=0.1, num_samples=16, final_samples=4000)


@pytest.mark.thorough
def test_the_gap_is_the_divergence_from_the_posterior(key):
    run = jax.jit(partial(amortisation_gap, **linear.MODEL, batch_size=3,
                          refinement=how))
    expected = linear.exact_gap(linear.POOR)
    np.testing.assert_allclose(run(linear.POOR, X, key).mean, expected, rtol=0.05)
    # At the exact posterior nothing is owed, and descent finds nothing.
    assert abs(run(linear.EXACT, X, key).mean) < 0.02 < expected / 10


def test_the_curve_is_the_closed_form(key):
    """The best q for beta has precision l / (beta s^2) + 1, mean W'x / (l + beta s^2).

    From there D and R are written out.
    """
    betas = np.array([0.5, 3.])
    got = jax.jit(partial(rate_distortion, **linear.MODEL, batch_size=6,
                          refinement=how))(linear.POOR, X, key, betas)
    for index, beta in enumerate(betas):
        noise = beta * linear.SIGMA ** 2
        mean = X @ linear.W / (linear.LENGTHS + noise)
        variance = noise / (linear.LENGTHS + noise)
        rate = (mean ** 2 + variance - 1 - np.log(variance)).sum(1).mean() / 2
        error = np.sum((X - mean @ linear.W.T) ** 2, axis=1).mean()
        spread = np.sum(variance * linear.LENGTHS)
        distortion = (error + spread) / (2 * linear.SIGMA ** 2) + 6 * np.log(
            linear.SIGMA * np.sqrt(2 * np.pi))
        np.testing.assert_allclose(got.rate.mean[index], rate, rtol=0.03)
        np.testing.assert_allclose(got.distortion.mean[index], distortion, rtol=0.03)
    assert got.rate.mean[0] > got.rate.mean[1]
    # The encoder's own price is a line in beta, whose slope is its KL.
    prices = got.gap.mean + got.distortion.mean + betas * got.rate.mean
    np.testing.assert_allclose((prices[1] - prices[0]) / (betas[1] - betas[0]),
                               linear.exact_kl(X, linear.POOR).sum(1).mean(), rtol=1e-9)


def test_no_steps_are_refused(key):
    with pytest.raises(ValueError, match='steps 0'):
        amortisation_gap(linear.POOR, jnp.asarray(X), key, **linear.MODEL, batch_size=3,
                         refinement=Refinement(steps=0))
