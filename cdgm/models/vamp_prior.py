"""The VampPrior: a mixture of the encoder's posteriors at pseudo-inputs.

    p(z) = 1/K sum_k q(z|u_k),     u_k learned, a block of their own: params['prior']

The encoder's gradient reaches the prior too, as its q is what is mixed.

Shapes   K components, D data axes, B batch, Z latent.
Units    nats.
Sources  Tomczak & Welling 2018 (arXiv:1705.07120) eq. 9; pseudo-inputs are kept in
         [0, 1] by clipping, and start from N(0.05, 0.01), as in their code, or
         at images.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class VampPrior(NamedTuple):
    """A prior as pure functions of all parameters.

    Attributes:
      init: key -> the block's parameters, {'inputs': float32[K, *D]}.
      log_prior: (params, latent float32[B, Z]) -> log p(z), float32[B].
      sample: (params, key, count) -> float32[count, Z].
    """

    init: Callable[[jax.Array], dict[str, jax.Array]]
    log_prior: Callable[[Any, jax.Array], jax.Array]
    sample: Callable[..., jax.Array]


def vamp_prior(encode: Callable[[Any, jax.Array], tuple[jax.Array, jax.Array]],
               image_shape: Sequence[int], components: int = 500,
               mean: jax.typing.ArrayLike = 0.05, deviation: float = 0.01) -> VampPrior:
    """Build a prior whose parameters are params['prior'].

    Args:
      encode: (params, x) -> (mean, logvar) of q(z|x), float32[B, Z] each.
      image_shape: shape of one image.
      components: K.
      mean: of the pseudo-inputs at the start, a number or float[K, *D]: training images
        give components that lie apart from the first step on, where those of one mean
        may stay together, and the latent with them.
      deviation: of the same.

    Raises:
      ValueError: components is not positive.

    >>> prior = vamp_prior(lambda params, x: (x, 0 * x), (2,), components=3)
    >>> params = {'prior': prior.init(jax.random.key(0))}
    >>> prior.log_prior(params, jnp.zeros((5, 2))).shape
    (5,)
    """
    if components < 1:
        raise ValueError(f'components is {components}; mix at least one.')

    def init(key):
        noise = jax.random.normal(key, (components, *image_shape))
        return {'inputs': mean + deviation * noise}

    def posteriors(params):
        return encode(params, jnp.clip(params['prior']['inputs'], 0, 1))

    def log_prior(params, latent):
        means, logvars = posteriors(params)
        distance = jnp.square(latent[:, None] - means[None]) * jnp.exp(-logvars)[None]
        each = -jnp.sum(distance + logvars[None] + math.log(2 * math.pi), axis=-1) / 2
        return jax.nn.logsumexp(each, axis=1) - math.log(components)

    def sample(params, key, count):
        choice_key, noise_key = jax.random.split(key)
        means, logvars = posteriors(params)
        chosen = jax.random.randint(choice_key, (count,), 0, components)
        noise = jax.random.normal(noise_key, (count, means.shape[-1]), means.dtype)
        return means[chosen] + jnp.exp(logvars[chosen] / 2) * noise

    return VampPrior(init, log_prior, sample)
