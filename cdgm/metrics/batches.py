"""A function of one example over a whole set, some examples at a time.

Unlike `jax.lax.map` alone it can say how far it is, and the rest that does not fill a
batch costs a batch, not a program of its own.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Progress = Callable[[int, int], None]  # (examples done, of how many)


def check_positive(**sizes: int) -> None:
    """Raise a ValueError unless all are whole numbers > 0."""
    if min(sizes.values()) < 1:
        seen = ', '.join(f'{name} {size}' for name, size in sizes.items())
        raise ValueError(f'{seen}: give whole numbers > 0.')


def map_examples(function: Callable[[Any], Any], examples: Any, batch_size: int,
                 progress: Progress | None = None) -> Any:
    """Apply a function to every example.

    Args:
      function: one example, without its leading axis -> a pytree of arrays.
      examples: a pytree of arrays with a leading axis N, such as (images, keys).
      batch_size: examples at a time; it changes memory and not the result.
      progress: called with (examples done, N) after each batch, from within a compiled
        program too.

    Returns:
      What the function returns, with a leading axis N.

    Raises:
      ValueError: batch_size is not positive, or there is no example.

    >>> map_examples(lambda x: 2 * x, jnp.arange(5), batch_size=2).tolist()
    [0, 2, 4, 6, 8]
    """
    check_positive(batch_size=batch_size)
    examples = jax.tree.map(jnp.asarray, examples)  # rows by a traced index
    count = len(jax.tree.leaves(examples)[0])
    if not count:
        raise ValueError('there is no example to evaluate (length 0); give some.')
    batch_size = min(batch_size, count)
    batches = -(-count // batch_size)
    # The last batch is filled with examples that are thrown away again.
    index = (jnp.arange(batches * batch_size) % count).reshape(batches, batch_size)

    def batch(number_and_rows):
        number, rows = number_and_rows
        out = jax.vmap(function)(jax.tree.map(lambda x: x[rows], examples))
        if progress is not None:
            jax.debug.callback(_report(progress, batch_size, count), number,
                               jax.tree.leaves(out)[0].ravel()[0])
        return out

    out = jax.lax.map(batch, (jnp.arange(batches), index))
    return jax.tree.map(
        lambda x: x.reshape(batches * batch_size, *x.shape[2:])[:count], out)


def _report(progress: Progress, batch_size: int, count: int) -> Callable[..., None]:
    # The second argument, a result, holds the callback back until the batch is done.
    return lambda number, result: progress(
        min((int(number) + 1) * batch_size, count), count)
