"""Families: blocks that one program moves, for they are the layers of one stack.

    block i of a family  =  layers i G ... i G + G - 1  of its leaves [L, ...]

The blocks of a family differ in their place alone, so one program serves them all, at a
place that is traced; a block that is none of a family has a program of its own. Their
leaves may be all of the stack's layers, or a part of each (its attention, its MLP).

Shapes   L layers in a stack, G in a block, n = L / G blocks in a family.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cdgm import blocks as trees
from cdgm import stacks
from cdgm.blocks import Labels, Params


class Layers(NamedTuple):
    """Which layers of a stack a block is.

    Attributes:
      family: name of the family; its blocks are called family/0 ... family/(n - 1).
      stack: path of the stack in the parameters, as `cdgm.blocks.leaf_path` gives it.
      number: of the block in its family.
      size: G, layers in a block.
      depth: L, layers in the stack.
      reach: which of the other layers ride with it, if any do: 'deeper' or 'all'.
    """

    family: str
    stack: str
    number: int
    size: int
    depth: int
    reach: stacks.Reach = 'deeper'


class Program(NamedTuple):
    """What moves one block, or any of a family.

    Attributes:
      name: of the block or of the family.
      block: the block, or the first of the family.
      first: number of that block among all.
      count: n, 1 for a block alone.
    """

    name: str
    block: Any
    first: int
    count: int = 1  # type: ignore[assignment]  # hides tuple.count


class Place(NamedTuple):
    """A block, as a program and a number in its family, which may be traced."""

    program: str
    number: Any


def programs(blocks: Mapping[str, Any]) -> dict[str, Program]:
    """Find the programs that serve all blocks, in their order.

    Raises:
      ValueError: blocks of a family do not stand together, or differ in more than their
        place.
    """
    found: dict[str, Program] = {}
    for index, (name, block) in enumerate(blocks.items()):
        layers = block.layers
        family = name if layers is None else layers.family
        if layers is not None and layers.number:
            _check_member(name, block, found.get(family), index)
            found[family] = found[family]._replace(count=layers.number + 1)
        elif family in found:
            raise ValueError(f'there are two blocks or families of the name {family!r};'
                             ' give cdgm.layers.blocks another name=.')
        else:
            found[family] = Program(family, block, index)
    for program in found.values():
        layers = program.block.layers
        if layers and program.count * layers.size != layers.depth:
            raise ValueError(
                f'the family {program.name!r} has {program.count} blocks, and '
                f'{layers.depth // layers.size} belong to it; take all that '
                'cdgm.layers.blocks returns. A schedule need not visit them all.')
    return found


def _check_member(name: str, block: Any, program: Program | None, index: int) -> None:
    if program is None or index != program.first + block.layers.number or any(
            mine is not other for mine, other in zip(
                block._replace(layers=None), program.block._replace(layers=None))) or (
                    block.layers._replace(number=0) != program.block.layers):
        raise ValueError(f'block {name!r} is not what cdgm.layers.blocks made of it, '
                         'which one program serves; change the whole family there.')


def label(params: Params, programs: Mapping[str, Program]) -> Labels:
    """Give every leaf the name of the program that moves it; see `blocks.label`."""
    stacked = roots(programs)

    def floating(path, leaf):
        """A coded leaf stands for the number that it codes."""
        coded = getattr(leaf, 'dtype', None) == jnp.uint16 and any(
            trees.selects(root, trees.leaf_path(path)) for root in stacked)
        return jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16) if coded else leaf

    if stacked:
        params = jax.tree_util.tree_map_with_path(floating, params)
    return trees.label(params, {name: program.block.leaves
                                for name, program in programs.items()})


def find(block: trees.StaticBlock | tuple[str, Any], names: Sequence[str],
         programs: Mapping[str, Program]) -> Place:
    """Find the place of a block: a name, a Python index, or a pair (family, number).

    Raises:
      ValueError: there is no such block.
    """
    if isinstance(block, tuple):
        family, number = block
        if family not in programs:
            raise ValueError(f'unknown family {family!r}; there are '
                             f'{", ".join(map(repr, programs))}.')
        if isinstance(number, int | np.integer):
            count = programs[family].count
            if not 0 <= number < count:
                raise ValueError(f'block {number} of the family {family!r} is out of '
                                 f'range; it has {count}, from 0 on.')
        return Place(family, number)
    name = trees.block_name(block, names)
    index = list(names).index(name)
    for program in programs.values():
        if program.first <= index < program.first + program.count:
            return Place(program.name, index - program.first)
    raise AssertionError(name)


def check(params: Params, labels: Labels, programs: Mapping[str, Program]) -> None:
    """Raise a ValueError if a family does not fit the parameters."""
    paths = jax.tree_util.tree_leaves_with_path(params)
    owners = jax.tree.leaves(labels)
    for root in roots(programs):
        subtree(params, root)
        deep = {program.name: program.block.layers.depth
                for program in programs.values()
                if program.block.layers and program.block.layers.stack == root}
        for (path, leaf), owner in zip(paths, owners):
            name = trees.leaf_path(path)
            inside = trees.selects(root, name)
            if owner in deep and not inside:
                raise ValueError(f'the family {owner!r} owns {name!r}, which is not in '
                                 f'its stack {root!r}; narrow its leaves.')
            if inside:
                _check_leaf(name, leaf, owner, root, deep)


def _check_leaf(name: str, leaf: Any, owner: str, root: str, deep: Mapping[str, int]
                ) -> None:
    if owner not in deep:
        raise ValueError(
            f'block {owner!r} owns {name!r} in the stack {root!r}, of which other '
            'blocks are layers. Make it by cdgm.layers.blocks too, with size= all the '
            'layers if it moves them at once.')
    if jnp.shape(leaf)[:1] != (deep[owner],):
        raise ValueError(
            f'{name!r} has the shape {jnp.shape(leaf)}, and the stack {root!r} has '
            f'{deep[owner]} layers on a leading axis; stack alike layers.')
    if jnp.result_type(leaf) == jnp.float16:
        raise ValueError(f'{name!r} is float16, whose range is too small to train in; '
                         'a stack at rest is float32 or bfloat16.')


def check_on_device(leaves: Any, what: str) -> None:
    """Raise a ValueError if any of the leaves is in host memory; `what` needs them."""
    if stacks.on_host(leaves):
        raise ValueError(
            f'{what} at once, and they are in host memory, of which one block at a time'
            ' moves; visit the blocks in turn without riders, or bring the stack to the'
            ' device by jax.device_put(stack, jax.memory.Space.Device).')


def roots(programs: Mapping[str, Program], names: Iterable[str] | None = None
          ) -> list[str]:
    """Paths of the stacks of all families, or of those named."""
    return list(dict.fromkeys(
        program.block.layers.stack for name, program in programs.items()
        if program.block.layers and (names is None or name in names)))


def subtree(tree: Any, root: str) -> Any:
    """Return the part of a tree at a path.

    Raises:
      ValueError: there is none.
    """
    for path, part in jax.tree_util.tree_flatten_with_path(
            tree, is_leaf=lambda path, _: trees.leaf_path(path) == root,
            is_leaf_takes_path=True)[0]:
        if trees.leaf_path(path) == root:
            return part
    raise ValueError(f'there is no stack at {root!r} in the parameters; give the path '
                     "of the subtree whose leaves are [L, ...], as in 'layers'.")


def replace(tree: Any, parts: Mapping[str, Any]) -> Any:
    """Put other parts at the paths of a tree."""
    if not parts:
        return tree
    return jax.tree_util.tree_map_with_path(
        lambda path, part: parts.get(trees.leaf_path(path), part), tree,
        is_leaf=lambda path, _: trees.leaf_path(path) in parts, is_leaf_takes_path=True)


def take_block(leaves: Any, number: Any, layers: Layers) -> Any:
    """Take a block out of leaves [L, ...]: [...] if it is one layer, else [G, ...]."""
    return stacks.take(leaves, number * layers.size, layers.size)


def put_block(leaves: Any, own: Any, number: Any, layers: Layers) -> Any:
    """Put a block back; the inverse of `take_block`."""
    return stacks.put(leaves, own, number * layers.size, layers.size)


def divide(leaf: jax.Array, size: int) -> jax.Array:
    """Give the blocks of a leaf [L, ...] an axis: [n, ...], or [n, G, ...]."""
    return leaf if size == 1 else leaf.reshape(-1, size, *leaf.shape[1:])


def rounding_key(count: jax.Array, purpose: int) -> jax.Array:
    """A key for the rounding at a step: 0 of the block, 1 of what rides with it.

    It follows from the count alone, so that a run that goes on rounds as it would have.
    """
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(0), count), purpose)
