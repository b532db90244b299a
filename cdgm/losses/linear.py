"""-ELBO of the linear variational autoencoder, its expectation over z in closed form.

    -ELBO = (E|x - W m - b|^2 + tr W S W') / (2 s^2) + D log(s sqrt(2 pi))
            + (E|m|^2 + tr S - Z - log det S) / 2,      m = V x + c

S is diagonal, exp logvar, or a full covariance. Without noise, each of four blocks has
an exact minimum: it is quadratic in (V, c) and in (W, b), and of the form
a e^u - m u in each log S_j and in log s^-2, or tr(R S) - log det S in S.

Shapes   B batch, D dimensions, Z latent.
Units    nats, averaged over the batch.
Sources  Lucas et al. 2019 (arXiv:1911.02469) eq. 7.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp


def linear_neg_elbo(params: Any, batch: jax.Array, key: Any) -> tuple[jax.Array, None]:
    """-ELBO of `cdgm.models.linear_vae` without noise.

    Args:
      params: encoder: weight V float[Z, D], bias c float[Z], and logvar float[Z] or
        covariance float[Z, Z]; decoder: weight W float[D, Z], bias b float[D],
        log_sigma float[].
      batch: float[B, D].
      key: ignored.

    Returns:
      (float[], None), nats, averaged over the batch.
    """
    del key
    encoder, decoder = params['encoder'], params['decoder']
    weight, log_sigma = decoder['weight'], decoder['log_sigma']
    mean = batch @ encoder['weight'].T + encoder['bias'].reshape(1, -1)
    errors = batch - mean @ weight.T - decoder['bias'].reshape(1, -1)
    if 'covariance' in encoder:
        spread = encoder['covariance']
        log_det = jnp.linalg.slogdet(spread)[1]
    else:
        spread, log_det = jnp.diag(jnp.exp(encoder['logvar'])), encoder['logvar'].sum()
    squares = (jnp.sum(jnp.square(errors)) / len(batch)
               + jnp.sum((weight @ spread) * weight))
    kl = (jnp.sum(jnp.square(mean)) / len(batch) + jnp.trace(spread) - len(spread)
          - log_det) / 2
    distortion = (squares * jnp.exp(-2 * log_sigma) / 2 + batch.shape[-1]
                  * (log_sigma + math.log(2 * math.pi) / 2))
    return distortion + kl, None
