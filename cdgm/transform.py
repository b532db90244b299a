"""Coordinate descent as an optax transformation, for people with their own loop.

    updates_b = U_b(gradient_b)  for the active block b,    -0.0 for every other leaf

It is handed the full gradient, so a step costs one; `cdgm.block_descent` differentiates
only the active block. The update of an inactive leaf is -0.0, because x + -0.0 keeps
every bit of x while x + 0.0 turns -0.0 into 0.0. The state of an inactive block is not
touched either, for Adam would move on by momentum under a zero gradient.
"""

import enum
from collections.abc import Callable, Mapping, Sequence
from functools import partial, reduce
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from optax.tree_utils._state_utils import _ParamsPlaceholder

from cdgm import blocks as trees
from cdgm.blocks import Labels, Params
from cdgm.extras import accepted_extras, check_extras
from cdgm.gradient_move import check_tx, initial_state
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

# What optax's own transformations take; given freely, as `optax.chain` does.
_KNOWN_EXTRAS = {'value', 'grad', 'value_fn', 'obj_fn', 'grad_fn'}


def coordinate_descent(
        txs: Tx | Mapping[str, Tx],
        param_labels: Labels | Callable[[Params], Labels] | None = None,
        *,
        schedule: Schedule | Callable[[jax.Array], Any] | None = None,
        selectors: Mapping[str, Any] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Update one block of the parameters per step.

    Clipping, decay, counts and learning rate schedules inside a tx see its own block
    and count its own updates. Updates have the dtype and shape that the tx gives them.

    Args:
      txs: block name -> optax transformation; or one transformation for all blocks,
        which are then those of the labels in alphabetical order.
      param_labels: pytree of block names, of the structure of the parameters or a
        prefix of it; or a function params -> such a pytree. A callable pytree whose
        leaves are all names is labels. A name may be a member of an `enum.Enum`, which
        stands for its `name`.
      schedule: count -> block index, in the order of `txs`; or bool[B], which of the
        blocks move. Without one, `update` must be told the block. Under
        `optax.inject_hyperparams`, which takes functions for hyperparameter schedules,
        list it in `static_args`.
      selectors: in place of `param_labels`, block name -> selector as `cdgm.Block` has
        them. A keyword, because a mapping of strings may be labels too.

    Returns:
      A transformation. Its `update` takes `block=`, a name or an index, in place of the
      schedule's choice; a name lets XLA drop the gradient of the other blocks, if
      gradient and update are in one `jit` and nothing in front needs all of it. Several
      blocks move from one point with a tuple of names, or with bool[B], which may be
      traced.
      `value_fn`, `obj_fn`, `grad_fn` and any extra of the gradient's structure are
      those of the whole tree, and each tx is given them for its block, if it takes
      them. flax's `TrainState.apply_gradients` passes no extras on (they replace
      fields): use a schedule there, or call `state.tx.update(..., block=...)` and
      `state.replace` by hand.

    Raises:
      TypeError: a tx is none, or the schedule no function; at `update`, if a block is
        none, or an extra one that no tx takes.
      ValueError: at `init`, if a label has no tx, a tx no leaf, or the schedule
        is written for another number of blocks; at `update`, if there is neither
        schedule nor block.

    >>> from cdgm import cyclic
    >>> params = {'encoder': jnp.ones(()), 'decoder': jnp.ones(())}
    >>> tx = coordinate_descent(optax.sgd(0.5), {k: k for k in params},
    ...                         schedule=cyclic((1, 1)))
    >>> updates, state = tx.update(params, tx.init(params), params)
    >>> {name: float(update) for name, update in updates.items()}
    {'decoder': -0.5, 'encoder': -0.0}
    """
    _check_arguments(txs, param_labels, schedule, selectors)
    resolve = partial(_resolve, txs, param_labels, selectors)

    def init(params):
        if isinstance(params, _ParamsPlaceholder):
            inner = {name: tx.init(params) for name, tx in
                     _txs_of_placeholder(txs, param_labels, selectors).items()}
        else:
            inner = _init_each(resolve, schedule, params)
        return CoordinateDescentState(jnp.zeros((), jnp.int32), inner)

    def update(updates, state, params=None, *, block=None, **extra):
        labels, _, each = resolve(updates)
        check_extras(each.values(), extra.keys() - _KNOWN_EXTRAS, ('block',), 'update')
        moving = _moving(block, schedule, state.count, tuple(each))
        merged, inner = _update_each(moving, each, labels, updates, state, params,
                                     extra)
        return merged, CoordinateDescentState(
            optax.safe_increment(state.count), inner)

    return optax.GradientTransformationExtraArgs(init, update)


def _init_each(resolve, schedule, params) -> dict[str, Any]:
    """Check labels, txs and schedule against each other; block name -> tx state."""
    trees.check_floating(params)
    labels, used, each = resolve(params)
    # What a mask around this hides may be labelled for somebody else.
    here = set(jax.tree.leaves(labels)) if jax.tree.leaves(params) else set()
    if here and not here <= set(each) <= {*used, *here}:
        raise ValueError(f'the labels name blocks {used}, and there are txs for '
                         f'{sorted(each)}; give each block one tx.')
    if isinstance(schedule, Schedule) and each:
        check_num_blocks(schedule, tuple(each))
    return {name: jax.tree.map(_copied, initial_state(
        tx, trees.split(params, labels, name)[0])) for name, tx in each.items()}


def _update_each(moving, each, labels, updates, state, params, extra):
    """The updates of all blocks, merged, and block name -> tx state."""
    def moved(name, tx, updates, inner, whole, extra):
        theirs = None if whole is None else trees.split(whole, labels, name)[0]
        inner = sync_global_count(inner, state.count)
        return tx.update(updates, inner, theirs, **accepted_extras(tx, extra))

    # One conditional a block, not one switch: XLA copies what passes through a branch,
    # and through a switch pass the states of all blocks.
    parts, inner_states = [], {}
    for index, (name, tx) in enumerate(each.items()):
        mine = trees.split(updates, labels, name)[0]
        own = _restricted(extra, labels, name, updates, params)
        part, inner_states[name] = _choose(
            moving[index], lambda u, inner, name=name, tx=tx, own=own: moved(
                name, tx, u, inner, params, own), mine, state.inner_states[name])
        parts.append(part)
    return reduce(trees.merge, parts) if parts else updates, inner_states


def _check_arguments(txs, param_labels, schedule, selectors) -> None:
    for name, tx in txs.items() if isinstance(txs, Mapping) else [(None, txs)]:
        check_tx(tx, name)
    if schedule is not None and not callable(schedule):
        raise TypeError(f'the schedule is {schedule!r}; give a function count -> block '
                        'index, as cdgm.cyclic((5, 1)) or cdgm.sequence(...).')
    if (param_labels is None) == (selectors is None):
        raise ValueError('give either param_labels or selectors.')


def _copied(x):
    # Who donates a state must not delete the parameters that a tx keeps in it.
    return trees.copied(x) if isinstance(x, jax.Array) else x


def _plain(name):
    return name.name if isinstance(name, enum.Enum) else name


def _raw_labels(param_labels, selectors, tree):
    """Labels as they are given, Enum members by their names."""
    if selectors is not None:
        return trees.label(tree, {_plain(k): s for k, s in selectors.items()})
    named = _are_labels(param_labels) or not callable(param_labels)
    return jax.tree.map(_plain, param_labels if named else param_labels(tree))


def _are_labels(labels) -> bool:
    leaves = jax.tree.leaves(labels)
    return bool(leaves) and all(isinstance(x, str | enum.Enum) for x in leaves)


def _resolve(txs, param_labels, selectors, tree):
    """Labels of the tree's structure, names used, and the tx of each block by name."""
    if jax.tree.leaves(tree):
        raw = _raw_labels(param_labels, selectors, tree)
        labels = trees.spread(raw, tree)
    else:
        raw, labels = (), tree
    # Of the labels as given: `optax.masked` around may hide all leaves of a block.
    used = sorted(set(jax.tree.leaves(raw)))
    return labels, used, _each(txs, used)


