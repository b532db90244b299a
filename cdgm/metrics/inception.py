"""The inception score: is a classifier sure of samples, and of different classes?

    IS = exp( mean_i sum_c p(c|x_i) (log p(c|x_i) - log p(c)) ),  p(c) = mean_i p(c|x_i)

From 1, all alike, to the number of classes. It does not see whether samples look like
data, nor whether a class has more than one of them.

Source   Salimans et al. 2016 (arXiv:1606.03498) section 4.
"""

import jax
import jax.numpy as jnp


def inception_score(logits: jax.Array) -> jax.Array:
    """Inception score of samples, all of them in one group.

    Args:
      logits: float32[N, C], of a classifier.

    Returns:
      float32[], from 1 to C.

    >>> round(float(inception_score(100 * jnp.eye(4))), 3)
    4.0
    """
    log_p = jax.nn.log_softmax(logits)
    log_marginal = jax.nn.logsumexp(log_p, axis=0, keepdims=True) - jnp.log(len(log_p))
    return jnp.exp(jnp.mean(jnp.sum(jnp.exp(log_p) * (log_p - log_marginal), axis=1)))
