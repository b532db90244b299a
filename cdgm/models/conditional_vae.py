"""A variational autoencoder that may be told the class, of perceptrons or convolutions.

    encoder   x -> (3x3 convolution of stride 2, LeakyReLU) for each number of channels
              -> flatten, class -> (Dense, LeakyReLU) for each width -> mean, logvar
    decoder   z, class -> (Dense, LeakyReLU) for each width, mirrored -> Dense
              -> (3x3 convolution to four times the channels, pixels shuffled to twice
              the sides) for each number of channels, mirrored -> means

Without channels both are perceptrons. A class is a one-hot vector beside the input.

Shapes   B batch, image_shape (H, W, C), Z latent_size, labels int32[B].
Units    means of pixels, or logits if the likelihood takes them for logits.
Sources  Kingma & Welling 2014 (arXiv:1312.6114); classes: Sohn et al. 2015 (NeurIPS);
         shuffled pixels: Shi et al. 2016 (arXiv:1609.05158) section 3.2.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from cdgm.models.convolution import Conv
from cdgm.models.upsampling import Upsampling, sizes


class ConditionalVAE(NamedTuple):
    """A variational autoencoder as pure functions of all its parameters.

    Attributes:
      init: key -> {'encoder': ..., 'decoder': ...}, dicts of float32 arrays.
      encode: (params, float32[B, *image_shape], labels) -> (mean, logvar), float32[B,
        Z] each. Without classes the labels are ignored, and may be None.
      decode: (params, float32[B, Z], labels) -> means, float32[B, *image_shape].
      latent_size: Z.
      num_classes: 0 where it is told none.
    """

    init: Callable[[jax.Array], dict[str, Any]]
    encode: Callable[[Any, jax.Array, Any], tuple[jax.Array, jax.Array]]
    decode: Callable[[Any, jax.Array, Any], jax.Array]
    latent_size: int
    num_classes: int


class Encoder(nn.Module):
    """Images and classes to the mean and log variance of the latent."""

    latent_size: int
    num_classes: int
    hidden: tuple[int, ...]
    channels: tuple[int, ...]

    @nn.compact
    def __call__(self, x, labels):
        for channels in self.channels:
            x = nn.leaky_relu(Conv(channels, strides=2)(x))
        x = beside(x.reshape(x.shape[0], -1), labels, self.num_classes)
        for width in self.hidden:
            x = nn.leaky_relu(nn.Dense(width)(x))
        return (nn.Dense(self.latent_size, name='mean')(x),
                nn.Dense(self.latent_size, name='logvar')(x))


class Decoder(nn.Module):
    """Latents and classes to the means of an image."""

    image_shape: tuple[int, int, int]
    num_classes: int
    hidden: tuple[int, ...]
    channels: tuple[int, ...]

    @nn.compact
    def __call__(self, z, labels):
        z = beside(z, labels, self.num_classes)
        for width in self.hidden:
            z = nn.leaky_relu(nn.Dense(width)(z))
        if self.channels:
            return Upsampling(self.image_shape, self.channels)(z)
        means = nn.Dense(math.prod(self.image_shape), name='means')(z)
        return means.reshape(-1, *self.image_shape)


def beside(x: jax.Array, labels, num_classes: int) -> jax.Array:
    """Put the class beside the input, float[B, D] -> float[B, D + num_classes].

    >>> beside(jnp.zeros((2, 1)), jnp.array([1, 0]), 2).tolist()
    [[0.0, 0.0, 1.0], [0.0, 1.0, 0.0]]
    """
    if not num_classes:
        return x
    return jnp.concatenate([x, jax.nn.one_hot(labels, num_classes, dtype=x.dtype)], 1)


def conditional_vae(image_shape: Sequence[int], num_classes: int = 0,
                    latent_size: int = 16, hidden: Sequence[int] = (512,),
                    channels: Sequence[int] = ()) -> ConditionalVAE:
    """Build a variational autoencoder.

    Args:
      image_shape: (H, W, C) of one image; any size.
      num_classes: classes that it is told; 0 for none.
      latent_size: Z.
      hidden: widths of the encoder's hidden layers; the decoder's are these reversed.
      channels: of the encoder's convolutions, each of which halves the image's sides;
        the decoder's are these reversed. Without, there are only hidden layers.

    Raises:
      ValueError: image_shape is not (H, W, C).

    >>> model = conditional_vae((8, 8, 1), 3, latent_size=2, hidden=(4,), channels=(2,))
    >>> params = jax.eval_shape(model.init, jax.random.key(0))
    >>> labels = jnp.zeros(5, jnp.int32)
    >>> images = jax.eval_shape(model.decode, params, jnp.zeros((5, 2)), labels)
    >>> mean, logvar = jax.eval_shape(model.encode, params, images, labels)
    >>> images.shape, mean.shape
    ((5, 8, 8, 1), (5, 2))
    """
    height, width, depth = sizes(image_shape)
    encoder = Encoder(latent_size, num_classes, tuple(hidden), tuple(channels))
    decoder = Decoder((height, width, depth), num_classes, tuple(hidden)[::-1],
                      tuple(channels)[::-1])

    def init(key):
        encoder_key, decoder_key = jax.random.split(key)
        image = jnp.zeros((1, height, width, depth), jnp.float32)
        latent = jnp.zeros((1, latent_size), jnp.float32)
        label = jnp.zeros(1, jnp.int32)
        return {'encoder': encoder.init(encoder_key, image, label)['params'],
                'decoder': decoder.init(decoder_key, latent, label)['params']}

    def encode(params, x, labels):
        return encoder.apply({'params': params['encoder']}, x, labels)

    def decode(params, latent, labels):
        return decoder.apply({'params': params['decoder']}, latent, labels)

    return ConditionalVAE(init, encode, decode, latent_size, num_classes)
