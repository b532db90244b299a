"""Switching: branches that each change a part of one tree, chosen by a traced index.

    leaf <- new leaf if the branch that ran changes it, else leaf

XLA's conditional copies what passes through a branch unchanged, which costs more than a
small block's own step. So a branch returns the leaves that it changes and no other, and
a select writes them back, in place if the tree is donated or carried by a loop.

All branches of a conditional return the same types. The changed leaves therefore leave
it in slots, as many of each type (shape, dtype and, on an explicit mesh, sharding) as
the branch needs that changes most of them; a branch fills with zeros the slots that it
has no leaf for. Blocks of alike layers share all their slots. On a mesh of Auto axes
the compiler lays slots out by itself.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def switch(index: jax.Array, branches: Sequence[Callable[..., tuple[Any, Any]]],
           changes: Sequence[Any], tree: Any, *operands: Any) -> tuple[Any, Any]:
    """`lax.switch`, but what a branch leaves as it is does not pass through it.

    Args:
      index: int32[], which branch runs.
      branches: functions (tree, *operands) -> (tree, report), of the same types.
      changes: for each branch a pytree of bools, of the structure of the tree: whether
        it may change the leaf. What else it changes is lost.
      tree: a pytree of arrays of any dtype, typed keys too; what is returned keeps
        their types, sharding included.
      *operands: pytrees of arrays.

    Returns:
      (tree, report) of the branch that ran.

    >>> def scale(name):
    ...     return lambda tree: ({**tree, name: 10 * tree[name]}, None)
    >>> changes = [{'x': name == 'x', 'y': name == 'y'} for name in 'xy']
    >>> tree, _ = jax.jit(lambda index: switch(
    ...     index, [scale('x'), scale('y')], changes, {'x': 1, 'y': 2}))(1)
    >>> {name: int(leaf) for name, leaf in tree.items()}
    {'x': 1, 'y': 20}
    """
    leaves, structure = jax.tree.flatten(tree)
    plans = [_plan(leaves, jax.tree.leaves(change)) for change in changes]
    # {slot: the place of a leaf of its type}
    slots = {slot: place for plan in plans for slot, place in plan.items()}

    def packed(branch, plan):
        def run(tree, *operands):
            old = jax.tree.leaves(tree)
            tree, report = branch(tree, *operands)
            new = jax.tree.leaves(tree)
            return [new[plan[slot]] if slot in plan else _filler(old[like])
                    for slot, like in slots.items()], report
        return run

    filled, report = lax.switch(index, list(map(packed, branches, plans)), tree,
                                *operands)
    writers = defaultdict(list)
    for branch, plan in enumerate(plans):
        for slot, place in plan.items():
            writers[place, slot].append(index == branch)
    found = dict(zip(slots, filled))
    for (place, slot), chosen in writers.items():
        leaves[place] = lax.select(reduce(jnp.logical_or, chosen), found[slot],
                                   leaves[place])
    return jax.tree.unflatten(structure, leaves), report


def _filler(leaf) -> jax.Array:
    """An array of a leaf's type, sharding included, whose values nobody reads."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
        return leaf  # a key, say: there is no zero of its type, and it is small
    return jnp.zeros_like(leaf)


def _plan(leaves, changed) -> dict[tuple, int]:
    """{(type, k): the place of the k-th leaf of that type that changes}."""
    plan: dict[tuple, int] = {}
    seen: Counter[tuple] = Counter()
    for place, leaf in enumerate(leaves):
        if changed[place]:
            kind = jax.typeof(leaf).update(weak_type=False)
            plan[kind, seen[kind]] = place
            seen[kind] += 1
    return plan
