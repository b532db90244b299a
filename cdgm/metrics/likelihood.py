"""How probable a variational autoencoder finds images: bounds on log p(x).

    -ELBO(x)  >=  -E log 1/K sum_k p(x, z_k) / q(z_k|x)  >=  -log p(x),   z_k ~ q(z|x)

The middle one falls to the right one as K grows. Examples and samples are taken in
chunks, and have a key each, so that the chunks' sizes change memory and not the result.

Shapes   N images, D data axes, Z latent, K samples of z.
Units    nats per example, averaged over the images, with the standard error over them
         (that of a finite test set; the samples of z are not counted apart).
Sources  Burda et al. 2016 (arXiv:1509.00519) eq. 8.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from cdgm.metrics.batches import Progress, check_positive, map_examples
from cdgm.metrics.estimate import Estimate, mean_and_error


def dataset_neg_elbo(params, images, key, *, neg_elbo: Callable[..., tuple[Any, Any]],
                     batch_size: int) -> Estimate:
    """-ELBO over a whole set of images, whatever their number.

    Args:
      params: whatever neg_elbo takes.
      images: float32[N, *D].
      key: PRNG key of the latent noise.
      neg_elbo: (params, batch, key) -> (float32[] averaged over the batch, aux), the
        loss that training descends. It is evaluated on batches of one, under vmap.
      batch_size: images evaluated at a time.

    Returns:
      Estimate, float32[] each.
    """
    def example(image_and_key):
        image, key = image_and_key
        return neg_elbo(params, image[None], key)[0]

    keys = jax.random.split(key, len(images))
    return mean_and_error(jax.lax.map(example, (images, keys), batch_size=batch_size))


def importance_weighted_nll(
        params: Any, images: jax.Array, key: jax.Array, *,
        encode: Callable[[Any, jax.Array], tuple[jax.Array, jax.Array]],
        decode: Callable[[Any, jax.Array], Any],
        log_likelihood: Callable[[Any, jax.Array], jax.Array],
        num_samples: int, chunk_size: int, batch_size: int) -> Estimate:
    """-log p(x) of a model with a prior N(0, I); see `importance_nll`, which this is.

    Args:
      params: whatever encode and decode take.
      images: float32[N, *D].
      key: PRNG key of the latent noise.
      encode: (params, x) -> (mean, logvar) of q(z|x), float32[B, Z] each.
      decode: (params, latent) -> what log_likelihood takes.
      log_likelihood: (decoded, x) -> log p(x|z), float32[B], nats.
      num_samples: K.
      chunk_size: samples of z evaluated at a time for each image.
      batch_size: images evaluated at a time.

    Returns:
      Estimate, float32[] each.

    Raises:
      ValueError: num_samples, chunk_size or batch_size is not positive.
    """
    def log_weight(params, x, key):
        mean, logvar = encode(params, x)
        # One image at a time: the noise is of one latent, float32[Z].
        noise = jax.random.normal(key, mean.shape[1:], mean.dtype)[None]
        latent = mean + jnp.exp(logvar / 2) * noise
        # The two densities' factors of sqrt(2 pi) cancel.
        log_prior = -jnp.sum(jnp.square(latent), axis=-1) / 2
        log_q = -jnp.sum(jnp.square(noise), axis=-1) / 2 - jnp.sum(logvar, axis=-1) / 2
        return log_likelihood(decode(params, latent), x) + log_prior - log_q

    return mean_and_error(importance_nll(
        params, images, key, log_weight=log_weight, num_samples=num_samples,
        chunk_size=chunk_size, batch_size=batch_size))


def importance_nll(params: Any, examples: Any, key: jax.Array, *,
                   log_weight: Callable[[Any, Any, jax.Array], jax.Array],
                   num_samples: int, chunk_size: int, batch_size: int,
                   progress: Progress | None = None) -> jax.Array:
    """-log p(x) of each example by importance sampling; an upper bound on average.

    Args:
      params: whatever log_weight takes.
      examples: a pytree of arrays with a leading axis N.
      key: PRNG key of the samples.
      log_weight: (params, one example with a leading axis of 1, key) -> log p(x, z) /
        q(z|x) of one z that the key draws, float32[1], nats. What does not depend on
        the key (an encoder's pass) is computed once a chunk.
      num_samples: K.
      chunk_size: samples of z evaluated at a time for each example.
      batch_size: examples evaluated at a time.
      progress: called with (examples done, N).

    Returns:
      float32[N], nats. The logarithm of the mean is streamed over chunks.

    Raises:
      ValueError: num_samples, chunk_size or batch_size is not positive.
    """
    check_positive(num_samples=num_samples, chunk_size=chunk_size,
                   batch_size=batch_size)
    chunk_size = min(chunk_size, num_samples)

    def example(example_and_key):
        one, key = example_and_key
        one = jax.tree.map(lambda x: x[None], one)

        def add_chunk(log_sum, start):
            index = start + jnp.arange(chunk_size)
            keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(index)
            terms = jax.vmap(lambda k: log_weight(params, one, k)[0])(keys)
            # The last chunk may reach beyond the last sample.
            terms = jnp.where(index < num_samples, terms, -jnp.inf)
            chunk_sum = jax.nn.logsumexp(terms).astype(log_sum.dtype)
            return jnp.logaddexp(log_sum, chunk_sum), None

        form = jax.eval_shape(log_weight, params, one, key)
        dtype = jnp.promote_types(form.dtype, jnp.float32)
        log_sum, _ = jax.lax.scan(add_chunk, jnp.array(-jnp.inf, dtype),
                                  jnp.arange(0, num_samples, chunk_size))
        return jnp.log(num_samples).astype(dtype) - log_sum

    count = len(jax.tree.leaves(examples)[0])
    return map_examples(example, (examples, jax.random.split(key, count)), batch_size,
                        progress)
