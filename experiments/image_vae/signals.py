"""What a choice of blocks is told of held-out images, see `Task.signals`."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from cdgm import losses, metrics
from experiments.image_vae.nets import Model

WATCHED = 1000  # images for the information
_REFINED = 100  # of them, for the gap
_CHUNK = 250
_REFINEMENT = metrics.Refinement(steps=25, num_samples=2, final_samples=20)
_LITTLE = 0.1  # nats, below which a KL is none


def signals(model: Model, images: jax.Array, key: jax.Array, log_likelihood
            ) -> dict[str, Callable[..., jax.Array]]:
    """The mutual information, and how good the encoder's inference is.

    Args:
      model: the nets.
      images: float32[WATCHED, H, W, C] or fewer.
      key: PRNG key, one for every epoch, so that they compare.
      log_likelihood: hyper -> likelihood.
    """
    def information(params, hyper):
        """Mutual information of image and latent, nats (He et al. 2019)."""
        return metrics.mutual_information(
            *model.encode(params, images), key, batch_size=_CHUNK).mean

    def inference(params, hyper):
        """Minus the amortisation gap, as a share of the KL; of fewer images."""
        few = images[:_REFINED]
        gap = metrics.amortisation_gap(
            params, few, key, encode=model.encode, decode=model.decode,
            log_likelihood=log_likelihood(hyper), batch_size=_REFINED,
            refinement=_REFINEMENT).mean
        kl = jnp.mean(losses.gaussian_kl(*model.encode(params, few)))
        return -gap / jnp.maximum(kl, _LITTLE)

    return {'information': information, 'inference': inference}
