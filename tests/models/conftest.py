"""Parameters that need no compilation, as drawing each shape in JAX does."""

import jax
import numpy as np
import pytest


@pytest.fixture
def fill(key):
    """init -> parameters of its structure and shapes, float64 and standard normal."""
    rng = np.random.default_rng(20)

    def fill(init):
        return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape),
                            jax.eval_shape(init, key))
    return fill
