"""A convolutional variational autoencoder, small enough for two cores.

    encoder   x -> (3x3 convolution of stride 2, LeakyReLU) for each number of channels
              -> flatten -> Dense -> mean, logvar
    decoder   z -> Dense, LeakyReLU -> (each pixel twice in both directions, 3x3
              convolution, LeakyReLU), channels reversed -> 1x1 convolution -> logits

Doubling and convolving in place of a transposed convolution leaves no chequerboard.

Shapes   B batch, image_shape (H, W, C), Z latent_size; sides that do not halve evenly
         are cut at the end.
Units    logits of Bernoulli pixels, or means if the likelihood takes them for means.
Sources  Kingma & Welling 2014 (arXiv:1312.6114); doubling: Odena et al. 2016
         (10.23915/distill.00003).
"""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import linen as nn

from cdgm.models.convolution import Conv
from cdgm.models.vae import VAE, from_modules


class Encoder(nn.Module):
    """Images to the mean and log variance of the latent's distribution."""

    channels: tuple[int, ...]
    latent_size: int

    @nn.compact
    def __call__(self, x):
        for channels in self.channels:
            x = nn.leaky_relu(Conv(channels, strides=2)(x))
        x = x.reshape(x.shape[0], -1)
        return (nn.Dense(self.latent_size, name='mean')(x),
                nn.Dense(self.latent_size, name='logvar')(x))


class Decoder(nn.Module):
    """Latents to the logits of an image."""

    channels: tuple[int, ...]
    image_shape: tuple[int, int, int]

    @nn.compact
    def __call__(self, z):
        height, width, depth = self.image_shape
        halvings = 2 ** len(self.channels)
        rows, columns = -(-height // halvings), -(-width // halvings)
        x = nn.leaky_relu(nn.Dense(rows * columns * self.channels[-1])(z))
        x = x.reshape(-1, rows, columns, self.channels[-1])
        for channels in (*self.channels[-2::-1], self.channels[0]):
            x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
            x = nn.leaky_relu(Conv(channels)(x))
        return Conv(depth, kernel_size=(1, 1), name='logits')(x)[:, :height, :width]


def convolutional_vae(image_shape: Sequence[int], latent_size: int = 20,
                      channels: Sequence[int] = (16, 32)) -> VAE:
    """Build a convolutional variational autoencoder.

    Args:
      image_shape: (H, W, C) of one image.
      latent_size: Z.
      channels: of the encoder's convolutions; each halves the image's sides.

    Raises:
      ValueError: image_shape is not (H, W, C), or there is no convolution.

    >>> import jax
    >>> model = convolutional_vae((7, 8, 1), latent_size=2, channels=(3, 4))
    >>> params = jax.eval_shape(model.init, jax.random.key(0))
    >>> jax.eval_shape(model.decode, params, jnp.zeros((5, 2))).shape
    (5, 7, 8, 1)
    """
    if len(image_shape) != 3 or not channels:
        raise ValueError(f'image_shape is {tuple(image_shape)} and channels '
                         f'{tuple(channels)}; give (height, width, channels) and at '
                         'least one convolution.')
    height, width, depth = image_shape
    encoder = Encoder(tuple(channels), latent_size)
    decoder = Decoder(tuple(channels), (height, width, depth))
    return from_modules(encoder, decoder, image_shape, latent_size)
