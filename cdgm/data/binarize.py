"""Draw black and white images from grey ones, anew at every call.

  x[i] ~ Bernoulli(intensity[i]), independently for each pixel.

Source: Burda, Grosse and Salakhutdinov 2016, arXiv:1509.00519, who draw MNIST anew each
time that an image is visited; `binarized_mnist` is one such draw, kept.
"""

import jax
import jax.numpy as jnp


def binarize(images: jax.typing.ArrayLike, key: jax.Array) -> jax.Array:
    """Draw each pixel from the Bernoulli law of its intensity.

    Args:
      images: float32[...], intensities in [0, 1]; 0 and 1 stay as they are.
      key: a typed key; the same key draws the same bits.

    Returns:
      float32[...], zeros and ones.

    >>> binarize(jnp.array([0.0, 1.0], jnp.float32), jax.random.key(0))
    Array([0., 1.], dtype=float32)
    """
    return jax.random.bernoulli(key, images).astype(jnp.float32)
