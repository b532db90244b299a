"""The net of an image VAE, the likelihood of what it decodes, and how that looks."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from absl import flags

from cdgm import losses, models
from experiments.harness.errors import SettingError

SCALED = ('gaussian', 'learned_gaussian', 'logistic')  # likelihoods of grey images
LEARNED = ('learned_gaussian', 'logistic')  # of them, those that learn their scale
NETS = ('mlp', 'conv', 'pixel')
Model = models.VAE | models.PixelVAE


class Nets(NamedTuple):
    """An image VAE, whatever its decoder decodes.

    Attributes:
      model: init, encode, decode and the latent's size.
      log_likelihood: sigma -> (decoded, x) -> log p(x|z), float32[B], nats.
      show: (params, float32[B, Z]) -> images in [0, 1], float32[B, H, W, C]: mean
        pixels, or where pixels see those before, a draw.
    """

    model: Model
    log_likelihood: Callable[[Any], Callable[[Any, jax.Array], jax.Array]]
    show: Callable[[Any, jax.Array], jax.Array]


def build(values: flags.FlagValues, shape: tuple[int, ...]) -> Nets:
    """The nets that the flags name; of a learned scale, (mean, log scale) is decoded.

    Raises:
      SettingError: what the pixel net cannot do is asked of it.
    """
    if values.net == 'pixel':
        return _of_pixels(values, shape)
    if values.pixel_layers is not None:
        raise SettingError(f'--pixel_layers={values.pixel_layers} is of --net=pixel; '
                           'give that, or leave it out.')
    make = models.convolutional_vae if values.net == 'conv' else models.vae
    model = make(shape, values.latent, values.hidden)
    if values.likelihood in LEARNED:
        model = _with_scale(model, values.sigma)
    return Nets(model, partial(log_likelihood, values.likelihood), lambda params, z: (
        mean_pixels(values.likelihood, model.decode(params, z))))


def _of_pixels(values: flags.FlagValues, shape: tuple[int, ...]) -> Nets:
    """The decoder that sees the pixels before."""
    if values.likelihood != 'bernoulli':
        raise SettingError(f'--net=pixel draws black and white pixels, and '
                           f'--likelihood={values.likelihood} has others; give '
                           'bernoulli.')
    if values.objective == 'wake_sleep':
        raise SettingError('--objective=wake_sleep dreams all pixels at once, and '
                           '--net=pixel draws one at a time; give another of the two.')
    depth = 1 if values.pixel_layers is None else values.pixel_layers
    model = models.pixel_vae(shape, values.latent, values.hidden, depth=depth)

    def of_image(decoded, x):
        return losses.bernoulli_log_likelihood(model.logits(decoded, x), x)

    return Nets(model, lambda sigma: of_image, lambda params, z: model.sample(
        params, z, jax.random.key(0)))


def _with_scale(model: models.VAE, sigma: float) -> models.VAE:
    """The same, whose decoder has the logarithm of the likelihood's scale, too."""
    def init(key):
        params = model.init(key)
        start = jnp.log(jnp.float32(sigma))
        return {**params, 'decoder': {**params['decoder'], 'log_scale': start}}

    def decode(params, latent):
        return model.decode(params, latent), params['decoder']['log_scale']

    return model._replace(init=init, decode=decode)


def log_likelihood(name: str, sigma):
    """(decoded, x) -> nats, of a likelihood by its name."""
    return {'bernoulli': losses.bernoulli_log_likelihood,
            'gaussian': partial(losses.gaussian_log_likelihood, sigma=sigma),
            'learned_gaussian': losses.learned_gaussian_log_likelihood,
            'logistic': losses.logistic_log_likelihood}[name]


def mean_pixels(name: str, decoded) -> jax.Array:
    """What is decoded, as an image in [0, 1]."""
    if name == 'bernoulli':
        return jax.nn.sigmoid(decoded)
    return decoded if name == 'gaussian' else decoded[0]
