"""Blocks: which leaves of the parameters move together.

The parameters are any pytree of floating or complex arrays. Each leaf has a path, its
keys joined by '/': 'encoder/Dense_0/kernel' in a linen dict, 'encoder/kernel/value' in
an `nnx.State`, 'encoder/layers/0/weight' in an equinox module, '0' in a tuple. A
selector says which paths a block owns, by name, by a predicate or by a mask as optax
has them, and every leaf belongs to exactly one block.

A tree is split into an active and a frozen half of the same structure, in which the
missing leaves are `optax.MaskedNode()`, an empty subtree; so the halves may be
differentiated, optimised and merged again without the caller knowing the structure.
`None`, JAX's other empty subtree, is left to the users' trees and to optax, where some
transformations give it a meaning (no update, no projection).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from functools import lru_cache
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax

Params = Any  # a pytree of floating or complex arrays
Labels = Any  # a pytree of block names, of the structure of the parameters
StaticBlock = str | int | np.integer  # a block known before tracing
# Any block: int32[] if it is traced; or a family, and the number of one of its blocks.
BlockIndex = StaticBlock | jax.Array | tuple[str, Any]
Mask = Any  # a pytree of bools, of the structure of the parameters or a prefix of it
Selector = str | Sequence[str] | Callable[[str], bool] | Mask


def leaf_path(path: jax.tree_util.KeyPath) -> str:
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
        'layers/10/w'; '' owns every path); a sequence or set of selectors, any of
        which may own the path; a predicate on the path; or a mask, a pytree of bools,
        whose leaf at the path or above it says so. What a mask leaves out it does not
        own.
      path: as `leaf_path` gives it.

    Raises:
      TypeError: the selector is none of these.

    >>> selects('layers/1', 'layers/1/w'), selects('layers/1', 'layers/10/w')
    (True, False)
    >>> selects(lambda path: path.endswith('/bias'), 'layers/1/bias')
    True
    >>> selects({'head': True, 'backbone': False}, 'backbone/w')
    False
    """
    return predicate(selector)(path)


def predicate(selector: Selector) -> Callable[[str], bool]:
    """Make of a selector a function path -> whether it owns the path, for many paths.

    Raises:
      TypeError: as `selects`.
    """
    if isinstance(selector, str):
        return lambda path: selector in ('', path) or path.startswith(selector + '/')
    if _is_mask(selector):
        marks = _marks(selector)
        return lambda path: any(marks.get(start, False) for start in _starts(path))
    if _is_collection(selector):
        # One look-up for all names: a block may list thousands.
        items: list[Any] = list(selector)  # type: ignore[arg-type]
        names = {item for item in items if isinstance(item, str)}
        others = [predicate(item) for item in items if not isinstance(item, str)]
        return lambda path: (not names.isdisjoint(_starts(path))
                             or any(owns(path) for owns in others))
    if callable(selector) and _is_leaf(selector):
        return lambda path: _asked(selector, path)
    raise TypeError(f'a selector is {_short(selector)}; give leading path segments as '
                    "'encoder', several of them, a function path -> bool, or a mask, a "
                    'pytree of bools.')


def _is_mask(selector) -> bool:
    if isinstance(selector, Iterator):  # JAX warns of them, and they end
        return False
    leaves = jax.tree.leaves(selector)
    return all(map(_is_mark, leaves)) and (
        bool(leaves) or isinstance(selector, Mapping))


def _is_mark(leaf) -> bool:
    return isinstance(leaf, bool | np.bool_) or (
        isinstance(leaf, np.ndarray | jax.Array) and leaf.dtype == bool
        and not leaf.shape and not isinstance(leaf, jax.core.Tracer))


def _is_collection(selector) -> bool:
    """Say whether it is several selectors; those of a tuple are no bools, or masks."""
    return (isinstance(selector, Sequence | Set) and not isinstance(selector, bytes)
            and not any(map(_is_mark, selector)))


def _is_leaf(tree) -> bool:
    return jax.tree_util.all_leaves([tree])


def _marks(mask: Mask) -> dict[str, bool]:
    return {leaf_path(path): bool(mark)
            for path, mark in jax.tree_util.tree_leaves_with_path(mask)}


