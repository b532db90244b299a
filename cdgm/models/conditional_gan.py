"""A generative adversarial network that may be told the class.

    generator       z, class -> (Dense, LeakyReLU) for each width -> Dense -> sigmoid,
                    or, with channels, `Upsampling` -> sigmoid
    discriminator   x -> (3x3 convolution of stride 2, LeakyReLU) for each number of
                    channels -> flatten -> Dense, LeakyReLU: h
                    -> v' h + b + e_class' h                         (projection)

The hidden layer h is needed: without classes, a linear layer on the convolutions cannot
tell well enough.

Shapes   B batch, image_shape (H, W, C), Z latent_size, labels int32[B].
Units    images in [0, 1]; logits are log odds of being real.
Sources  Radford et al. 2016 (arXiv:1511.06434) section 3; Miyato & Koyama 2018
         (arXiv:1802.05637) eq. 4 (projection).
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from cdgm.models.conditional_vae import beside
from cdgm.models.convolution import Conv
from cdgm.models.upsampling import Upsampling, sizes

_leaky_relu = partial(nn.leaky_relu, negative_slope=0.2)


class ConditionalGAN(NamedTuple):
    """A generative adversarial network as pure functions of all its parameters.

    Attributes:
      init: key -> {'discriminator': ..., 'generator': ...}, dicts of float32 arrays.
      generate: (params, float32[B, Z], labels) -> images, float32[B, *image_shape] in
        [0, 1]. Without classes the labels are ignored, and may be left out.
      discriminate: (params, float32[B / m, H, W, m C], labels) -> logits,
        float32[B / m], of m images beside each other as channels.
      latent_size: Z.
      num_classes: 0 where it is told none.
    """

    init: Callable[[jax.Array], dict[str, Any]]
    generate: Callable[[Any, jax.Array, Any], jax.Array]
    discriminate: Callable[[Any, jax.Array, Any], jax.Array]
    latent_size: int
    num_classes: int


class Generator(nn.Module):
    """Latents and classes to images in [0, 1]."""

    image_shape: tuple[int, int, int]
    num_classes: int
    widths: tuple[int, ...]
    channels: tuple[int, ...]

    @nn.compact
    def __call__(self, z, labels):
        z = beside(z, labels, self.num_classes)
        for width in self.widths:
            z = _leaky_relu(nn.Dense(width)(z))
        if self.channels:
            return nn.sigmoid(Upsampling(self.image_shape, self.channels)(z))
        z = nn.Dense(math.prod(self.image_shape))(z)
        return nn.sigmoid(z).reshape(-1, *self.image_shape)


class Discriminator(nn.Module):
    """Images and classes to logits."""

    num_classes: int
    channels: tuple[int, ...]
    head: int

    @nn.compact
    def __call__(self, x, labels):
        for channels in self.channels:
            x = _leaky_relu(Conv(channels, strides=2)(x))
        h = _leaky_relu(nn.Dense(self.head)(x.reshape(x.shape[0], -1)))
        logits = nn.Dense(1)(h).squeeze(-1)
        if self.num_classes:
            one_hot = jax.nn.one_hot(labels, self.num_classes, dtype=h.dtype)
            class_vector = nn.Dense(self.head, use_bias=False, name='classes')(one_hot)
            logits = logits + jnp.sum(class_vector * h, axis=-1)
        return logits


def conditional_gan(image_shape: Sequence[int], num_classes: int = 0,
                    latent_size: int = 64, widths: Sequence[int] = (128, 256, 512),
                    generator_channels: Sequence[int] = (),
                    channels: Sequence[int] = (16, 32, 64), head: int = 64,
                    packing: int = 1) -> ConditionalGAN:
    """Build a generative adversarial network.

    Args:
      image_shape: (H, W, C) of one image; any size.
      num_classes: classes that both players are told; 0 for none.
      latent_size: Z.
      widths: of the generator's hidden layers.
      generator_channels: of its convolutions, from the smallest image on; each doubles
        the sides. Without, it is a perceptron.
      channels: of the discriminator's convolutions; each halves the image's sides.
      head: width of the discriminator's hidden layer.
      packing: m, images that the discriminator is shown at once (Lin et al. 2018,
        arXiv:1712.04086); of one without classes, as a pack has no one class.

    Raises:
      ValueError: image_shape is not (H, W, C), or packs are to be told a class.

    >>> model = conditional_gan((8, 8, 1), 3, latent_size=2, widths=(4,), channels=(2,))
    >>> params = jax.eval_shape(model.init, jax.random.key(0))
    >>> labels = jnp.zeros(5, jnp.int32)
    >>> images = jax.eval_shape(model.generate, params, jnp.zeros((5, 2)), labels)
    >>> images.shape, jax.eval_shape(model.discriminate, params, images, labels).shape
    ((5, 8, 8, 1), (5,))
    """
    shape = sizes(image_shape)
    if packing > 1 and num_classes:
        raise ValueError(f'packing is {packing} and num_classes {num_classes}, and a '
                         'pack has no one class; give one of them.')
    generator = Generator(shape, num_classes, tuple(widths), tuple(generator_channels))
    discriminator = Discriminator(num_classes, tuple(channels), head)

    def init(key):
        discriminator_key, generator_key = jax.random.split(key)
        image = jnp.zeros((1, *shape[:2], packing * shape[2]), jnp.float32)
        latent = jnp.zeros((1, latent_size), jnp.float32)
        label = jnp.zeros(1, jnp.int32)
        return {'discriminator': discriminator.init(
                    discriminator_key, image, label)['params'],
                'generator': generator.init(generator_key, latent, label)['params']}

    def generate(params, latent, labels=None):
        return generator.apply({'params': params['generator']}, latent, labels)

    def discriminate(params, images, labels=None):
        return discriminator.apply(
            {'params': params['discriminator']}, images, labels)

    return ConditionalGAN(init, generate, discriminate, latent_size, num_classes)
