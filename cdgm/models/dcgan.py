"""A generative adversarial network of convolutions, normalised or not.

    generator       z -> (Dense, a) for each width -> Dense -> [h, w, channels[0]], then
                    for each number of channels (residual blocks; a 3x3 convolution to
                    4 F channels, pixels shuffled: twice the sides) -> sigmoid -> image
    discriminator   x -> (3x3 convolution of stride 2; residual blocks) for each number
                    of channels -> flatten -> (Dense, a) for each width -> Dense: logit
    residual        x + s * Conv(a(n(Conv(a(x))))), s a scalar that starts at zero

A net without channels is a perceptron, which for images of 8x8 is the better choice.

Here a is LeakyReLU and n the normalisation, which is of convolutions alone. As in
DCGAN, the generator's last layer and the discriminator's first have none. Three kinds:

    none    as in R3GAN: penalties and the residual blocks' start do its work
    group   over groups of a few channels of one image; it has no state
    batch   over the minibatch, real and generated ones apart, as in DCGAN; the running
            statistics are the model state, and samples of one minibatch depend on each
            other

Shapes   B batch, image_shape (H, W, C), Z latent_size.
Units    images in [0, 1]; logits are log odds of being real.
Sources  Radford et al. 2016 (arXiv:1511.06434) section 3; Huang et al. 2024, R3GAN
         (arXiv:2501.05441) section 3 (no normalisation); Zhang et al. 2019, Fixup
         (arXiv:1901.09321) (the start of the residual blocks); Lin et al. 2018, PacGAN
         (arXiv:1712.04086) table 3 (small discriminators).
"""

from collections.abc import Callable, Sequence
from functools import partial
from math import gcd, prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from cdgm.models.convolution import Conv
from cdgm.models.upsampling import shuffle_pixels, sizes

NORMALISATIONS = ('batch', 'group', 'none')

# Channels of the discriminators of PacGAN's table 3, a half and a quarter of those of
# its generator: too small for the task, on purpose.
SMALL_DISCRIMINATORS = {'half': (4, 8, 16), 'quarter': (2, 4, 8)}

_GROUPS = 8
_leaky_relu = partial(nn.leaky_relu, negative_slope=0.2)


class DCGAN(NamedTuple):
    """A generative adversarial network as pure functions of parameters and state.

    Attributes:
      init: key -> {'discriminator': ..., 'generator': ...}, dicts of float32 arrays.
      nets_state: key -> the same two names, the running statistics of each; None
        without batch normalisation.
      generate: (params, float32[B, Z]) -> images, float32[B, H, W, C] in [0, 1]. With
        batch normalisation (params, nets, latent, train=True) -> (images, nets): by the
        minibatch's statistics, which the new state takes in; or, with train=False, by
        the running ones, where each image depends on its own latent only.
      discriminate: (params, images) -> logits, float32[B]; likewise (params, nets,
        images, train=True) -> (logits, nets).
      latent_size: Z.
    """

    init: Callable[[jax.Array], dict[str, Any]]
    nets_state: Callable[[jax.Array], dict[str, Any]] | None
    generate: Callable[..., Any]
    discriminate: Callable[..., Any]
    latent_size: int


class Normalisation(nn.Module):
    """One of `NORMALISATIONS`, then LeakyReLU."""

    kind: str
    train: bool

    @nn.compact
    def __call__(self, x):
        if self.kind == 'batch':
            x = nn.BatchNorm(use_running_average=not self.train, momentum=0.9)(x)
        elif self.kind == 'group':
            x = nn.GroupNorm(num_groups=gcd(x.shape[-1], _GROUPS))(x)
        return _leaky_relu(x)


class Residual(nn.Module):
    """Two convolutions beside the identity, which it is at the start."""

    kind: str
    train: bool

    @nn.compact
    def __call__(self, x):
        features = x.shape[-1]
        h = Conv(features)(_leaky_relu(x))
        h = Conv(features)(Normalisation(self.kind, self.train)(h))
        return x + self.param('scale', nn.initializers.zeros_init(), ()) * h


