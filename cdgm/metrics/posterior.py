"""What a variational autoencoder's latent holds: parts of the ELBO, units, information.

    -ELBO = E[-log p(x|z)] + E KL(q(z|x) || p(z))      distortion + rate
    rate  = I_q(x; z) + KL(q(z) || p(z)),              q(z) = 1/N sum_n q(z|x_n)

The mutual information is taken against the aggregate posterior q(z) of all N examples,
in chunks, so that it is at most log N. Against that of a minibatch of B it would be at
most log B, about 4 nats, whatever the latent holds.

Shapes   N examples, D data axes, Z latent.
Units    nats per example, averaged over the examples, with the standard error over
         them.
Sources  Hoffman & Johnson 2016 (ELBO surgery) eq. 3; active units: Burda et al. 2016
         (arXiv:1509.00519) section 5; the minibatch estimate that this replaces: He et
         al. 2019 (arXiv:1901.05534), `calc_mi` in their code.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cdgm.metrics.batches import Progress, map_examples
from cdgm.metrics.estimate import Estimate, mean_and_error


class ElboParts(NamedTuple):
    """The parts of -ELBO over a whole set.

    Attributes:
      neg_elbo: float32[] each.
      reconstruction: -log p(x|z), float32[] each.
      kl: KL(q(z|x) || p(z)), float32[] each.
      kl_per_dimension: KL to N(0, 1) of each dimension, float32[Z] each, whatever the
        prior is.
    """

    neg_elbo: Estimate
    reconstruction: Estimate
    kl: Estimate
    kl_per_dimension: Estimate


def encode_all(params: Any, examples: Any, *, encode: Callable[[Any, Any], tuple[
        jax.Array, jax.Array]], batch_size: int) -> tuple[jax.Array, jax.Array]:
    """(mean, logvar) of q(z|x) of every example, float32[N, Z] each."""
    def one(example):
        x = jax.tree.map(lambda leaf: leaf[None], example)
        mean, logvar = encode(params, x)
        return mean[0], logvar[0]

    return map_examples(one, examples, batch_size)


def elbo_parts(params: Any, examples: Any, key: jax.Array, *,
               encode: Callable[[Any, Any], tuple[jax.Array, jax.Array]],
               decode: Callable[[Any, jax.Array], Any],
               log_likelihood: Callable[[Any, Any], jax.Array], batch_size: int,
               log_prior: Callable[[Any, jax.Array], jax.Array] | None = None,
               num_samples: int = 1, progress: Progress | None = None) -> ElboParts:
    """-ELBO and its parts.

    Args:
      params: whatever the functions take.
      examples: a pytree of arrays with a leading axis N.
      key: PRNG key of the latent noise.
      encode: (params, x) -> (mean, logvar), float32[B, Z] each.
      decode: (params, latent) -> what log_likelihood takes.
      log_likelihood: (decoded, x) -> log p(x|z), float32[B], nats.
      batch_size: examples evaluated at a time.
      log_prior: (params, latent) -> float32[B]; N(0, I), in closed form, if left out.
      num_samples: samples of z for each example.
      progress: called with (examples done, N).

    Returns:
      ElboParts.
    """
    def example(example_and_key):
        one, key = example_and_key
        x = jax.tree.map(lambda leaf: leaf[None], one)
        mean, logvar = encode(params, x)
        each = kl_to_standard(mean, logvar)[0]

        def sample(key):
            noise = jax.random.normal(key, mean.shape, mean.dtype)
            latent = mean + jnp.exp(logvar / 2) * noise
            log_p = log_likelihood(decode(params, latent), x)[0]
            if log_prior is None:
                return log_p, jnp.sum(each)
            log_q = -jnp.sum(jnp.square(noise) + logvar + math.log(2 * math.pi)) / 2
            return log_p, log_q - log_prior(params, latent)[0]

        log_p, kl = jax.tree.map(jnp.mean, jax.vmap(sample)(
            jax.random.split(key, num_samples)))
        return kl - log_p, -log_p, kl, each

    count = len(jax.tree.leaves(examples)[0])
    values = map_examples(example, (examples, jax.random.split(key, count)),
                          batch_size, progress)
    return ElboParts(*map(mean_and_error, values))


def latent_use(params: Any, examples: Any, key: jax.Array, *,
               encode: Callable[[Any, Any], tuple[jax.Array, jax.Array]],
               decode: Callable[[Any, jax.Array], Any],
               log_likelihood: Callable[[Any, Any], jax.Array], batch_size: int
               ) -> Estimate:
    """By how much -log p(x|z) rises when z is that of another example, at random.

    Args:
      params, examples, key, encode, decode, log_likelihood, batch_size: as for
        `elbo_parts`.

    Returns:
      Estimate, float32[] each, nats; about zero where the decoder ignores z.
    """
    count = len(jax.tree.leaves(examples)[0])
    noise_key, order_key = jax.random.split(key)
    mean, logvar = encode_all(params, examples, encode=encode, batch_size=batch_size)
    noise = jax.random.normal(noise_key, mean.shape, mean.dtype)
    latent = mean + jnp.exp(logvar / 2) * noise
    # A cycle through all examples in a random order: nobody meets its own latent.
    order = jax.random.permutation(order_key, count)
    other = latent.at[order].set(latent[jnp.roll(order, 1)])

    def rise(inputs):
        one, own, another = inputs
        x = jax.tree.map(lambda leaf: leaf[None], one)
        return (log_likelihood(decode(params, own[None]), x)
                - log_likelihood(decode(params, another[None]), x))[0]

    return mean_and_error(map_examples(rise, (examples, latent, other), batch_size))


def standardised_error(params: Any, examples: Any, *, encode: Callable[..., Any],
                       decode: Callable[..., Any],
                       standardise: Callable[[Any, Any], jax.Array], batch_size: int
                       ) -> Estimate:
    """Mean of ((x - decoded mean) / sigma)^2 at the mean latent; one if sigma fits.

    Args:
      standardise: (decoded, x) -> (x - mean) / sigma, float32[B, *D].
      params, examples, encode, decode, batch_size: as for `elbo_parts`.

    Returns:
      Estimate, float32[] each, averaged over dimensions and examples.
    """
    def one(example):
        x = jax.tree.map(lambda leaf: leaf[None], example)
        mean, _ = encode(params, x)
        return jnp.mean(jnp.square(standardise(decode(params, mean), x)))

    return mean_and_error(map_examples(one, examples, batch_size))


def kl_to_standard(mean: jax.Array, logvar: jax.Array) -> jax.Array:
    """KL of each dimension to N(0, 1), float32[..., Z], nats."""
    return (jnp.square(mean) + jnp.expm1(logvar) - logvar) / 2


def activity(mean: jax.Array) -> jax.Array:
    """Variance over the examples of each unit's posterior mean.

    Args:
      mean: float32[N, Z] of q(z|x).

    Returns:
      float32[Z], Cov_x(E_q[z|x]).

    >>> activity(jnp.array([[0., 1.], [2., 1.]])).tolist()
    [1.0, 0.0]
    """
    return jnp.var(mean, axis=0)


def active_units(mean: jax.Array, thresholds: Any = 0.01) -> jax.Array:
    """How many units are active: those whose activity exceeds a threshold.

    Args:
      mean: float32[N, Z] of q(z|x).
      thresholds: a number, Burda et al.'s 0.01, or float32[T] for a curve. A latent
        that carries next to nothing can have units above 0.01: read the KL beside it.

    Returns:
      int32[] or int32[T].

    >>> active_units(jnp.array([[0., 1.], [2., 1.]])).tolist()
    1
    """
    thresholds = jnp.asarray(thresholds)
    variances = activity(mean).reshape((1,) * thresholds.ndim + (-1,))
    return jnp.sum(variances > thresholds[..., None], axis=-1)


def mutual_information(mean: jax.Array, logvar: jax.Array, key: jax.Array, *,
                       batch_size: int,
                       num_samples: int = 1, progress: Progress | None = None
                       ) -> Estimate:
    """I_q(x; z) = E_x E_q(z|x) [log q(z|x) - log 1/N sum_n q(z|x_n)].

    Args:
      mean: float32[N, Z] of q(z|x).
      logvar: float32[N, Z].
      key: PRNG key of the samples of z.
      batch_size: examples at a time; each is compared with all N, so that memory is
        O(batch_size N).
      num_samples: samples of z for each example.
      progress: called with (examples done, N).

    Returns:
      Estimate, float32[] each, nats; between 0 and log N but for the noise of the
      samples. The error does not hold what comes of N being finite: near log N the
      data are too few to tell.
    """
    constant = mean.shape[-1] * math.log(2 * math.pi)
    precision = jnp.exp(-logvar)
    # (z - m)^2 p summed over Z by matrix products; centred, which loses fewer digits.
    centre = jnp.mean(mean, axis=0, keepdims=True)
    mean = mean - centre
    norms = jnp.sum(jnp.square(mean) * precision + logvar, axis=-1) + constant

    def example(inputs):
        own_mean, own_logvar, key = inputs
        noise = jax.random.normal(key, (num_samples, *own_mean.shape), mean.dtype)
        latent = own_mean[None] + jnp.exp(own_logvar / 2)[None] * noise
        log_q = -(jnp.sum(jnp.square(noise), -1) + jnp.sum(own_logvar) + constant) / 2
        squares = (jnp.matmul(jnp.square(latent), precision.T, precision='highest')
                   - 2 * jnp.matmul(latent, (mean * precision).T, precision='highest')
                   + norms[None])
        log_aggregate = jax.nn.logsumexp(-squares / 2, axis=-1) - math.log(len(mean))
        return jnp.mean(log_q - log_aggregate)

    keys = jax.random.split(key, len(mean))
    return mean_and_error(map_examples(example, (mean, logvar, keys), batch_size,
                                       progress))


def bits_per_dimension(nats: Any, dimensions: int) -> Any:
    """Nats an example to bits a dimension (a pixel, a character).

    >>> bits_per_dimension(8 * math.log(2), 4)
    2.0
    """
    return nats / (dimensions * math.log(2))
