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
        params, images, key, *,
        encode: Callable[[Any, jax.Array], tuple[jax.Array, jax.Array]],
        decode: Callable[[Any, jax.Array], jax.Array],
        log_likelihood: Callable[[jax.Array, jax.Array], jax.Array],
        num_samples: int, chunk_size: int, batch_size: int) -> Estimate:
    """-log p(x) estimated by importance sampling from the encoder; an upper bound.

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
    if min(num_samples, chunk_size, batch_size) < 1:
        raise ValueError(
            f'num_samples, chunk_size and batch_size are {num_samples}, {chunk_size} '
            f'and {batch_size}; give whole numbers > 0.')

    def log_weights(mean, logvar, image, keys):
        """log p(x, z) / q(z|x) of one sample of z for each key."""
        noise = jax.vmap(lambda k: jax.random.normal(k, mean.shape, mean.dtype))(keys)
        latents = jax.vmap(lambda e: mean + jnp.exp(logvar / 2) * e)(noise)
        copies = jnp.broadcast_to(image, (len(keys), *image.shape))
        # The two densities' factors of sqrt(2 pi) cancel.
        log_prior = -jnp.sum(jnp.square(latents), axis=-1) / 2
        log_q = -jnp.sum(jnp.square(noise), axis=-1) / 2 - jnp.sum(logvar) / 2
        return log_likelihood(decode(params, latents), copies) + log_prior - log_q

    def example(image_and_key):
        image, key = image_and_key
        mean, logvar = (out[0] for out in encode(params, image[None]))

        def add_chunk(log_sum, start):
            index = start + jnp.arange(chunk_size)
            keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(index)
            terms = log_weights(mean, logvar, image, keys)
            # The last chunk may reach beyond the last sample.
            terms = jnp.where(index < num_samples, terms, -jnp.inf)
            chunk_sum = jax.nn.logsumexp(terms).astype(log_sum.dtype)
            return jnp.logaddexp(log_sum, chunk_sum), None

        dtype = jnp.promote_types(mean.dtype, jnp.float32)
        log_sum, _ = jax.lax.scan(add_chunk, jnp.array(-jnp.inf, dtype),
                                  jnp.arange(0, num_samples, chunk_size))
        return jnp.log(num_samples).astype(dtype) - log_sum

    keys = jax.random.split(key, len(images))
    return mean_and_error(jax.lax.map(example, (images, keys), batch_size=batch_size))
