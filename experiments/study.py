"""What is trained: the model's blocks, how they take turns, and the data.

Shapes   S seeds, U updates a sweep, N images, M minibatches an epoch, B batch size.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

import cdgm
from experiments.settings import Order


class Study(NamedTuple):
    """What is trained, and on what.

    Attributes:
      init: key -> params.
      descent: the blocks.
      order: how they take turns.
      images: float32[N, ...], the training data.
      prepare: (float32[B, ...], key) -> what the losses are given.
      evaluate: params[S] -> name -> float[S].
      batch_size: B.
      fresh: whether every update has a minibatch of its own.
      keys: PRNG key[S].
    """

    init: Callable[[jax.Array], Any]
    descent: cdgm.Descent
    order: Order
    images: jax.Array
    prepare: Callable[[jax.Array, jax.Array], jax.Array]
    evaluate: Callable[[Any], dict[str, jax.Array]]
    batch_size: int
    fresh: bool
    keys: jax.Array

    @property
    def minibatches_per_epoch(self) -> int:
        """M; the images left over wait for another epoch's order."""
        return len(self.images) // self.batch_size

    @property
    def minibatches_per_sweep(self) -> int:
        """U with fresh minibatches, otherwise one."""
        return len(self.order.updates) if self.fresh else 1