def _each(txs, used) -> dict[str, Tx]:
    each = txs if isinstance(txs, Mapping) else dict.fromkeys(used, txs)
    # Not wrapped to take **extra: `accepted_extras` asks what each one takes.
    return {_plain(name): tx for name, tx in each.items()}


def _txs_of_placeholder(txs, param_labels, selectors) -> dict[str, Tx]:
    """Txs by name where `optax.tree.map_params` asks for a state without params."""
    if isinstance(txs, Mapping):
        return _each(txs, ())
    if selectors is not None:
        return _each(txs, map(_plain, selectors))
    if not _are_labels(param_labels):
        raise ValueError('optax.tree.map_params cannot know the blocks of one tx and a '
                         'function as labels; give txs by name.')
    return _each(txs, map(_plain, jax.tree.leaves(param_labels)))


def _moving(block, schedule, count, names) -> Sequence[Any]:
    """Whether each block moves: bools if that is known while tracing."""
    if block is None and schedule is None:
        raise ValueError('there is no schedule; give update block=, a name or an index,'
                         f' of the blocks {list(names)}.')
    block = schedule(count) if block is None else block
    if isinstance(block, tuple | list):
        chosen = {_name(each, names) for each in block}
        return [name in chosen for name in names]
    if isinstance(block, enum.Enum | trees.StaticBlock):
        return [name == _name(block, names) for name in names]
    if getattr(block, 'dtype', None) == bool and block.shape == (len(names),):
        return list(jnp.asarray(block))
    trees.check_index(block, names)
    return [block == index for index in range(len(names))]


