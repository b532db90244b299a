"""Layers: the blocks of a deep stack, one program for them all.

    def loss(params, batch, key):
        x = params['embedding'][batch]
        x = cdgm.layers.apply(layer, params['layers'], x)
        return cross_entropy(x @ params['head'], batch), None

    descent = cdgm.block_descent({
        'embedding': cdgm.Block('embedding', loss, optax.adam(1e-3)),
        **cdgm.layers.blocks('layers', 24, loss, optax.adam(1e-3)),
        'head': cdgm.Block('head', loss, optax.adam(1e-3))})
    state, info = descent.step(state, batch, key, 'layers/7')
    state, info = descent.visit(state, batches, keys, schedule(state.count))

The blocks are called layers/0, layers/1, ..., and are chosen as all blocks are: by
name, by a number that is traced, by a schedule or a selection rule. Their optimiser
state, their gradient and a float32 copy exist for the block that moves, and for no
other. The same loss, given the parameters as they are, trains jointly, or evaluates.

Groups of layers are blocks (`size`), and so are parts of each layer, by their leaves:

    **blocks('layers/attention', 24, loss, tx, stack='layers')
    **blocks('layers/mlp', 24, loss, tx, stack='layers')

or one matrix kind over all depths (size=24: one block).
"""

from typing import Any

import optax

from cdgm import stacks
from cdgm.blocks import Selector
from cdgm.descent import Block, LossFn
from cdgm.families import Layers
from cdgm.gradient_move import Move
from cdgm.stacks import (
    Layer, Reach, apply, decode, depth, encode, put, round_stochastically, take,
    to_host)

__all__ = ['Layer', 'apply', 'blocks', 'chain', 'decode', 'depth', 'encode', 'put',
           'round_stochastically', 'take', 'to_host']


def blocks(leaves: Selector, depth: int, loss: LossFn,
           tx: optax.GradientTransformation | Move, *, name: str | None = None,
           stack: str | None = None, size: int = 1, ephemeral: bool = True,
           reach: Reach = 'deeper', **fields: Any) -> dict[str, Block]:
    """Make the blocks of a stack.

    Args:
      leaves: which leaves of the parameters, all in the stack, see
        `cdgm.blocks.selects`; arrays [L, ...].
      depth: L.
      loss: see `cdgm.LossFn`; it reads the stack by `apply` alone.
      tx: of each block. It sees arrays [...] if a block is one layer, [G, ...] if
        several; float32 where the stack is bfloat16.
      name: of the family; `leaves` if left out.
      stack: path of the stack; `leaves` if left out.
      size: G, layers in a block.
      ephemeral: reset the tx's state at the start of each visit (BAdam does), so that
        none is held of the others; otherwise their states are kept, [n, ...].
      reach: which of the other layers ride if `riders` names the family: 'deeper' ones,
        whose gradient costs one product more, or 'all', for which the backward pass
        goes down to the first.
      **fields: others of `cdgm.Block`: riders, companions, batch.

    Returns:
      {f'{name}/{i}': Block} for i = 0 ... L / G - 1.

    Raises:
      ValueError: size does not divide depth, or a name is missing.

    >>> list(blocks('layers', 4, None, None, size=2))
    ['layers/0', 'layers/1']
    """
    path = leaves if isinstance(leaves, str) else None
    name, stack = (path if given is None else given for given in (name, stack))
    if name is None or stack is None:
        raise ValueError('the leaves are no path; give the name= of the family and the '
                         'path of its stack=.')
    if depth < 1 or size < 1 or depth % size:
        raise ValueError(f'{depth} layers are not blocks of {size}; give a size that '
                         'divides them.')
    if reach not in ('deeper', 'all'):
        raise ValueError(f"reach is {reach!r}; give 'deeper' or 'all'.")
    block = Block(leaves, loss, tx, ephemeral, **fields)
    return {f'{name}/{number}': block._replace(
        layers=Layers(name, stack, number, size, depth, reach))
        for number in range(depth // size)}


def chain(layer: Layer, stack: Any, own: Any, index, x: Any) -> Any:
    """Apply a stack with one layer given apart, for who writes a loop of his own.

    The derivative is that of `own`, and of `x`; the stack is taken for constant.

    Args:
      layer: (params of one layer, x) -> x, of the same shapes and dtypes.
      stack: floating arrays [L, ...]; entry `index` is not used.
      own: the active layer's parameters, arrays [...].
      index: int32[], 0 <= index < L; may be traced. It is not checked.
      x: what the first layer is given, a pytree of floating arrays.

    >>> import jax, jax.numpy as jnp
    >>> stack = {'w': jnp.array([2., 3., 5.])}
    >>> def output(own, index):
    ...     return chain(lambda p, x: p['w'] * x, stack, own, index, jnp.array(1.))
    >>> [float(jax.grad(output)(take(stack, i), i)['w']) for i in range(3)]
    [15.0, 10.0, 6.0]
    """
    return apply(layer, stacks.Opened(stack, own, index), x, remat=False)
