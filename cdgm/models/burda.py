"""The nets of the importance weighted autoencoder's tables: one or two latent layers.

    one     x -> 200 -> 200 (tanh) -> z 50;            z -> 200 -> 200 (tanh) -> logits
    two     x -> 200 -> 200 -> h_1 100 -> 100 -> 100 -> h_2 50, and back the same way;
            q(h_2|h_1), p(h_1|h_2) Gaussian with a diagonal covariance

The output's bias starts at the logit of the data's mean image, clipped to [.001, .999];
kernels by Glorot and Bengio's uniform law.

Shapes   B batch, image_shape any.
Units    logits of Bernoulli pixels.
Sources  Burda et al. 2016 (arXiv:1509.00519) section 5 and their code, yburda/iwae.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from cdgm.models.vae import VAE

ONE_LAYER = ((200, 50),)  # (hidden units, latents) of each layer, from the data up
TWO_LAYERS = ((200, 100), (100, 50))


class HierarchicalVAE(NamedTuple):
    """A model with L layers of latents as pure functions of all its parameters.

    Attributes:
      init: key -> {'encoder': ..., 'decoder': ...}, dicts of float32 arrays.
      encode: for each layer (params, x or h_{l-1}) -> (mean, logvar) of q(h_l|.),
        float32[B, Z_l] each.
      between: for each layer but the last (params, h_{l+1}) -> (mean, logvar) of
        p(h_l|h_{l+1}).
      decode: (params, h_1) -> logits, float32[B, *image_shape].
      latent_sizes: (Z_1, ..., Z_L).
    """

    init: Callable[[jax.Array], dict[str, Any]]
    encode: tuple[Callable[[Any, jax.Array], tuple[jax.Array, jax.Array]], ...]
    between: tuple[Callable[[Any, jax.Array], tuple[jax.Array, jax.Array]], ...]
    decode: Callable[[Any, jax.Array], jax.Array]
    latent_sizes: tuple[int, ...]


class _Gaussian(nn.Module):
    """Two tanh layers to a mean and a log variance."""

    width: int
    latent_size: int

    @nn.compact
    def __call__(self, x):
        x = x.reshape(x.shape[0], -1)
        for _ in range(2):
            x = nn.tanh(_dense(self.width)(x))
        return (_dense(self.latent_size, name='mean')(x),
                _dense(self.latent_size, name='logvar')(x))


class _Logits(nn.Module):
    """Two tanh layers to the logits of an image."""

    width: int
    image_shape: tuple[int, ...]

    @nn.compact
    def __call__(self, z):
        for _ in range(2):
            z = nn.tanh(_dense(self.width)(z))
        logits = _dense(math.prod(self.image_shape), name='logits')(z)
        return logits.reshape(-1, *self.image_shape)


def _dense(width: int, name: str | None = None) -> nn.Dense:
    return nn.Dense(width, kernel_init=nn.initializers.glorot_uniform(), name=name)


def burda_vae(image_shape: Sequence[int],
              layers: Sequence[tuple[int, int]] = ONE_LAYER,
              mean_image: Any | None = None) -> HierarchicalVAE:
    """Build a model of one or more layers.

    Args:
      image_shape: shape of one image, such as (28, 28, 1).
      layers: (hidden units, latents) of each, from the data up.
      mean_image: float[*image_shape] in [0, 1], of the training data, for the output's
        bias; zero bias if left out.

    Raises:
      ValueError: there is no layer, or one without units.

    >>> model = burda_vae((8, 8), ((5, 3), (4, 2)))
    >>> params = jax.eval_shape(model.init, jax.random.key(0))
    >>> sorted(params['encoder']), sorted(params['decoder'])
    (['layer_1', 'layer_2'], ['layer_1', 'logits'])
    >>> jax.eval_shape(model.encode[1], params, jnp.zeros((6, 3)))[0].shape
    (6, 2)
    """
    if not layers or min(min(layer) for layer in layers) < 1:
        raise ValueError(f'layers is {tuple(layers)}; give (hidden units, latents), '
                         'both > 0, of at least one layer.')
    shape = tuple(image_shape)
    up = [_Gaussian(width, size) for width, size in layers]
    # p(h_l|h_{l+1}) has the width of the layer above it.
    down = [_Gaussian(above[0], size) for (_, size), above in zip(layers, layers[1:])]
    logits = _Logits(layers[0][0], shape)
    sizes = tuple(size for _, size in layers)

    def init(key):
        keys = iter(jax.random.split(key, 2 * len(layers)))
        inputs = [jnp.zeros((1, *shape)), *(jnp.zeros((1, size)) for size in sizes)]
        encoder = {f'layer_{number}': net.init(next(keys), x)['params']
                   for number, (net, x) in enumerate(zip(up, inputs), 1)}
        decoder = {f'layer_{number}': net.init(next(keys), above)['params']
                   for number, (net, above) in enumerate(zip(down, inputs[2:]), 1)}
        decoder['logits'] = logits.init(next(keys), inputs[1])['params']
        if mean_image is not None:
            mean = np.clip(np.asarray(mean_image, np.float32).ravel(), 0.001, 0.999)
            decoder['logits']['logits']['bias'] = jnp.log(mean) - jnp.log1p(-mean)
        return {'encoder': encoder, 'decoder': decoder}

    def apply(net, block, name):
        return lambda params, x: net.apply({'params': params[block][name]}, x)

    return HierarchicalVAE(
        init, tuple(apply(net, 'encoder', f'layer_{n}') for n, net in enumerate(up, 1)),
        tuple(apply(net, 'decoder', f'layer_{n}') for n, net in enumerate(down, 1)),
        apply(logits, 'decoder', 'logits'), sizes)


def one_layer(model: HierarchicalVAE) -> VAE:
    """A model of one layer, as other functions want it.

    Raises:
      ValueError: it has more.
    """
    if len(model.encode) != 1:
        raise ValueError(f'the model has {len(model.encode)} layers of latents, not '
                         'one.')
    return VAE(model.init, model.encode[0], model.decode, model.latent_sizes[0])
