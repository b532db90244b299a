"""Binarisation is the Bernoulli law of the intensity, anew with every key."""

import jax
import jax.numpy as jnp
import numpy as np

from cdgm.data import binarize


def test_mean_is_the_intensity(key):
    draws = 4096
    intensity = jnp.linspace(0, 1, 11, dtype=jnp.float32)
    images = jnp.broadcast_to(intensity, (draws, 11))
    bits = jax.jit(binarize)(images, key)
    assert bits.dtype == jnp.float32 and bits.shape == images.shape
    assert set(np.unique(bits)) == {0, 1}
    stderr = np.sqrt(intensity * (1 - intensity) / draws)
    error = np.abs(np.asarray(bits).mean(0, dtype=np.float64) - intensity)
    # At intensity 0 and 1 the standard error is nought: those bits must be exact.
    assert (error <= 4 * stderr).all()


def test_the_key_decides(key):
    images = np.full((8, 8), 0.5, np.float32)
    first = binarize(images, key)
    np.testing.assert_array_equal(first, binarize(images, key))
    assert (first != binarize(images, jax.random.fold_in(key, 1))).any()
