"""A convolution that is fast inside `lax.scan` on the CPU as well.

    y[b, i, j, f] = bias[f] + sum_{u, v, c} x[b, s i + u - p, s j + v - p, c]
                                            kernel[u, v, c, f]

XLA runs a plain convolution inside a loop on the CPU by a naive kernel, some twenty
times slower than outside. There it is instead the strided slices of the image, one for
each (u, v), concatenated, and one matrix product, whose gradient is made of the same.
On other devices it is the plain convolution. The program is chosen as it is lowered, so
that the compiled one holds no conditional.

Shapes   x float32[B, H, W, C], kernel float32[K, K, C, F], padding SAME, stride s,
         y float32[B, ceil(H / s), ceil(W / s), F].
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jax import lax


class Conv(nn.Module):
    """A two-dimensional convolution with SAME padding and a bias.

    Parameters ('kernel', 'bias'), initialisers and result are those of
    `flax.linen.Conv`, which may take its place.

    Attributes:
      features: F.
      kernel_size: height and width of the kernel.
      strides: s, for both axes.
    """

    features: int
    kernel_size: tuple[int, int] = (3, 3)
    strides: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (*self.kernel_size, x.shape[-1], self.features)
        kernel = self.param(
            'kernel', nn.initializers.lecun_normal(), shape, jnp.float32)
        bias = self.param(
            'bias', nn.initializers.zeros_init(), (self.features,), jnp.float32)
        x, kernel, bias = promote_dtype(x, kernel, bias)
        return convolve(x, kernel, self.strides) + bias.reshape(1, 1, 1, -1)


def convolve(x: jax.Array, kernel: jax.Array, strides: int = 1) -> jax.Array:
    """Convolve with SAME padding, by the program that suits the platform.

    Args:
      x: float32[B, H, W, C].
      kernel: float32[K, K, C, F].
      strides: s, for both axes.

    Returns:
      float32[B, ceil(H / s), ceil(W / s), F].
    """
    return lax.platform_dependent(
        x, kernel, cpu=partial(_patches_product, strides=strides),
        default=partial(plain, strides=strides))


def plain(x: jax.Array, kernel: jax.Array, strides: int = 1) -> jax.Array:
    """Convolve as XLA does; arguments and result are those of `convolve`."""
    return lax.conv_general_dilated(
        x, kernel, (strides, strides), 'SAME',
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'))


def _patches_product(x, kernel, *, strides):
    patches = patches_of(x, kernel.shape[:2], strides)
    return patches @ kernel.reshape(-1, kernel.shape[-1])


def patches_of(x: jax.Array, size: tuple[int, int], strides: int = 1) -> jax.Array:
    """What each place of a convolution with SAME padding sees.

    Args:
      x: float32[B, H, W, C].
      size: (K, K), of the kernel.
      strides: s, for both axes.

    Returns:
      float32[B, ceil(H / s), ceil(W / s), K K C], in the order of the kernel's first
      three axes.
    """
    rows, columns = size
    pads = lax.padtype_to_pads(x.shape[1:3], size, (strides, strides), 'SAME')
    padded = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    height, width = (-(-side // strides) for side in x.shape[1:3])
    return jnp.concatenate([
        padded[:, u:u + (height - 1) * strides + 1:strides,
               v:v + (width - 1) * strides + 1:strides]
        for u in range(rows) for v in range(columns)], axis=-1)
