"""A classifier trained here, in place of a network of somebody else's weights.

Scores by a classifier's features or its classes hold for that classifier alone, so it
is trained from a seed, on the training split, and known by the hash of its parameters.

Shapes   N examples, B batch, C classes.
"""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

Augment = Callable[[jax.Array, jax.Array], jax.Array]


def train_classifier(init: Callable[[jax.Array], Any],
                     logits: Callable[[Any, jax.Array], jax.Array],
                     examples: jax.Array, labels: jax.Array, key: jax.Array, *,
                     epochs: int = 25, batch_size: int = 64,
                     learning_rate: float = 1e-3,
                     augment: Augment = lambda examples, key: examples) -> Any:
    """Minimise the cross-entropy by AdamW under a cosine schedule.

    Args:
      init: key -> params.
      logits: (params, examples) -> float32[B, C].
      examples: float32[N, ...].
      labels: int32[N].
      key: PRNG key of the initialisation, the order and the augmentation.
      epochs: times that the examples are gone through.
      batch_size: B; the examples left over wait for another epoch's order.
      learning_rate: at the start; it falls to zero.
      augment: (examples, key) -> examples, varied.

    Returns:
      The parameters at the end.

    Raises:
      ValueError: there are fewer examples than a batch.
    """
    batches = len(examples) // batch_size
    if not batches:
        raise ValueError(f'there are {len(examples)} examples and a batch is '
                         f'{batch_size}; give more examples, or a smaller batch_size.')
    tx = optax.adamw(optax.cosine_decay_schedule(learning_rate, epochs * batches))

    def loss(params, batch, targets, key):
        out = logits(params, augment(batch, key))
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(out, targets))

    def epoch(carry, key):
        order = jax.random.permutation(key, len(examples))[:batches * batch_size]

        def step(carry, chosen):
            params, state, key = carry
            key, mine = jax.random.split(key)
            grads = jax.grad(loss)(params, examples[chosen], labels[chosen], mine)
            updates, state = tx.update(grads, state, params)
            return (optax.apply_updates(params, updates), state, key), None

        return jax.lax.scan(step, carry, order.reshape(batches, batch_size))[0], None

    starting, training, shuffling = jax.random.split(key, 3)
    params = init(starting)
    carry = params, tx.init(params), training
    return jax.lax.scan(epoch, carry, jax.random.split(shuffling, epochs))[0][0]


def params_sha256(params: Mapping[str, Any]) -> str:
    """Hash parameters: their paths, types, shapes and bytes.

    >>> params_sha256({'w': np.zeros(2, np.float32)})[:8]
    '43957181'
    """
    total = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        array = np.asarray(leaf)
        head = f'{jax.tree_util.keystr(path)} {array.dtype} {array.shape}'
        total.update(head.encode())
        total.update(array.tobytes())
    return total.hexdigest()
