"""Blocks: which leaves of the parameters move together.

The parameters are any pytree of floating arrays. Each leaf has a path, its keys joined
by '/': 'encoder/Dense_0/kernel' in a linen dict, 'encoder/kernel/value' in an
`nnx.State`, 'encoder/layers/0/weight' in an equinox module, '0' in a tuple. A selector
says which paths a block owns, and every leaf belongs to exactly one block.

A tree is split into an active and a frozen half of the same structure, in which the
missing leaves are `optax.MaskedNode()`, an empty subtree; so the halves may be
differentiated, optimised and merged again without the caller knowing the structure.
`None`, JAX's other empty subtree, is left to the users' trees and to optax, where some
transformations give it a meaning (no update, no projection).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

Params = Any  # a pytree of floating arrays
Labels = Any  # a pytree of block names, of the structure of the parameters
StaticBlock = str | int | np.integer  # a block known before tracing
Selector = str | Sequence[str] | Callable[[str], bool]


def leaf_path(path) -> str:
    """Name a key path as `jax.tree_util.tree_flatten_with_path` gives it.

    >>> params = {'layers': [{'w': 0.0}, {'w': 1.0}]}
    >>> [leaf_path(p) for p, _ in jax.tree_util.tree_flatten_with_path(params)[0]]
    ['layers/0/w', 'layers/1/w']
    """
    return jax.tree_util.keystr(path, simple=True, separator='/')


def selects(selector: Selector, path: str) -> bool:
    """Say whether a selector owns a path.

    Args:
      selector: leading path segments ('layers/1' owns 'layers/1/w', not
        'layers/10/w'; '' owns every path), a sequence of such names, or a predicate
        on the path.
      path: as `leaf_path` gives it.

    >>> selects('layers/1', 'layers/1/w'), selects('layers/1', 'layers/10/w')
    (True, False)
    >>> selects(lambda path: path.endswith('/bias'), 'layers/1/bias')
    True
    """
    if callable(selector):
        return bool(selector(path))
    if isinstance(selector, str):
        return selector in ('', path) or path.startswith(selector + '/')
    return any(selects(name, path) for name in selector)


def label(params: Params, selectors: Mapping[str, Selector]) -> Labels:
    """Give every leaf the name of the block that owns it.

    Args:
      params: a pytree of floating arrays.
      selectors: block name -> selector.

    Returns:
      A pytree of names with the structure of `params`.

    Raises:
      ValueError: a leaf has no block or several, or a block has no leaf.
      TypeError: a leaf is not a floating array.

    >>> label({'enc': {'w': 0.0}, 'dec': 1.0}, {'encoder': 'enc', 'decoder': 'dec'})
    {'dec': 'decoder', 'enc': {'w': 'encoder'}}
    """
    check_floating(params)
    paths = _paths(params)
    owners = [[n for n, s in selectors.items() if selects(s, p)] for p in paths]
    _check_cover(paths, owners, selectors)
    return jax.tree.unflatten(jax.tree.structure(params), [own[0] for own in owners])


def spread(labels: Labels, tree: Any) -> Labels:
    """Give every leaf the name that its subtree has, as `optax.partition` does.

    Args:
      labels: a pytree of names, of the structure of `tree` or a prefix of it.

    Raises:
      ValueError: the labels are not a prefix of the tree.

    >>> spread({'enc': 'encoder', 'dec': 'decoder'}, {'enc': {'w': 0.0}, 'dec': 1.0})
    {'dec': 'decoder', 'enc': {'w': 'encoder'}}
    """
    try:
        return jax.tree.map(lambda name, part: jax.tree.map(lambda _: name, part),
                            labels, tree)
    except ValueError as error:
        labelled, paths = _paths(labels), _paths(tree)
        bare = [path for path in paths if not selects(labelled, path)]
        empty = [name for name in labelled if not any(selects(name, p) for p in paths)]
        raise ValueError(
            f'the labels do not fit the tree: without a label are {_listed(bare)}; '
            f'labels without a leaf are {_listed(empty)}. Give the labels the '
            'structure of the parameters, or of a prefix of it.') from error


def _paths(tree: Any) -> list[str]:
    return [leaf_path(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def check_floating(params: Params) -> None:
    """Raise a TypeError that names the leaves that are not floating arrays."""
    bad = [f'{leaf_path(path)!r} is {_kind(leaf)}'
           for path, leaf in jax.tree_util.tree_leaves_with_path(params)
           if not _is_floating(leaf)]
    if bad:
        raise TypeError(
            f'{_listed(bad, str)}; parameters are floating arrays. Keep other leaves '
            'outside (equinox: eqx.partition(model, eqx.is_inexact_array); nnx: '
            'nnx.split(model, nnx.Param, ...)).')


def _is_floating(leaf) -> bool:
    dtype = getattr(leaf, 'dtype', None)
    return isinstance(leaf, float) if dtype is None else jnp.issubdtype(
        dtype, jnp.floating)


def _kind(leaf) -> str:
    return str(getattr(leaf, 'dtype', None) or f'a {type(leaf).__name__}')


def _check_cover(paths, owners, selectors: Mapping[str, Selector]) -> None:
    blocks = ', '.join(f'{name}={_show(s)}' for name, s in selectors.items())
    orphans = [path for path, names in zip(paths, owners) if not names]
    if orphans:
        raise ValueError(
            f'no block owns {_count(orphans)}: {_listed(orphans)}. Blocks select: '
            f'{blocks}. Give them to a block, or add a block that no schedule visits '
            'to freeze them.')
    for path, names in zip(paths, owners):
        if len(names) > 1:
            raise ValueError(
                f'{path!r} is owned by blocks {_listed(names)}; blocks must not '
                f'overlap. Blocks select: {blocks}. Narrow all but one of them.')
    for name in selectors:
        if [name] not in owners:
            raise ValueError(
                f'block {name!r} owns no leaf: it selects {_show(selectors[name])}, '
                f'and the leaves are {_listed(paths)}. Name leading path segments.')


def _show(selector: Selector) -> str:
    return getattr(selector, '__name__', None) or repr(selector)


def _count(items) -> str:
    return f'{len(items)} leaf' if len(items) == 1 else f'{len(items)} leaves'


def _listed(items: Sequence[str], show: Callable[[str], str] = repr,
            most: int = 8) -> str:
    more = f', … ({len(items) - most} more)' if len(items) > most else ''
    return ', '.join(map(show, items[:most])) + more if items else 'none'


def block_name(block: StaticBlock, names: Sequence[str]) -> str:
    """Name a static block, given by name or by index.

    Raises:
      ValueError: there is no such block.
    """
    if isinstance(block, str):
        if block not in names:
            raise ValueError(f'unknown block {block!r}; blocks are {_listed(names)}.')
        return block
    if not 0 <= block < len(names):
        raise ValueError(f'block index {block} is out of range; there are {len(names)} '
                         f'blocks: {_listed(names)}.')
    return names[int(block)]


def split(tree: Any, labels: Labels, name: str) -> tuple[Any, Any]:
    """Split a tree into the leaves that a block owns and the rest.

    Returns:
      (active, frozen), both of the structure of `tree` with `optax.MaskedNode()` for a
      leaf that is in the other half. The holes are leafwise: a hole in place of a whole
      subtree could not be merged back.

    >>> split({'a': 1.0, 'b': 2.0}, {'a': 'x', 'b': 'y'}, 'x')
    ({'a': 1.0, 'b': MaskedNode()}, {'a': MaskedNode(), 'b': 2.0})
    """
    hole = optax.MaskedNode()
    active = jax.tree.map(lambda own, leaf: leaf if own == name else hole, labels, tree)
    frozen = jax.tree.map(lambda own, leaf: hole if own == name else leaf, labels, tree)
    return active, frozen


def merge(active: Any, frozen: Any) -> Any:
    """Put two halves of a tree together; the inverse of `split`.

    Where a half has `None`, as an update that optax leaves out, so has the whole.

    >>> hole = optax.MaskedNode()
    >>> merge({'a': 1.0, 'b': hole}, {'a': hole, 'b': 2.0})
    {'a': 1.0, 'b': 2.0}
    """
    return jax.tree.map(lambda mine, other: other if is_hole(mine) else mine,
                        active, frozen, is_leaf=lambda x: x is None or is_hole(x))


def is_hole(part: Any) -> bool:
    """Say whether a part of a half stands for a leaf of the other half."""
    return isinstance(part, optax.MaskedNode)
