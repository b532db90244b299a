"""A variational autoencoder whose decoder sees the pixels before: an image at a time.

    encoder   that of `convolutional_vae`
    decoder   log p(x|z) = sum_i log p(x_i | x_<i, z), pixels in the order of reading:
              f = features of z, by the decoder of `convolutional_vae`
              h = f + K x K convolution of x, of what is before the pixel alone
              h = h + 3 x 3 convolution of LeakyReLU(h), of what is before and the
                  pixel's own, `depth` times; logits = 1 x 1 convolution

What a pixel sees of the image ends K // 2 + depth rows above it. What lies beyond, z
alone can tell it; where the field is the whole image, a decoder may do without z, and
the posterior collapses. (Stacked masks leave a blind spot to the upper right, as those
of the first PixelCNN.)

Shapes   B batch, image_shape (H, W, 1), Z latent_size, F features.
Units    nats an image; pixels are 0 or 1.
Sources  masks: van den Oord et al. 2016 (arXiv:1601.06759) section 3.4; the decoder:
         Gulrajani et al. 2017 (arXiv:1611.05013); the small field: Chen et al. 2017
         (arXiv:1611.02731) section 2.2.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen.dtypes import promote_dtype

from cdgm.models.convolution import Conv, convolve
from cdgm.models.convolutional_vae import Decoder as LatentDecoder
from cdgm.models.convolutional_vae import Encoder


class Decoded(NamedTuple):
    """What a latent says of an image, before the image has said anything.

    Attributes:
      params: the decoder's.
      features: float32[B, H, W, F].
    """

    params: Any
    features: jax.Array


class PixelVAE(NamedTuple):
    """A variational autoencoder as pure functions of all its parameters.

    Attributes:
      init: key -> {'encoder': ..., 'decoder': ...}, dicts of float32 arrays.
      encode: (params, float32[B, H, W, 1]) -> (mean, logvar), float32[B, Z] each.
      decode: (params, float32[B, Z]) -> Decoded, which logits takes.
      logits: (Decoded, x) -> of each pixel given those before it, float32[B, H, W, 1];
        x has the same shape, and log p(x|z) is the sum of their log likelihoods.
      sample: (params, float32[B, Z], key) -> x ~ p(x|z), float32[B, H, W, 1], drawn a
        pixel at a time by H W passes through the decoder.
      latent_size: Z.
    """

    init: Callable[[jax.Array], dict[str, Any]]
    encode: Callable[[Any, jax.Array], tuple[jax.Array, jax.Array]]
    decode: Callable[[Any, jax.Array], Decoded]
    logits: Callable[[Decoded, jax.Array], jax.Array]
    sample: Callable[[Any, jax.Array, jax.Array], jax.Array]
    latent_size: int


class MaskedConv(nn.Module):
    """A convolution of what comes before each pixel, and with `own` of the pixel."""

    features: int
    size: int
    own: bool

    @nn.compact
    def __call__(self, x):
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param(
            'kernel', nn.initializers.lecun_normal(), shape, jnp.float32)
        bias = self.param(
            'bias', nn.initializers.zeros_init(), (self.features,), jnp.float32)
        x, kernel, bias = promote_dtype(x, kernel, bias)
        before = np.arange(self.size ** 2) < self.size ** 2 // 2 + self.own
        mask = before.reshape(self.size, self.size, 1, 1)
        return convolve(x, kernel * mask) + bias.reshape(1, 1, 1, -1)


class Decoder(nn.Module):
    """A latent and the pixels before to the logits of every pixel."""

    channels: tuple[int, ...]
    image_shape: tuple[int, int, int]
    features: int
    kernel_size: int
    depth: int

    def setup(self):
        """Make the parts."""
        height, width, _ = self.image_shape
        self.of_latent = LatentDecoder(self.channels,
                                       (height, width, self.features))
        self.of_pixels = MaskedConv(self.features, self.kernel_size, own=False)
        self.layers = [MaskedConv(self.features, 3, own=True)
                       for _ in range(self.depth)]
        self.logits = Conv(1, kernel_size=(1, 1))

    def __call__(self, z, x):
        return self.given_features(self.of_latent(z), x)

    def features_of(self, z):
        """Return what the latent says of each pixel, float32[B, H, W, F]."""
        return self.of_latent(z)

    def given_features(self, features, x):
        """Return the logits of each pixel, float32[B, H, W, 1]."""
        h = features + self.of_pixels(x)
        for layer in self.layers:
            h = h + layer(nn.leaky_relu(h))
        return self.logits(nn.leaky_relu(h))


def pixel_vae(image_shape: Sequence[int], latent_size: int = 20,
              channels: Sequence[int] = (16, 32), features: int = 16,
              kernel_size: int = 5, depth: int = 1) -> PixelVAE:
    """Build a variational autoencoder with an autoregressive decoder.

    Args:
      image_shape: (H, W, 1) of one image.
      latent_size: Z.
      channels: of the encoder's convolutions; each halves the image's sides.
      features: F, of each pixel in the decoder.
      kernel_size: K, odd: how much of the image the first convolution sees.
      depth: layers of 3 x 3 after it.

    Raises:
      ValueError: image_shape is not (H, W, 1), the kernel is even, or there is no
        convolution.

    >>> model = pixel_vae((6, 7, 1), latent_size=2, channels=(3,), features=4)
    >>> params = jax.eval_shape(model.init, jax.random.key(0))
    >>> latent, key = jnp.zeros((5, 2)), jax.random.key(1)
    >>> jax.eval_shape(model.sample, params, latent, key).shape
    (5, 6, 7, 1)
    """
    if len(image_shape) != 3 or image_shape[-1] != 1 or not channels:
        raise ValueError(f'image_shape is {tuple(image_shape)} and channels '
                         f'{tuple(channels)}; give (height, width, 1) and at least one '
                         'convolution.')
    if kernel_size < 3 or not kernel_size % 2:
        raise ValueError(f'kernel_size is {kernel_size}; give an odd number > 1, so '
                         'that there is a pixel in the middle.')
    height, width, _ = image_shape
    encoder = Encoder(tuple(channels), latent_size)
    decoder = Decoder(tuple(channels), (height, width, 1), features, kernel_size, depth)

    def init(key):
        encoder_key, decoder_key = jax.random.split(key)
        image = jnp.zeros((1, *image_shape), jnp.float32)
        latent = jnp.zeros((1, latent_size), jnp.float32)
        return {'encoder': encoder.init(encoder_key, image)['params'],
                'decoder': decoder.init(decoder_key, latent, image)['params']}

    def encode(params, x):
        return encoder.apply({'params': params['encoder']}, x)

    def decode(params, latent):
        features: Any = decoder.apply({'params': params['decoder']}, latent,
                                      method=Decoder.features_of)
        return Decoded(params['decoder'], features)

    def logits(decoded, x):
        return decoder.apply({'params': decoded.params}, decoded.features, x,
                             method=Decoder.given_features)

    def sample(params, latent, key):
        decoded = decode(params, latent)

        def draw(x, place_and_key):
            place, key = place_and_key
            at = place // width, place % width
            chance = jax.nn.sigmoid(logits(decoded, x)[:, *at])
            return x.at[:, *at].set(jax.random.bernoulli(key, chance)), None

        places = jnp.arange(height * width)
        blank = jnp.zeros((len(latent), *image_shape), latent.dtype)
        keys = jax.random.split(key, len(places))
        return jax.lax.scan(draw, blank, (places, keys))[0]

    return PixelVAE(init, encode, decode, logits, sample, latent_size)