@lru_cache(maxsize=2 ** 16)  # for each trace asks every block about every path
def _starts(path: str) -> frozenset[str]:
    """Leading segments of a path: '', 'a', 'a/b', 'a/b/c' of 'a/b/c'."""
    ends = (place for place, letter in enumerate(path) if letter == '/')
    return frozenset(['', path, *(path[:end] for end in ends)])


def _asked(function: Callable[[str], bool], path: str) -> bool:
    """Ask a predicate; one that makes a mask of parameters is no predicate."""
    remedy = ('a predicate is given the path of a leaf, a str, and returns a bool. '
              'Give a mask as a pytree of bools, not as a function of the params.')
    try:
        answer = function(path)
    except Exception as error:
        raise TypeError(f'the selector {_show(function)} fails at {path!r} '
                        f'({_first_line(error)}); {remedy}') from error
    if not isinstance(answer, bool | None) and not _is_leaf(answer):
        raise TypeError(f'the selector {_show(function)} returns {_short(answer)}; '
                        f'{remedy}')
    return bool(answer)


def label(params: Params, selectors: Mapping[str, Selector]) -> Labels:
    """Give every leaf the name of the block that owns it.

    Args:
      params: a pytree of floating or complex arrays.
      selectors: block name -> selector, see `selects`.

    Returns:
      A pytree of names with the structure of `params`.

    Raises:
      ValueError: a leaf has no block or several, a block has no leaf, or a mask does
        not fit the parameters.
      TypeError: a leaf is not a floating or complex array, a selector is none, or a
        class of the parameters cannot be rebuilt with other leaves.

    >>> label({'enc': {'w': 0.0}, 'dec': 1.0}, {'encoder': 'enc', 'decoder': 'dec'})
    {'dec': 'decoder', 'enc': {'w': 'encoder'}}
    """
    check_floating(params)
    paths = _paths(params)
    owned = {name: _owned(name, s, paths) for name, s in selectors.items()}
    owners = [[name for name in selectors if owned[name][i]]
              for i in range(len(paths))]
    _check_cover(paths, owners, selectors)
    return _rebuilt(jax.tree.structure(params), [own[0] for own in owners])


def _owned(name: str, selector: Selector, paths: Sequence[str]) -> list[bool]:
    """Which paths a block owns."""
    try:
        owns = predicate(selector)
        owned = [owns(path) for path in paths]
    except TypeError as error:
        raise TypeError(f'block {name!r}: {error}') from error
    if _is_mask(selector):
        bare, idle = _unmatched(_marks(selector), paths)
        if bare or idle:
            raise ValueError(
                f'the mask of block {name!r} does not fit the parameters: it says '
                f'nothing of {_listed(bare)}, and {_listed(idle)} of it are no leaves. '
                'Give each leaf, or a subtree of them, True or False.')
    return owned


def _unmatched(marked, paths: Sequence[str]) -> tuple[list[str], list[str]]:
    """Paths under nothing that is marked, and marks that no path is under."""
    under = {path: [start for start in _starts(path) if start in marked]
             for path in paths}
    used = {start for starts in under.values() for start in starts}
    return ([path for path in paths if not under[path]],
            [mark for mark in marked if mark not in used])


def _rebuilt(structure, leaves: Sequence[Any]) -> Any:
    """Put other leaves in the place of the parameters.

    Raises:
      TypeError: a class of the user's refuses them.
    """
    try:
        return jax.tree.unflatten(structure, leaves)
    except Exception as error:
        refused = _refusing(structure, leaves).__name__
        raise TypeError(
            f'the class {refused} of the parameters refuses names and holes in the '
            f'place of arrays ({_first_line(error)}), and a block is the tree with '
            'holes. Check shapes in a function that makes it, not in __post_init__ or '
            '__init__, which JAX runs whenever it rebuilds the tree; or pass a dict of '
            'its fields.') from error


