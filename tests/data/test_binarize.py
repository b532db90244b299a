"""Binarisation is the Bernoulli law of the intensity, anew with every key."""

import jax
import jax.numpy as jnp
import numpy as np

from cdgm.data import binarize


def test_bernoulli(key):
    draws = 4096
    intensity = np.linspace(0, 1, 11, dtype=np.float32)
    images = np.tile(intensity, (draws, 1))
    draw = jax.jit(binarize)
    bits = draw(images, key)
    assert bits.dtype == jnp.float32 and bits.shape == images.shape
    assert set(np.unique(bits)) == {0, 1}
    stderr = np.sqrt(intensity * (1 - intensity) / draws)
    error = np.abs(np.asarray(bits).mean(0, dtype=np.float64) - intensity)
    # At intensity 0 and 1 the standard error is nought: those bits must be exact.
    assert (error <= 4 * stderr).all()

    np.testing.assert_array_equal(bits, draw(images, key))
    other = draw(images, jax.random.fold_in(key, 1))
    assert (np.asarray(bits) != np.asarray(other)).any()
