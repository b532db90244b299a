"""The net of an image VAE, and the likelihood of what it decodes."""

from functools import partial

import jax
import jax.numpy as jnp
from absl import flags

from cdgm import losses, models

SCALED = ('gaussian', 'learned_gaussian', 'logistic')  # likelihoods of grey images
LEARNED = ('learned_gaussian', 'logistic')  # of them, those that learn their scale


def build(values: flags.FlagValues, shape: tuple[int, ...]) -> models.VAE:
    """The net; where the scale is learned, what it decodes is (mean, log scale)."""
    make = models.convolutional_vae if values.net == 'conv' else models.vae
    model = make(shape, values.latent, values.hidden)
    if values.likelihood not in LEARNED:
        return model

    def init(key):
        params = model.init(key)
        start = jnp.log(jnp.float32(values.sigma))
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
