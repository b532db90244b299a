"""From a vector to an image, by convolutions that double the sides.

    Dense -> [h, w, channels[0]], LeakyReLU
    -> (3x3 convolution to 4 F channels, LeakyReLU, pixels shuffled: [2 h, 2 w, F])

for each further number F of channels, and at last for those of the image, without
LeakyReLU. The convolution is on the small image, a quarter of the work of one on the
large. Sides that are no multiples are cut.

Source   Shi et al. 2016 (arXiv:1609.05158) section 3.2.
"""

import math
from collections.abc import Sequence

import jax
from flax import linen as nn

from cdgm.models.convolution import Conv


class Upsampling(nn.Module):
    """Vectors to images, float[B, D] -> float[B, H, W, C], without a last activation.

    Attributes:
      image_shape: (H, W, C).
      channels: from the smallest image on; the sides double as often as there are.
    """

    image_shape: tuple[int, int, int]
    channels: tuple[int, ...]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        height, width, depth = self.image_shape
        steps = len(self.channels)
        sides = [(-(-height >> at), -(-width >> at)) for at in range(steps, -1, -1)]
        start = *sides[0], self.channels[0]
        x = nn.leaky_relu(nn.Dense(math.prod(start))(x)).reshape(-1, *start)
        for (rows, columns), features in zip(sides[1:], (*self.channels[1:], depth)):
            x = shuffle_pixels(Conv(4 * features)(x))[:, :rows, :columns]
            if (rows, columns) != (height, width):
                x = nn.leaky_relu(x)
        return x


def shuffle_pixels(x: jax.Array) -> jax.Array:
    """Make of four channels four pixels, [B, H, W, 4 F] -> [B, 2 H, 2 W, F].

    >>> import jax.numpy as jnp
    >>> shuffle_pixels(jnp.arange(4).reshape(1, 1, 1, 4))[0, ..., 0].tolist()
    [[0, 1], [2, 3]]
    """
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height, width, 2, 2, channels // 4)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, 2 * height, 2 * width, -1)


def sizes(image_shape: Sequence[int]) -> tuple[int, int, int]:
    """Return (H, W, C), or raise a ValueError."""
    if len(image_shape) != 3:
        raise ValueError(f'image_shape is {tuple(image_shape)}; give (height, width, '
                         'channels).')
    height, width, depth = image_shape
    return height, width, depth
