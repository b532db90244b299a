"""Small generative adversarial networks for points, such as those of the plane.

    planar_gan  generator      z -> (Dense, activation) for each width -> Dense -> x
                discriminator  x -> (Dense, activation) for each width -> Dense -> logit
    pac_gan     generator      z -> 4 x (Dense without bias, BatchNorm, ReLU) -> Dense
                discriminator  x -> 3 x maxout -> Dense -> logit
    maxout      h_j = max over p of (W_p x + b_p)_j, p = 1 … pieces

The normalisation of `pac_gan` takes the statistics of the batch that it is given, when
training and when sampling, so that the nets have no state; sample as many at once as
were trained on, or more.

Shapes   B batch, D dimensions of a point, m packing, Z latent_size.
Sources  Metz et al. 2017 (arXiv:1611.02163) appendix A and its notebook: z of 256, two
         layers of 128, tanh, orthogonal weights of gain 1.4 in the notebook; Lin et al.
         2018 (arXiv:1712.04086) section 4.1 and its code: widths, pieces, weights
         N(0, 0.02^2); maxout: Goodfellow et al. 2013 (arXiv:1302.4389) section 3.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from cdgm.models.gan import GAN

Initializer = jax.nn.initializers.Initializer


class Layers(nn.Module):
    """Dense layers, with an activation behind all but the last."""

    widths: tuple[int, ...]
    outputs: int
    activation: Callable[[jax.Array], jax.Array]
    kernel_init: Initializer

    @nn.compact
    def __call__(self, x):
        for width in self.widths:
            x = self.activation(nn.Dense(width, kernel_init=self.kernel_init)(x))
        return nn.Dense(self.outputs, kernel_init=self.kernel_init)(x)


class NormalisedLayers(nn.Module):
    """Dense layers without bias, batch normalisation and ReLU; then a dense layer."""

    widths: tuple[int, ...]
    outputs: int
    kernel_init: Initializer

    @nn.compact
    def __call__(self, x):
        for width in self.widths:
            x = nn.Dense(width, use_bias=False, kernel_init=self.kernel_init)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=False)(x))
        return nn.Dense(self.outputs, kernel_init=self.kernel_init)(x)


class MaxoutLayers(nn.Module):
    """Dense layers whose units are the largest of some pieces; then a logit."""

    widths: tuple[int, ...]
    pieces: int
    kernel_init: Initializer

    @nn.compact
    def __call__(self, x):
        for width in self.widths:
            x = nn.Dense(width * self.pieces, kernel_init=self.kernel_init)(x)
            x = x.reshape(*x.shape[:-1], width, self.pieces).max(axis=-1)
        return nn.Dense(1, kernel_init=self.kernel_init)(x)


def planar_gan(dimensions: int = 2, latent_size: int = 256,
               widths: Sequence[int] = (128, 128),
               activation: Callable[[jax.Array], jax.Array] = jnp.tanh,
               kernel_init: Initializer = jax.nn.initializers.orthogonal(1.4),
               packing: int = 1) -> GAN:
    """Build two plain nets of equal widths; the defaults are Unrolled GAN's.

    Args:
      dimensions: D.
      latent_size: Z.
      widths: of the hidden layers of either net.
      activation: of every hidden layer.
      kernel_init: of every layer.
      packing: m, points that the discriminator is shown at once, float32[B, m D].

    Raises:
      ValueError: a size is not positive.

    >>> model = planar_gan(latent_size=3, widths=(4,))
    >>> params = model.init(jax.random.key(0))
    >>> points = model.generate(params, jnp.zeros((5, 3)))
    >>> points.shape, model.discriminate(params, points).shape
    ((5, 2), (5,))
    """
    widths = tuple(widths)
    return _pair(Layers(widths, dimensions, activation, kernel_init),
                 Layers(widths, 1, activation, kernel_init),
                 dimensions, latent_size, packing)


def pac_gan(dimensions: int = 2, latent_size: int = 2,
            generator_widths: Sequence[int] = (400,) * 4,
            discriminator_widths: Sequence[int] = (200,) * 3, pieces: int = 5,
            packing: int = 1) -> GAN:
    """Build PacGAN's nets for the plane.

    Args:
      dimensions: D.
      latent_size: Z.
      generator_widths: of its normalised layers.
      discriminator_widths: of its maxout layers.
      pieces: of a maxout unit.
      packing: m, points that the discriminator is shown at once, float32[B, m D].

    Raises:
      ValueError: a size is not positive.
    """
    kernel_init = jax.nn.initializers.normal(0.02)
    return _pair(NormalisedLayers(tuple(generator_widths), dimensions, kernel_init),
                 MaxoutLayers(tuple(discriminator_widths), pieces, kernel_init),
                 dimensions, latent_size, packing)


def _pair(generator: nn.Module, discriminator: nn.Module, dimensions: int,
          latent_size: int, packing: int) -> GAN:
    """The two modules as functions of all the parameters."""
    for name, size in (('dimensions', dimensions), ('latent_size', latent_size),
                       ('packing', packing)):
        if size < 1:
            raise ValueError(f'{name} is {size}; give a whole number > 0.')

    def init(key):
        discriminator_key, generator_key = jax.random.split(key)
        points = jnp.zeros((1, packing * dimensions), jnp.float32)
        latent = jnp.zeros((1, latent_size), jnp.float32)
        return {
            'discriminator': discriminator.init(discriminator_key, points)['params'],
            'generator': generator.init(generator_key, latent)['params']}

    def run(module, params, x):
        # Running statistics, where a module would keep some, are made and dropped.
        return module.apply({'params': params}, x, mutable=['batch_stats'])[0]

    def generate(params, latent):
        return run(generator, params['generator'], latent)

    def discriminate(params, points):
        return run(discriminator, params['discriminator'], points).squeeze(-1)

    return GAN(init, generate, discriminate, latent_size)