def _refusing(structure, leaves: Sequence[Any]) -> type:
    """The class of the innermost node that cannot be built of the leaves."""
    start = 0
    for child in structure.children():
        part = leaves[start:start + child.num_leaves]
        start += child.num_leaves
        try:
            jax.tree.unflatten(child, part)
        except Exception:
            return _refusing(child, part)
    return structure.node_data()[0]


def spread(labels: Labels, tree: Any) -> Labels:
    """Give every leaf the name that its subtree has, as `optax.partition` does.

    Containers of other types, such as a dict of labels for a flax `FrozenDict` or an
    `nnx.State`, are matched by path.

    Args:
      labels: a pytree of names, of the structure of `tree` or a prefix of it.

    Raises:
      ValueError: the labels are not a prefix of the tree.

    >>> spread({'enc': 'encoder', 'dec': 'decoder'}, {'enc': {'w': 0.0}, 'dec': 1.0})
    {'dec': 'decoder', 'enc': {'w': 'encoder'}}
    """
    names, outer = jax.tree.flatten(labels)
    try:
        parts = outer.flatten_up_to(tree)  # type: ignore[attr-defined]
    except ValueError as error:
        return _spread_by_path(labels, tree, error)
    return _rebuilt(jax.tree.structure(tree), [
        name for name, part in zip(names, parts) for _ in jax.tree.leaves(part)])


def _spread_by_path(labels: Labels, tree: Any, error: ValueError) -> Labels:
    named = {leaf_path(path): name
             for path, name in jax.tree_util.tree_leaves_with_path(labels)}
    paths = _paths(tree)
    # An `optax.masked` around may leave of a labelled leaf no more than a hole.
    bare, _ = _unmatched(named, paths)
    _, empty = _unmatched(named, _paths(tree, is_leaf=is_hole))
    if bare or empty:
        raise ValueError(
            f'the labels ({_containers(labels)}) do not fit the tree '
            f'({_containers(tree)}): without a label are {_listed(bare)}; labels '
            f'without a leaf are {_listed(empty)}. Give the labels the structure of '
            'the parameters, or of a prefix of it.') from error
    owners = [next(named[start] for start in _starts(path) if start in named)
              for path in paths]
    return _rebuilt(jax.tree.structure(tree), owners)


def _containers(tree: Any) -> str:
    return ', '.join(kind.__name__ for kind in node_types(tree)) or 'a bare leaf'


def node_types(tree: Any) -> list[type]:
    """The types of the containers that a tree is made of, from the outside, once each.

    >>> node_types({'a': (1.0, {'b': 2.0})})
    [<class 'dict'>, <class 'tuple'>]
    """
    types: dict[type, None] = {}
    level: list[Any] = [jax.tree.structure(tree)]
    while level:
        types.update((node.node_data()[0], None) for node in level
                     if node.node_data() is not None)
        level = [child for node in level for child in node.children()]
    return list(types)


def _paths(tree: Any, is_leaf: Callable[[Any], bool] | None = None) -> list[str]:
    return [leaf_path(path) for path, _ in
            jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_leaf)]


def owned_arrays(tree: Any) -> Any:
    """Copy, for who donates a state must not delete an array that is in use elsewhere.

    A dtype makes the type strong: a weak one would change after the first step.

    Raises:
      TypeError: a leaf is no array.
    """
    def own(path, x):
        if not isinstance(x, get_args(jax.typing.ArrayLike)):
            raise TypeError(f'{leaf_path(path)!r} of the state is a '
                            f'{type(x).__name__}; give arrays, and let the loss close '
                            'over what is none.')
        if jnp.issubdtype(getattr(x, 'dtype', float), jax.dtypes.extended):
            return copied(x)
        return jnp.array(x, jnp.result_type(x))

    return jax.tree_util.tree_map_with_path(own, tree)


def copied(x: jax.Array) -> jax.Array:
    """Copy an array, also a typed key that is traced, which has no copy of its own."""
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(jnp.copy(jax.random.key_data(x)),
                                        impl=jax.random.key_impl(x))
    return jnp.copy(x)


