"""Sampling from a language model, one token after another.

    p(t) ~ softmax(logits / temperature), of the k largest logits alone

Sources  Fan, Lewis & Dauphin 2018 (arXiv:1805.04833) for top-k.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax


def sample_tokens(logits: Callable[[jax.Array], jax.Array], prompt: jax.Array,
                  length: int, key: jax.Array, *, context: int,
                  temperature: float = 1., top_k: int | None = None) -> jax.Array:
    """Go on with a prompt.

    Args:
      logits: int32[B, T] -> float[B, T, V], of the token after each; causal, T at most
        `context`.
      prompt: int32[B, P], P >= 1.
      length: tokens to add.
      key: PRNG key[].
      context: tokens that the model sees; earlier ones are forgotten.
      temperature: below 1 for likelier tokens; 0 takes the likeliest.
      top_k: of how many tokens to choose; all if left out.

    Returns:
      int32[B, P + length], the prompt first.

    Raises:
      ValueError: the prompt is empty, or a setting is out of range.

    >>> def next_in_turn(tokens):
    ...     return jax.nn.one_hot((tokens + 1) % 5, 5)
    >>> sample_tokens(next_in_turn, jnp.array([[2, 3]]), 4, jax.random.key(0),
    ...               context=3, temperature=0.)
    Array([[2, 3, 4, 0, 1, 2]], dtype=int32)
    """
    batch, given = prompt.shape
    if not given or temperature < 0 or (top_k is not None and top_k < 1):
        raise ValueError(f'a prompt of {given} tokens, temperature {temperature} and '
                         f'top_k {top_k}: give a token at least, a temperature >= 0 '
                         'and top_k >= 1.')
    # A window of fixed length: what is behind the last token does not matter.
    tokens = jnp.zeros((batch, max(given + length, context)), jnp.int32)
    tokens = lax.dynamic_update_slice(tokens, prompt.astype(jnp.int32), (0, 0))

    def add(tokens, position):
        start = jnp.maximum(position - context, 0)
        window = lax.dynamic_slice_in_dim(tokens, start, context, axis=1)
        last = lax.dynamic_index_in_dim(logits(window), position - start - 1, axis=1,
                                        keepdims=False)
        chosen = _choose(last, jax.random.fold_in(key, position), temperature, top_k)
        return lax.dynamic_update_index_in_dim(tokens, chosen, position, axis=1), None

    tokens, _ = lax.scan(add, tokens, given + jnp.arange(length))
    return tokens[:, :given + length]


def _choose(logits: jax.Array, key: jax.Array, temperature: float, top_k: int | None
            ) -> jax.Array:
    if temperature == 0:
        return jnp.argmax(logits, -1).astype(jnp.int32)
    if top_k is not None and top_k < logits.shape[-1]:
        least = lax.top_k(logits, top_k)[0][:, -1:]
        logits = jnp.where(logits < least, -jnp.inf, logits)
    return jax.random.categorical(key, logits / temperature).astype(jnp.int32)