def _name(block, names) -> str:
    block = _plain(block)
    if isinstance(block, int | np.integer) and block in names and (
            names.index(block) != block):
        raise ValueError(f'block {block} is a name and another one\'s index among '
                         f'{list(names)}; name the blocks by strings.')
    return trees.block_name(block, names)


def _restricted(extra, labels, name, updates, params) -> dict:
    """Extras of the whole tree as extras of a block, the other leaves held."""
    def whole(mine):
        if params is None:
            raise ValueError('value_fn, obj_fn and grad_fn need the params; give '
                             'update the params.')
        return trees.merge(mine, trees.split(params, labels, name)[1])

    def restrict(key, value):
        if key in ('value_fn', 'obj_fn') and callable(value):
            return lambda mine, *args, **kw: value(whole(mine), *args, **kw)
        if key == 'grad_fn' and callable(value):
            return lambda mine, *args, **kw: trees.split(
                value(whole(mine), *args, **kw), labels, name)[0]
        there, here = map(jax.tree.structure, (value, updates))
        alike = there == here  # type: ignore[operator]
        if key != 'value' and alike:
            return trees.split(value, labels, name)[0]
        return value

    return {key: restrict(key, value) for key, value in extra.items()}


def _choose(active, moved, updates, inner):
    """`lax.cond`, which is none if the block is known while tracing."""
    if active is True:
        return moved(updates, inner)
    like, inner_like = jax.eval_shape(moved, updates, inner)

    def still(updates, inner):
        del updates  # The tx may give another shape: per-example gradients, bfloat16.
        return jax.tree.map(_negative_zeros, like), inner

    if active is False:
        return still(updates, inner)

    def still_alike(updates, inner):
        inner = jax.tree.map(
            lambda x: x if hasattr(x, 'dtype') else jnp.asarray(x), inner)
        rest, inner = still(updates, inner)
        return rest, jax.tree.map(
            lambda x, y: x if x.dtype == y.dtype else x.astype(y.dtype),
            inner, inner_like)

    return lax.cond(active, moved, still_alike, updates, inner)


def _negative_zeros(like):
    zero = (complex(-0.0, -0.0) if jnp.issubdtype(like.dtype, jnp.complexfloating)
            else -0.0)
    # On an explicit mesh the sharding is part of the type, which both branches share.
    return jnp.full(like.shape, zero, like.dtype, device=like.sharding)
