"""Importance-weighted bounds: tighter than the ELBO, and three ways to their gradient.

    w_k = p(x, z_k) / q(z_k|x),  z_k ~ q(z|x),     loss = -log 1/K sum_k w_k

The latent may have several layers, z = (h_1, ..., h_L): q(z|x) = q(h_1|x) q(h_2|h_1)
..., p(x, z) = p(h_L) p(h_{L-1}|h_L) ... p(x|h_1), all Gaussian but p(x|h_1).

    estimator   gradient for the encoder's parameters phi, v_k = w_k / sum_j w_j
    pathwise    sum_k v_k d log w_k / d phi, through the sample and the density
    stl         sum_k v_k   (d log w_k / d z_k) (d z_k / d phi)
    dreg        sum_k v_k^2 (d log w_k / d z_k) (d z_k / d phi)

`stl` drops the density's own derivative, whose mean is zero for K = 1 (for K > 1 the
result is biased); `dreg` is unbiased for every K, and its signal does not drown in
noise as K grows. At q = p(z|x) both have no noise at all. The decoder's gradient is
the same for all, sum_k v_k d log w_k / d theta, and so is the value.

Shapes   B batch, D data axes, Z latent (of each layer its own), K samples of z.
Units    nats, summed over dimensions, averaged over the batch.
Sources  Burda et al. 2016 (arXiv:1509.00519) eqs. 8 and 14, section 4; stl: Roeder et
         al. 2017 (arXiv:1703.09194) eq. 8; dreg: Tucker et al. 2019 (arXiv:1810.04152)
         eq. 8.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from cdgm.losses.likelihoods import bernoulli_log_likelihood
from cdgm.losses.vae import (
    _copies, gaussian_log_density, sample_latent, standard_normal_log_density)

Estimator = Literal['pathwise', 'stl', 'dreg']
ESTIMATORS = ('pathwise', 'stl', 'dreg')
Layer = Callable[[Any, jax.Array], tuple[jax.Array, jax.Array]]


class LatentModel(NamedTuple):
    """A model with one or more layers of Gaussian latents, as functions of all params.

    Attributes:
      encode: for each layer from the data up (params, x or h_{l-1}) -> (mean, logvar)
        of q(h_l|.), float32[B, Z_l] each.
      decode: (params, h_1) -> what log_likelihood takes first.
      log_likelihood: (decoded, x) -> log p(x|h_1), float32[B].
      between: for each layer but the last (params, h_{l+1}) -> (mean, logvar) of
        p(h_l|h_{l+1}).
      log_prior: (params, h_L) -> log p(h_L), float32[B].
    """

    encode: Sequence[Layer]
    decode: Callable[[Any, jax.Array], Any]
    log_likelihood: Callable[..., jax.Array] = bernoulli_log_likelihood
    between: Sequence[Layer] = ()
    log_prior: Callable[[Any, jax.Array], jax.Array] = standard_normal_log_density


class LogWeights(NamedTuple):
    """The terms of log w = likelihood + prior - posterior, float32[...], nats.

    Attributes:
      likelihood: log p(x|h_1).
      prior: log p(h_1, ..., h_L).
      posterior: log q(h_1, ..., h_L|x).
    """

    likelihood: jax.Array
    prior: jax.Array
    posterior: jax.Array

    @property
    def total(self) -> jax.Array:
        """log w."""
        return self.likelihood + self.prior - self.posterior


class BoundTerms(NamedTuple):
    """What the bound is made of, float32[], nats, averaged over batch and samples.

    Attributes:
      neg_elbo: -log w averaged over the samples, the bound for K = 1.
      reconstruction: -log p(x|z).
      kl: log q(z|x) - log p(z), an estimate.
      effective: 1 / sum_k v_k^2, effective number of samples, between 1 and K.
    """

    neg_elbo: jax.Array
    reconstruction: jax.Array
    kl: jax.Array
    effective: jax.Array


def check_model(model: LatentModel) -> None:
    """Raise a ValueError unless its layers fit together."""
    if len(model.encode) < 1 or len(model.between) != len(model.encode) - 1:
        raise ValueError(f'there are {len(model.encode)} layers to encode and '
                         f'{len(model.between)} between them; L layers of latents have '
                         'L - 1 between.')


def sample_posterior(model: LatentModel, params: Any, x: jax.Array, key: jax.Array
                     ) -> tuple[jax.Array, ...]:
    """Draw (h_1, ..., h_L) ~ q(z|x), reparameterised; float32[B, Z_l] each."""
    samples: list[jax.Array] = []
    below = x
    for layer, encode in enumerate(model.encode):
        # One layer takes the key as it is, as `neg_elbo` does.
        own = key if len(model.encode) == 1 else jax.random.fold_in(key, layer)
        below = sample_latent(*encode(params, below), own)
        samples.append(below)
    return tuple(samples)


def sample_prior(model: LatentModel, params: Any, latent: jax.Array, key: jax.Array
                 ) -> jax.Array:
    """Go from h_L down to h_1, drawing from p; float32[B, Z_1]."""
    for layer, between in reversed(list(enumerate(model.between))):
        latent = sample_latent(*between(params, latent), jax.random.fold_in(key, layer))
    return latent


def log_weights(model: LatentModel, params: Any, x: jax.Array,
                samples: Sequence[jax.Array], *, posterior_params: Any = None
                ) -> LogWeights:
    """log p(x, z) and log q(z|x) at given samples.

    Args:
      model: its functions.
      params: all parameters.
      x: float32[B, *D].
      samples: (h_1, ..., h_L).
      posterior_params: those of q, where they are to be other ones.

    Returns:
      LogWeights, float32[B] each.
    """
    of_q = params if posterior_params is None else posterior_params
    posterior: Any = 0.
    for below, above, encode in zip((x, *samples), samples, model.encode):
        posterior += gaussian_log_density(above, *encode(of_q, below))
    prior = model.log_prior(params, samples[-1])
    for below, above, between in zip(samples, samples[1:], model.between):
        prior += gaussian_log_density(below, *between(params, above))
    likelihood = model.log_likelihood(model.decode(params, samples[0]), x)
    return LogWeights(likelihood, prior, posterior)


def neg_iwae(params: Any, batch: jax.Array, key: jax.Array, *, model: LatentModel,
             num_samples: int, estimator: Estimator = 'pathwise'
             ) -> tuple[jax.Array, BoundTerms]:
    """-log 1/K sum_k w_k, averaged over the batch; bind the keywords.

    One loss for all blocks: its gradient is for each leaf the estimator's.

    Args:
      params: whatever the model's functions take.
      batch: float32[B, *D].
      key: PRNG key of the latent noise.
      model: its functions.
      num_samples: K; for K = 1 this is -ELBO with an estimated KL.
      estimator: of the gradient, one of `ESTIMATORS`; the value is the same.

    Returns:
      (float32[], BoundTerms), nats.

    Raises:
      ValueError: num_samples is not positive, there is no such estimator, or the
        model's layers do not fit together.
    """
    check_model(model)
    if num_samples < 1:
        raise ValueError(f'num_samples is {num_samples}; draw at least one.')
    if estimator not in ESTIMATORS:
        raise ValueError(f'unknown estimator {estimator!r}; there are '
                         f'{", ".join(ESTIMATORS)}.')
    x = _copies(batch, num_samples)
    samples = sample_posterior(model, params, x, key)
    frozen = None if estimator == 'pathwise' else jax.lax.stop_gradient(params)
    terms = log_weights(model, params, x, samples, posterior_params=frozen)
    rows = terms.total.reshape(num_samples, -1)
    shares = jax.lax.stop_gradient(jax.nn.softmax(rows, axis=0))
    bound = jnp.mean(jax.nn.logsumexp(rows, axis=0)) - jnp.log(num_samples).astype(
        rows.dtype)
    if estimator == 'dreg':
        # The same values once more, with the path to each sample weighted by v_k; the
        # compiler does the work once.
        weighted = tuple(_scale_gradient(h, shares.reshape(-1)) for h in samples)
        again = log_weights(model, params, x, weighted, posterior_params=frozen)
        slope = jnp.sum(shares * again.total.reshape(rows.shape), 0).mean()
        bound = jax.lax.stop_gradient(bound - slope) + slope
    means = jax.tree.map(jnp.mean, terms)
    return -bound, BoundTerms(
        -jnp.mean(rows), -means.likelihood, means.posterior - means.prior,
        jnp.mean(1 / jnp.sum(jnp.square(shares), axis=0)))


@jax.custom_vjp
def _scale_gradient(array, scale):
    """The array itself, whose gradient is multiplied, example by example, by scale."""
    return array


def _scale_forward(array, scale):
    return array, scale


def _scale_backward(scale, gradient):
    shape = (-1,) + (1,) * (gradient.ndim - 1)
    return gradient * scale.reshape(shape), jnp.zeros_like(scale)


_scale_gradient.defvjp(_scale_forward, _scale_backward)
