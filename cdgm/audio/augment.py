"""Log-mel images varied as recordings vary: earlier or later, louder, with a hiss.

For a classifier that is to judge sounds by what is said, not by where it begins.
"""

import jax
import jax.numpy as jnp

_SHIFT = 4  # frames either way
_GAIN = 0.1  # of the range of decibels, either way
_NOISE = 0.02


def augment(images: jax.Array, key: jax.Array) -> jax.Array:
    """Vary each image by itself: shifted in time, what is not black louder, noisier.

    Args:
      images: float32[B, M, F, 1] in [0, 1].
      key: PRNG key.

    Returns:
      float32[B, M, F, 1] in [0, 1]; what is shifted out is lost, and black follows.
    """
    def one(image, key):
        shifting, louder, noise = jax.random.split(key, 3)
        wide = jnp.pad(image, ((0, 0), (_SHIFT, _SHIFT), (0, 0)))
        start = jax.random.randint(shifting, (), 0, 2 * _SHIFT + 1)
        image = jax.lax.dynamic_slice_in_dim(wide, start, image.shape[1], axis=1)
        gain = jax.random.uniform(louder, (), image.dtype, -_GAIN, _GAIN)
        image = jnp.where(image > 0, image + gain, 0)
        return image + _NOISE * jax.random.normal(noise, image.shape, image.dtype)

    return jnp.clip(jax.vmap(one)(images, jax.random.split(key, len(images))), 0, 1)
