"""The reference generative adversarial network, without normalisation layers.

    generator       z -> (Dense, LeakyReLU) for each width -> Dense -> sigmoid -> image
    discriminator   x -> (3x3 convolution of stride 2, LeakyReLU) for each number of
                    channels -> flatten -> Dense -> logit

Shapes   B batch, image_shape (H, W) or (H, W, C), Z latent_size. The discriminator may
         be shown several images at once, beside each other as channels.
Units    images in [0, 1], as the data are; logits are log odds of being real.
Sources  Goodfellow et al. 2014 (arXiv:1406.2661); strides and slope 0.2: Radford et al.
         2016 (arXiv:1511.06434) section 3.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from cdgm.models.convolution import Conv

_leaky_relu = partial(nn.leaky_relu, negative_slope=0.2)


class GAN(NamedTuple):
    """A generative adversarial network as pure functions of all its parameters.

    Attributes:
      init: key -> {'discriminator': ..., 'generator': ...}, dicts of float32 arrays.
      generate: (params, float32[B, Z]) -> images, float32[B, *image_shape] in [0, 1].
      discriminate: (params, float32[B, *image_shape]) -> logits, float32[B].
      latent_size: Z.
    """

    init: Callable[[jax.Array], dict[str, Any]]
    generate: Callable[[Any, jax.Array], jax.Array]
    discriminate: Callable[[Any, jax.Array], jax.Array]
    latent_size: int


class Generator(nn.Module):
    """Latents to images in [0, 1]."""

    image_shape: tuple[int, ...]
    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, z):
        for width in self.widths:
            z = _leaky_relu(nn.Dense(width)(z))
        z = nn.Dense(math.prod(self.image_shape))(z)
        return nn.sigmoid(z).reshape(-1, *self.image_shape)


class Discriminator(nn.Module):
    """Images to logits."""

    channels: tuple[int, ...]

    @nn.compact
    def __call__(self, x):
        x = x.reshape(*x.shape[:3], -1)  # (H, W) images have one channel
        for channels in self.channels:
            x = _leaky_relu(Conv(channels, strides=2)(x))
        return nn.Dense(1)(x.reshape(x.shape[0], -1)).squeeze(-1)


def gan(image_shape: Sequence[int], latent_size: int = 100,
        generator_widths: Sequence[int] = (128, 256, 512, 1024),
        discriminator_channels: Sequence[int] = (64, 128, 128), packing: int = 1
        ) -> GAN:
    """Build a generative adversarial network.

    Args:
      image_shape: (H, W) or (H, W, C) of one image; any size.
      latent_size: Z.
      generator_widths: of the generator's hidden layers.
      discriminator_channels: of its convolutions; each halves the image's sides.
      packing: images that the discriminator is shown at once; of more than one
        image_shape is (H, W, C), and it reads packing * C channels.

    Raises:
      ValueError: image_shape is not that of an image, or has no channels to pack.

    >>> model = gan((8, 8), latent_size=2, generator_widths=(4,))
    >>> params = jax.eval_shape(model.init, jax.random.key(0))
    >>> images = jax.eval_shape(model.generate, params, jnp.zeros((5, 2)))
    >>> images.shape, jax.eval_shape(model.discriminate, params, images).shape
    ((5, 8, 8), (5,))
    """
    image_shape = tuple(image_shape)
    if len(image_shape) not in (2, 3):
        raise ValueError(f'image_shape is {image_shape}; give (height, width) or '
                         '(height, width, channels).')
    if packing > 1 and len(image_shape) == 2:
        raise ValueError(f'image_shape is {image_shape}, and images are packed as '
                         'channels; give (height, width, channels).')
    generator = Generator(image_shape, tuple(generator_widths))
    discriminator = Discriminator(tuple(discriminator_channels))

    def init(key):
        discriminator_key, generator_key = jax.random.split(key)
        shown = (*image_shape[:2], *(packing * size for size in image_shape[2:]))
        image = jnp.zeros((1, *shown), jnp.float32)
        latent = jnp.zeros((1, latent_size), jnp.float32)
        return {'discriminator': discriminator.init(discriminator_key, image)['params'],
                'generator': generator.init(generator_key, latent)['params']}

    def generate(params, latent):
        return generator.apply({'params': params['generator']}, latent)

    def discriminate(params, images):
        return discriminator.apply({'params': params['discriminator']}, images)

    return GAN(init, generate, discriminate, latent_size)
