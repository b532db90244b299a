"""Losses that differ from block to block: wake-sleep, and the split that collapses.

                 decoder descends                encoder descends
    ELBO         E_q[-log p(x|z)] + KL           the same
    wake-sleep   E_q[-log p(x, z)], x data       E_p(x, z)[-log q(z|x)], both dreamt
    split        E_q[-log p(x|z)]                KL(q(z|x) || p(z))

The decoder's gradient is that of the ELBO in all three: the KL does not depend on it.
Wake-sleep turns the encoder's KL around, KL(p(z|x) || q(z|x)) over what the model
dreams, and has no loss in common. The split is no ELBO: nothing asks the encoder to
tell images apart, so its minimum is q(z|x) = p(z), the collapsed posterior.

Shapes   B batch, D data axes, Z latent.
Units    nats, summed over dimensions, averaged over the batch.
Sources  Hinton et al. 1995, Science 268 (wake-sleep); Bornschein & Bengio 2015
         (arXiv:1406.2751) section 2.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from cdgm.losses.vae import ElboTerms, gaussian_kl, gaussian_log_density, neg_elbo


def reconstruction(params: Any, batch: jax.Array, key: jax.Array, **keywords: Any
                   ) -> tuple[jax.Array, ElboTerms]:
    """E_q[-log p(x|z)] alone; the keywords are those of `neg_elbo`.

    For the decoder this is the ELBO. For the encoder it is an autoencoder with noise.
    """
    return neg_elbo(params, batch, key, **{**keywords, 'beta': 0.})


def posterior_kl(params: Any, batch: jax.Array, key: Any, *, encode: Callable[
        [Any, jax.Array], tuple[jax.Array, jax.Array]]) -> tuple[jax.Array, None]:
    """KL(q(z|x) || N(0, I)) alone, float32[]; it does not see the decoder."""
    del key
    return jnp.mean(gaussian_kl(*encode(params, batch))), None


def sleep(params: Any, batch: jax.Array, key: jax.Array, *,
          encode: Callable[[Any, jax.Array], tuple[jax.Array, jax.Array]],
          decode: Callable[[Any, jax.Array], Any],
          sample_observation: Callable[[Any, jax.Array], jax.Array],
          latent_size: int) -> tuple[jax.Array, None]:
    """-log q(z|x) of pairs that the model dreams: the encoder's loss of wake-sleep.

    Args:
      params: whatever encode and decode take.
      batch: float32[B, *D]; only its length and dtype count.
      key: PRNG key of the dream.
      encode: (params, x) -> (mean, logvar), float32[B, Z] each.
      decode: (params, latent) -> what the observation is drawn from.
      sample_observation: (decoded, key) -> x ~ p(x|z), float32[B, *D].
      latent_size: Z.

    Returns:
      (float32[], None), nats. No gradient flows through the dream, so that the decoder
      has none of this loss.
    """
    latent_key, observation_key = jax.random.split(key)
    latent = jax.random.normal(latent_key, (len(batch), latent_size), batch.dtype)
    dream = jax.lax.stop_gradient(
        sample_observation(decode(params, latent), observation_key))
    return -jnp.mean(gaussian_log_density(latent, *encode(params, dream))), None