def check_floating(params: Params) -> None:
    """Raise a TypeError that names the leaves that are not floating or complex."""
    bad = [f'{leaf_path(path)!r} is {_kind(leaf)}'
           for path, leaf in jax.tree_util.tree_leaves_with_path(params)
           if not _is_inexact(leaf)]
    if bad:
        raise TypeError(
            f'{_listed(bad, str)}; parameters are floating or complex arrays. Keep '
            'other leaves outside (equinox: eqx.partition(model, eqx.is_inexact_array);'
            ' nnx: nnx.split(model, nnx.Param, ...)).')


def check_real(active: Any, move: str) -> None:
    """Raise a TypeError that names complex leaves, for moves that are for real ones."""
    bad = [leaf_path(path) for path, leaf in
           jax.tree_util.tree_leaves_with_path(active) if jnp.iscomplexobj(leaf)]
    if bad:
        raise TypeError(f'{move} is for real leaves, and {_listed(bad)} are complex. '
                        'Use an optax transformation, or hold the real and the '
                        'imaginary part as leaves of their own.')


def _is_inexact(leaf) -> bool:
    dtype = getattr(leaf, 'dtype', None)
    return isinstance(leaf, float | complex) if dtype is None else jnp.issubdtype(
        dtype, jnp.inexact)


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
    return getattr(selector, '__name__', None) or _short(selector)


def _short(thing: Any, most: int = 80) -> str:
    text = ' '.join(repr(thing).split())
    return text if len(text) <= most else text[:most] + '…'


def _first_line(error: Exception) -> str:
    return ': '.join([type(error).__name__, *str(error).splitlines()[:1]])


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
      TypeError: it is traced, or neither a name nor an index.
    """
    if isinstance(block, jax.core.Tracer):
        raise TypeError('the block is traced, where a name or a Python index is needed;'
                        ' give a traced one to step or visit.')
    if not isinstance(block, StaticBlock):
        check_index(block, names)
    if isinstance(block, str):
        if block not in names:
            raise ValueError(f'unknown block {block!r}; blocks are {_listed(names)}.')
        return block
    if not 0 <= block < len(names):
        raise ValueError(f'block index {block} is out of range; there are {len(names)} '
                         f'blocks: {_listed(names)}.')
    return names[int(block)]


def block_names(blocks: Any, names: Sequence[str]) -> list[str]:
    """Name several static blocks, or one that is given by its name.

    Raises:
      ValueError, TypeError: as `block_name`.
    """
    if isinstance(blocks, str) and blocks in names:
        return [blocks]
    if not isinstance(blocks, Iterable):
        raise TypeError(f'the blocks are {_short(blocks)}; give a sequence of names of '
                        f'{_listed(names)}.')
    return [block_name(block, names) for block in blocks]


def check_index(block: Any, names: Sequence[str]) -> None:
    """Raise a TypeError if a block that is not static is no integer scalar."""
    dtype, shape = getattr(block, 'dtype', None), getattr(block, 'shape', ())
    if dtype is None or not jnp.issubdtype(dtype, jnp.integer) or shape:
        seen = _short(block) if dtype is None else f'{dtype}{list(shape)}'
        raise TypeError(f'the block is {seen}; give a name or an index, an integer '
                        f'scalar if it is traced, of the blocks {_listed(names)}.')


def split(tree: Any, labels: Labels, name: str) -> tuple[Any, Any]:
    """Split a tree into the leaves that a block owns and the rest.

    Returns:
      (active, frozen), both of the structure of `tree` with `optax.MaskedNode()` for a
      leaf that is in the other half. The holes are leafwise: a hole in place of a whole
      subtree could not be merged back.

    >>> split({'a': 1.0, 'b': 2.0}, {'a': 'x', 'b': 'y'}, 'x')
    ({'a': 1.0, 'b': MaskedNode()}, {'a': MaskedNode(), 'b': 2.0})
    """
    owners, structure = jax.tree.flatten(labels)
    leaves = structure.flatten_up_to(tree)  # type: ignore[attr-defined]
    hole = optax.MaskedNode()
    active = _rebuilt(structure, [leaf if own == name else hole
                                  for own, leaf in zip(owners, leaves)])
    frozen = _rebuilt(structure, [hole if own == name else leaf
                                  for own, leaf in zip(owners, leaves)])
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
