"""Losses of language models: how well each token is told from those before it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax


def token_cross_entropy(hidden: jax.Array, unembedding: jax.Array, targets: jax.Array,
                        chunk: int | None = None) -> jax.Array:
    """-log p(target) by a softmax over the vocabulary, in nats, averaged over tokens.

    Args:
      hidden: float[N, D], what the head is given.
      unembedding: float[D, V]; logits = hidden @ unembedding.
      targets: int32[N].
      chunk: tokens at a time, dividing N. The logits of all, [N, V], are then never
        held, and the backward pass computes those of a chunk anew. All if left out.

    Returns:
      float[].

    Raises:
      ValueError: chunk does not divide N.

    >>> float(token_cross_entropy(jnp.zeros((4, 2)), jnp.zeros((2, 8)),
    ...                           jnp.zeros(4, jnp.int32), chunk=2) / jnp.log(8))
    1.0
    """
    def total(hidden, targets):
        return jnp.sum(optax.softmax_cross_entropy_with_integer_labels(
            hidden @ unembedding, targets))

    count = len(targets)
    if chunk is None:
        return total(hidden, targets) / count
    if chunk < 1 or count % chunk:
        raise ValueError(f'chunks of {chunk} do not divide {count} tokens; give a '
                         'divisor.')

    def add(so_far, part):
        return so_far + jax.checkpoint(total, prevent_cse=False)(*part), None

    parts = jax.tree.map(lambda x: x.reshape(-1, chunk, *x.shape[1:]),
                         (hidden, targets))
    return lax.scan(add, jnp.zeros((), hidden.dtype), parts)[0] / count


def next_token_loss(params: Any, batch: jax.Array, key: Any, *,
                    hidden: Callable[[Any, jax.Array], jax.Array],
                    unembedding: Callable[[Any], jax.Array], chunk: int | None = None
                    ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The loss of a language model, in nats a token, averaged over the minibatch.

    Args:
      params: of the model.
      batch: int32[B, T + 1]; each token but the first is to be told.
      key: not used.
      hidden: (params, int32[B, T]) -> float[B, T, D].
      unembedding: params -> float[D, V].
      chunk: see `token_cross_entropy`.

    Returns:
      (float[], {}), a `cdgm.LossFn` once the model is bound.
    """
    del key
    x = hidden(params, batch[:, :-1])
    return token_cross_entropy(x.reshape(-1, x.shape[-1]), unembedding(params),
                               batch[:, 1:].reshape(-1), chunk), {}
