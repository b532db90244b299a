"""The reference variational autoencoder: two small perceptrons.

    encoder   x -> flatten -> (Dense, LeakyReLU) for each width -> mean, logvar
    decoder   z -> (Dense, LeakyReLU) for each width, mirrored -> Dense -> logits

Shapes   B batch, image_shape any, Z latent_size.
Units    logits of Bernoulli pixels, or means if the likelihood takes them for means.
Sources  Kingma & Welling 2014 (arXiv:1312.6114) appendix C, with LeakyReLU of slope
         0.01 in place of tanh.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn


class VAE(NamedTuple):
    """A variational autoencoder as pure functions of all its parameters.

    Attributes:
      init: key -> {'encoder': ..., 'decoder': ...}, dicts of float32 arrays.
      encode: (params, float32[B, *image_shape]) -> (mean, logvar), float32[B, Z] each.
      decode: (params, float32[B, Z]) -> logits, float32[B, *image_shape].
      latent_size: Z.
    """

    init: Callable[[jax.Array], dict[str, Any]]
    encode: Callable[[Any, jax.Array], tuple[jax.Array, jax.Array]]
    decode: Callable[[Any, jax.Array], jax.Array]
    latent_size: int


class Encoder(nn.Module):
    """Images to the mean and log variance of the latent's distribution."""

    latent_size: int
    hidden: tuple[int, ...]

    @nn.compact
    def __call__(self, x):
        x = x.reshape(x.shape[0], -1)
        for width in self.hidden:
            x = nn.leaky_relu(nn.Dense(width)(x))
        return (nn.Dense(self.latent_size, name='mean')(x),
                nn.Dense(self.latent_size, name='logvar')(x))


class Decoder(nn.Module):
    """Latents to the logits of an image."""

    image_shape: tuple[int, ...]
    hidden: tuple[int, ...]

    @nn.compact
    def __call__(self, z):
        for width in self.hidden:
            z = nn.leaky_relu(nn.Dense(width)(z))
        logits = nn.Dense(math.prod(self.image_shape), name='logits')(z)
        return logits.reshape(-1, *self.image_shape)


def vae(image_shape: Sequence[int], latent_size: int = 20,
        hidden: Sequence[int] = (128,)) -> VAE:
    """Build a variational autoencoder.

    Args:
      image_shape: shape of one image, such as (28, 28) or (8, 8, 1).
      latent_size: Z.
      hidden: widths of the encoder's hidden layers; the decoder's are these reversed.

    >>> model = vae((8, 8), latent_size=2)
    >>> params = model.init(jax.random.key(0))
    >>> sorted(params['encoder']), sorted(params['decoder'])
    (['Dense_0', 'logvar', 'mean'], ['Dense_0', 'logits'])
    >>> model.decode(params, jnp.zeros((5, 2))).shape
    (5, 8, 8)
    """
    image_shape, hidden = tuple(image_shape), tuple(hidden)
    encoder = Encoder(latent_size, hidden)
    decoder = Decoder(image_shape, hidden[::-1])

    return from_modules(encoder, decoder, image_shape, latent_size)


def from_modules(encoder: nn.Module, decoder: nn.Module, image_shape: Sequence[int],
                 latent_size: int) -> VAE:
    """Make a VAE of two linen modules.

    Args:
      encoder: x -> (mean, logvar).
      decoder: z -> what the likelihood takes.
      image_shape: of one image.
      latent_size: Z.
    """
    def init(key):
        encoder_key, decoder_key = jax.random.split(key)
        image = jnp.zeros((1, *image_shape), jnp.float32)
        latent = jnp.zeros((1, latent_size), jnp.float32)
        return {'encoder': encoder.init(encoder_key, image)['params'],
                'decoder': decoder.init(decoder_key, latent)['params']}

    def encode(params, x):
        return encoder.apply({'params': params['encoder']}, x)

    def decode(params, latent):
        return decoder.apply({'params': params['decoder']}, latent)

    return VAE(init, encode, decode, latent_size)