class Generator(nn.Module):
    """Latents to images in [0, 1]."""

    image_shape: tuple[int, int, int]
    widths: tuple[int, ...]
    channels: tuple[int, ...]
    blocks: int
    kind: str

    @nn.compact
    def __call__(self, z, train: bool = True):
        height, width, depth = self.image_shape
        for units in self.widths:
            z = _leaky_relu(nn.Dense(units)(z))
        if not self.channels:
            x = nn.Dense(prod(self.image_shape))(z)
            return nn.sigmoid(x).reshape(-1, *self.image_shape)
        sides = [(-(-height >> at), -(-width >> at))
                 for at in range(len(self.channels), -1, -1)]
        start = *sides[0], self.channels[0]
        x = nn.Dense(prod(start))(z).reshape(-1, *start)
        for (rows, columns), features in zip(sides[1:], (*self.channels[1:], depth)):
            x = Normalisation(self.kind, train)(x)
            for _ in range(self.blocks):
                x = Residual(self.kind, train)(x)
            x = shuffle_pixels(Conv(4 * features)(x))[:, :rows, :columns]
        return nn.sigmoid(x)


class Discriminator(nn.Module):
    """Images to logits."""

    channels: tuple[int, ...]
    widths: tuple[int, ...]
    blocks: int
    kind: str

    @nn.compact
    def __call__(self, x, train: bool = True):
        for at, channels in enumerate(self.channels):
            x = Conv(channels, strides=2)(x)
            x = Normalisation(self.kind if at else 'none', train)(x)
            for _ in range(self.blocks):
                x = Residual(self.kind, train)(x)
        x = x.reshape(x.shape[0], -1)
        for units in self.widths:
            x = _leaky_relu(nn.Dense(units)(x))
        return nn.Dense(1)(x).squeeze(-1)


def dcgan(image_shape: Sequence[int], latent_size: int = 64,
          generator_channels: Sequence[int] = (64, 32),
          discriminator_channels: Sequence[int] = (32, 64), *,
          generator_widths: Sequence[int] = (),
          discriminator_widths: Sequence[int] = (),
          blocks: int = 0, normalisation: str = 'none', packing: int = 1) -> DCGAN:
    """Build a generative adversarial network.

    Args:
      image_shape: (H, W, C) of one image; any size.
      latent_size: Z.
      generator_channels: from the smallest image on; each doubles the sides.
      discriminator_channels: of its convolutions; each halves the sides. Those of
        `SMALL_DISCRIMINATORS` are too small, on purpose.
      generator_widths: of its hidden layers, before the convolutions.
      discriminator_widths: of its hidden layers, after the convolutions.
      blocks: residual blocks at each size.
      normalisation: 'none', 'group' or 'batch'.
      packing: images that the discriminator is shown at once, beside each other as
        channels: its images have `packing` times C of them.

    Raises:
      ValueError: image_shape is not (H, W, C), or the normalisation is unknown.

    >>> model = dcgan((8, 8, 3), 2, (4, 2), (2, 4), blocks=1, normalisation='group')
    >>> params = jax.eval_shape(model.init, jax.random.key(0))
    >>> jax.eval_shape(model.generate, params, jnp.zeros((5, 2))).shape
    (5, 8, 8, 3)
    """
    shape = sizes(image_shape)
    if normalisation not in NORMALISATIONS:
        raise ValueError(f'normalisation is {normalisation!r}; choose one of '
                         f'{", ".join(NORMALISATIONS)}.')
    nets: dict[str, nn.Module] = {
        'discriminator': Discriminator(
            tuple(discriminator_channels), tuple(discriminator_widths), blocks,
            normalisation),
        'generator': Generator(shape, tuple(generator_widths),
                               tuple(generator_channels), blocks, normalisation)}
    inputs = {'discriminator': (1, *shape[:2], packing * shape[2]),
              'generator': (1, latent_size)}

    def variables(key):
        keys = zip(nets, jax.random.split(key, 2))
        return {name: nets[name].init(key, jnp.zeros(inputs[name], jnp.float32))
                for name, key in keys}

    def init(key):
        return {name: made['params'] for name, made in variables(key).items()}

    def nets_state(key):
        return {name: made.get('batch_stats', {})
                for name, made in variables(key).items()}

    def run(name, params, x):
        return nets[name].apply({'params': params[name]}, x)

    def run_with_statistics(name, params, state, x, *, train=True):
        variables = {'params': params[name], 'batch_stats': state[name]}
        if not train:
            return nets[name].apply(variables, x, train=False), state
        y, changed = nets[name].apply(variables, x, mutable=['batch_stats'])
        return y, {**state, name: changed.get('batch_stats', {})}

    if normalisation != 'batch':
        return DCGAN(init, None, partial(run, 'generator'),
                     partial(run, 'discriminator'), latent_size)
    return DCGAN(init, nets_state, partial(run_with_statistics, 'generator'),
                 partial(run_with_statistics, 'discriminator'), latent_size)
