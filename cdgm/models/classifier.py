"""A small classifier of images, whose hidden layer is what samples are judged by.

    x -> (3x3 convolution of stride 2, ReLU) for each number of channels -> flatten
    -> Dense, ReLU: features -> Dense: logits

Shapes   B batch, image_shape (H, W, C), F width of the features.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from cdgm.models.convolution import Conv


class Classifier(NamedTuple):
    """A classifier as pure functions of its parameters.

    Attributes:
      init: key -> params, a dict of float32 arrays.
      apply: (params, float32[B, *image_shape]) -> (features float32[B, F], logits
        float32[B, num_classes]).
    """

    init: Callable[[jax.Array], dict[str, Any]]
    apply: Callable[[Any, jax.Array], tuple[jax.Array, jax.Array]]


class Network(nn.Module):
    """Images to features and logits."""

    num_classes: int
    channels: tuple[int, ...]
    width: int

    @nn.compact
    def __call__(self, x):
        for channels in self.channels:
            x = nn.relu(Conv(channels, strides=2)(x))
        features = nn.relu(nn.Dense(self.width)(x.reshape(x.shape[0], -1)))
        return features, nn.Dense(self.num_classes)(features)


def classifier(image_shape: Sequence[int], num_classes: int,
               channels: Sequence[int] = (16, 32, 64), width: int = 64) -> Classifier:
    """Build a classifier.

    Args:
      image_shape: (H, W, C) of one image; any size.
      num_classes: of the labels.
      channels: of its convolutions; each halves the image's sides.
      width: F.

    >>> model = classifier((8, 8, 1), 3, channels=(2,), width=4)
    >>> params = model.init(jax.random.key(0))
    >>> [out.shape for out in model.apply(params, jnp.zeros((5, 8, 8, 1)))]
    [(5, 4), (5, 3)]
    """
    network = Network(num_classes, tuple(channels), width)

    def init(key):
        return network.init(key, jnp.zeros((1, *image_shape), jnp.float32))['params']

    def apply(params, x):
        return network.apply({'params': params}, x)

    return Classifier(init, apply)
