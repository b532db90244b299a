"""A VAE-GAN: encoder, decoder, and a discriminator that lets its features be seen.

    encoder         x -> (3x3 convolution of stride 2, LeakyReLU) for each number of
                    channels -> flatten -> Dense, LeakyReLU -> mean, logvar
    decoder         z -> Dense, LeakyReLU -> `Upsampling` -> sigmoid -> image
    discriminator   x -> convolutions as the encoder's -> flatten -> Dense: features
                    -> LeakyReLU -> Dense -> logit

Shapes   B batch, image_shape (H, W, C), Z latent_size, F width.
Units    images in [0, 1]; logits are log odds of being real.
Source   Larsen et al. 2016 (arXiv:1512.09300) table 1; there with batch normalisation,
         and wider.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from cdgm.models.convolution import Conv
from cdgm.models.upsampling import Upsampling, sizes

_leaky_relu = partial(nn.leaky_relu, negative_slope=0.2)


class VAEGAN(NamedTuple):
    """A VAE-GAN as pure functions of all its parameters.

    Attributes:
      init: key -> {'decoder': ..., 'discriminator': ..., 'encoder': ...}, dicts of
        float32 arrays.
      encode: (params, float32[B, *image_shape]) -> (mean, logvar), float32[B, Z] each.
      decode: (params, float32[B, Z]) -> images, float32[B, *image_shape] in [0, 1].
      decode_logits: the same, of which `decode` is the sigmoid: what the Bernoulli
        likelihood of a VAE without a discriminator takes.
      discriminate: (params, images) -> (logits float32[B], features float32[B, F]).
      latent_size: Z.
    """

    init: Callable[[jax.Array], dict[str, Any]]
    encode: Callable[[Any, jax.Array], tuple[jax.Array, jax.Array]]
    decode: Callable[[Any, jax.Array], jax.Array]
    decode_logits: Callable[[Any, jax.Array], jax.Array]
    discriminate: Callable[[Any, jax.Array], tuple[jax.Array, jax.Array]]
    latent_size: int


class Features(nn.Module):
    """Images to a vector, float32[B, F]."""

    channels: tuple[int, ...]
    width: int

    @nn.compact
    def __call__(self, x):
        for channels in self.channels:
            x = _leaky_relu(Conv(channels, strides=2)(x))
        return nn.Dense(self.width)(x.reshape(x.shape[0], -1))


class Encoder(nn.Module):
    """Images to the mean and log variance of the latent."""

    latent_size: int
    channels: tuple[int, ...]
    width: int

    @nn.compact
    def __call__(self, x):
        x = _leaky_relu(Features(self.channels, self.width)(x))
        return (nn.Dense(self.latent_size, name='mean')(x),
                nn.Dense(self.latent_size, name='logvar')(x))


class Decoder(nn.Module):
    """Latents to logits of images."""

    image_shape: tuple[int, int, int]
    channels: tuple[int, ...]
    width: int

    @nn.compact
    def __call__(self, z):
        z = _leaky_relu(nn.Dense(self.width)(z))
        return Upsampling(self.image_shape, self.channels)(z)


class Discriminator(nn.Module):
    """Images to logits and features."""

    channels: tuple[int, ...]
    width: int

    @nn.compact
    def __call__(self, x):
        features = Features(self.channels, self.width)(x)
        return nn.Dense(1)(_leaky_relu(features)).squeeze(-1), features


def vaegan(image_shape: Sequence[int], latent_size: int = 32,
           channels: Sequence[int] = (32, 64), width: int = 128) -> VAEGAN:
    """Build a VAE-GAN.

    Args:
      image_shape: (H, W, C) of one image; any size.
      latent_size: Z.
      channels: of the convolutions of encoder and discriminator, each of which halves
        the sides; the decoder's are these reversed.
      width: F, and of the other two nets' one hidden layer.

    Raises:
      ValueError: image_shape is not (H, W, C).

    >>> model = vaegan((8, 8, 1), 2, (2, 3), 4)
    >>> params = jax.eval_shape(model.init, jax.random.key(0))
    >>> images = jax.eval_shape(model.decode, params, jnp.zeros((5, 2)))
    >>> mean, _ = jax.eval_shape(model.encode, params, images)
    >>> images.shape, mean.shape
    ((5, 8, 8, 1), (5, 2))
    """
    shape, channels = sizes(image_shape), tuple(channels)
    nets: dict[str, nn.Module] = {
        'decoder': Decoder(shape, channels[::-1], width),
        'discriminator': Discriminator(channels, width),
        'encoder': Encoder(latent_size, channels, width)}

    def init(key):
        image = jnp.zeros((1, *shape), jnp.float32)
        latent = jnp.zeros((1, latent_size), jnp.float32)
        return {name: net.init(key, latent if name == 'decoder' else image)['params']
                for (name, net), key in zip(nets.items(), jax.random.split(key, 3))}

    def run(name, params, x):
        return nets[name].apply({'params': params[name]}, x)

    return VAEGAN(init, partial(run, 'encoder'),
                  lambda params, z: nn.sigmoid(run('decoder', params, z)),
                  partial(run, 'decoder'), partial(run, 'discriminator'), latent_size)
