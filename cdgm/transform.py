"""Coordinate descent as an optax transformation, for people with their own loop.

    updates_b = U_b(gradient_b)  for the active block b,    -0.0 for every other leaf

It is handed the full gradient, so a step costs one; `cdgm.block_descent` differentiates
only the active block. The update of an inactive leaf is -0.0, because x + -0.0 keeps
every bit of x while x + 0.0 turns -0.0 into 0.0. The state of an inactive block is not
touched either, for Adam would move on by momentum under a zero gradient.
"""

from collections.abc import Callable, Mapping
from functools import partial, reduce
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jax import lax

from cdgm import blocks as trees
from cdgm.blocks import Labels, Params
from cdgm.transforms import sync_global_count
from cdgm.schedules import Schedule, check_num_blocks


class CoordinateDescentState(NamedTuple):
    """What `coordinate_descent` carries.

    Attributes:
      count: int32[], updates taken.
      inner_states: block name -> state of its tx, which sees the active leaves only.
    """

    count: jax.Array  # type: ignore[assignment]  # hides tuple.count
    inner_states: dict[str, Any]


Tx: TypeAlias = optax.GradientTransformation


def coordinate_descent(
        txs: Tx | Mapping[str, Tx],
        param_labels: Labels | Callable[[Params], Labels],
        *,
        schedule: Schedule) -> optax.GradientTransformationExtraArgs:
    """Update one block of the parameters per step.

    Clipping, decay, counts and learning rate schedules inside a tx see its own block
    and count its own updates.

    Args:
      txs: block name -> optax transformation; or one transformation for all blocks,
        which are then those of the labels in alphabetical order.
      param_labels: pytree of block names, of the structure of the parameters or a
        prefix of it; or a function params -> such a pytree.
      schedule: count -> block index, in the order of `txs`.

    Returns:
      A transformation. Its `update` takes `block=`, a name or an index, in place of the
      schedule's choice; a name lets XLA drop the gradient of the other blocks, if
      gradient and update are in one `jit` and nothing in front needs all of it.

    Raises:
      ValueError: at `init`, if a label has no tx, a tx no leaf, or the schedule
        is written for another number of blocks.

    >>> from cdgm import cyclic
    >>> params = {'encoder': jnp.ones(()), 'decoder': jnp.ones(())}
    >>> tx = coordinate_descent(optax.sgd(0.5), {k: k for k in params},
    ...                         schedule=cyclic((1, 1)))
    >>> updates, state = tx.update(params, tx.init(params), params)
    >>> {name: float(update) for name, update in updates.items()}
    {'decoder': -0.5, 'encoder': -0.0}
    """

    def resolve(tree):
        """Labels of the tree's structure, and the tx of each block by name."""
        labels = param_labels(tree) if callable(param_labels) else param_labels
        labels = trees.spread(labels, tree)
        used = sorted(set(jax.tree.leaves(labels)))
        each = txs if isinstance(txs, Mapping) else dict.fromkeys(used, txs)
        return labels, used, {name: optax.with_extra_args_support(tx)
                              for name, tx in each.items()}

    def init(params):
        trees.check_floating(params)
        labels, used, txs = resolve(params)
        if set(used) != set(txs):
            raise ValueError(f'the labels name blocks {used}, and there are txs for '
                             f'{sorted(txs)}; give each block one tx.')
        check_num_blocks(schedule, tuple(txs))
        inner = {name: tx.init(trees.split(params, labels, name)[0])
                 for name, tx in txs.items()}
        return CoordinateDescentState(jnp.zeros((), jnp.int32), inner)

    def update(updates, state, params=None, *, block=None, **extra):
        labels, _, txs = resolve(updates)
        names = tuple(txs)
        if block is None:
            block = schedule(state.count)
        if isinstance(block, trees.StaticBlock):
            block = names.index(trees.block_name(block, names))

        def still(updates, inner, params):
            return jax.tree.map(lambda u: jnp.full_like(u, -0.0), updates), inner

        def moved(tx, updates, inner, params):
            inner = sync_global_count(inner, state.count)
            moved, inner = tx.update(updates, inner, params, **extra)
            # As `still` has it, whatever a tx computes in.
            return jax.tree.map(lambda u, g: u.astype(g.dtype), moved, updates), inner

        # One conditional a block, not one switch: XLA copies what passes through a
        # branch, and through a switch pass the states of all blocks.
        parts, inner_states = [], {}
        for index, (name, tx) in enumerate(txs.items()):
            mine, theirs = (trees.split(tree, labels, name)[0] if tree is not None
                            else None for tree in (updates, params))
            part, inner_states[name] = _choose(
                block == index, partial(moved, tx), still, mine,
                state.inner_states[name], theirs)
            parts.append(part)
        return reduce(trees.merge, parts), CoordinateDescentState(
            optax.safe_increment(state.count), inner_states)

    return optax.GradientTransformationExtraArgs(init, update)


def _choose(active, moved, still, *operands):
    """`lax.cond`, which is none if the block is known while tracing."""
    if isinstance(active, bool):
        return (moved if active else still)(*operands)
    return lax.cond(active, moved, still, *operands)
