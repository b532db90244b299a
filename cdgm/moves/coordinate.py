"""Scalar coordinates: a step that moves one entry of a block, chosen by a traced index.

    w_i <- prox(w_i - g_i / L_i, 1 / L_i),    g_i = d L_b / d w_i,    w_j unchanged

The derivative is a forward-mode one: a single `jax.jvp` along the one-hot tangent e_i,
which gives the loss and g_i together, so no gradient of the block is formed. A loss may
then hold a loop of traced length, which has no reverse mode, and a long scan keeps no
activations. The arithmetic is that of a gradient, not less: a pass and its tangent, one
to three products a dense layer. One entry is read and one written, by a gather and a
scatter, so thousands of entries need neither thousands of branches nor a longer
program, and the other entries keep their bits.

A solver that knows its model to be linear carries the residual and reads one column of
the data a step; here the loss is any function, so every step is a pass over the data.

Legend   w float[N], the leaves of the block, each ravelled row by row, in the order of
         `jax.tree.leaves`, as `jax.flatten_util.ravel_pytree` joins them;
         i int32[], 0 <= i < N; L float[] or float[N], bounds of d^2 L_b / d w_i^2.
Sources  Nesterov 2012, SIAM J. Optim. 22(2), section 2 (step 1 / L_i);
         Wright 2015 (arXiv:1502.04759), algorithm 3 (proximal step).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from cdgm.blocks import check_real
from cdgm.gradient_move import Evaluation, Move
from cdgm.moves.proximal import Prox
from cdgm.schedules import Schedule


class CoordinateState(NamedTuple):
    """What a coordinate move carries.

    Attributes:
      count: int32[], steps of this block, which its schedule over entries counts by.
    """

    count: jax.Array  # type: ignore[assignment]  # hides tuple.count


def coordinate_move(lipschitz: ArrayLike, prox: Prox | None = None,
                    entries: Schedule | None = None) -> Move:
    """Move one entry of the block by a proximal step of length 1 / L_i.

    The entry is the extra argument of `descent.step(..., entry=i)`, or of
    `descent.visit(..., entry=indices)`, int32[K]; else the schedule's. A traced index
    out of range moves nothing and gives a loss of 0, as that of a block does. Leaves
    without entries stay out of the count.

    Args:
      lipschitz: float[] or float[N], bounds L_i of the second derivative of the loss
        along each entry. May be traced. An entry with L_i = 0 does not move.
      prox: a map of `cdgm.moves.proximal`, the penalty or constraint of every entry.
        The loss that the step reports is the smooth one, without the penalty.
      entries: a schedule over the N entries, by the block's own count. Permute, do not
        cycle: a fixed order can be slower by N^2 / (4 pi^2), see `cdgm.schedules`.

    Returns:
      A `Move`; its `grad_norm` is |g_i|, the only part of the gradient computed.

    Raises:
      TypeError: at `init`, a leaf is complex.
      ValueError: at `init`, `lipschitz` or `entries` is for another number of entries,
        or there is none; at the first trace, no entry is given or a static one is out
        of range.

    >>> from cdgm import Block, block_descent
    >>> def loss(w, batch, key):
    ...     return (w[0] ** 2 + 4 * w[1] ** 2) / 2, None
    >>> move = coordinate_move(jnp.array([1.0, 4.0]))
    >>> descent = block_descent({'w': Block('', loss, move)})
    >>> state = descent.init(jnp.array([3.0, 5.0]))
    >>> state, info = descent.step(state, None, jax.random.key(0), 'w', entry=1)
    >>> print(state.params, info.loss, info.grad_norm)
    [3. 0.] 54.5 20.0
    """
    def init(active):
        check_real(active, 'coordinate_move')
        size = _size(active)
        if not size:
            raise ValueError('the block has no entry to move: all its leaves are empty '
                             '(size 0). Leave them to an optax transformation.')
        if jnp.shape(lipschitz) not in ((), (size,)):
            raise ValueError(f'lipschitz has shape {jnp.shape(lipschitz)}; give one '
                             f'number, or one for each of the {size} entries.')
        if entries is not None and entries.num_blocks != size:
            raise ValueError(f'the schedule is written for {entries.num_blocks} '
                             f'entries, and the block has {size}; write it for all.')
        return CoordinateState(jnp.zeros((), jnp.int32))

    def apply(objective, active, state, *, entry=None, **extra):
        size = _size(active)
        entry = _chosen(entry, entries, state.count, size)
        places = _places(active, entry)
        tangent = jax.tree.map(_one_hot, active, places)
        loss, slope, aux = jax.jvp(objective, (active,), (tangent,), has_aux=True)
        bound = jnp.broadcast_to(lipschitz, (size,))[entry]
        step = jnp.where(bound > 0, 1 / jnp.where(bound > 0, bound, 1), 0)

        def moved(leaf, place):
            if not leaf.size:
                return leaf  # there is no place in it to read from
            flat = leaf.reshape(-1)
            value = flat.at[place].get(mode='clip') - step * slope
            value = value if prox is None else prox(value, step)
            value = value.astype(leaf.dtype)
            return flat.at[place].set(value, mode='drop').reshape(leaf.shape)

        valid = (entry >= 0) & (entry < size)
        seen = Evaluation(jnp.where(valid, loss, 0), aux, jnp.abs(slope))
        return (jax.tree.map(moved, active, places), CoordinateState(state.count + 1),
                seen)

    return Move(init, apply)


def coordinate_lipschitz(inputs: jax.Array) -> jax.Array:
    """Second derivatives of least squares along each weight.

    Of mean_n 1/2 (y_n - x_n w)^2 they are L_j = ||X_j||^2 / N, exactly, so that a step
    of 1 / L_j minimises over w_j. Without the 1 / N, steps are N times too short.

    Args:
      inputs: X, floating[N, D].

    Returns:
      floating[D], in units of the loss per squared weight.

    >>> print(coordinate_lipschitz(jnp.array([[1.0, 2.0], [1.0, 0.0]])))
    [1. 2.]
    """
    return jnp.mean(jnp.square(inputs), axis=0)


def _size(active) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(active))


def _chosen(entry, entries: Schedule | None, count, size: int) -> jax.Array:
    """The entry to move: the one that is given, or else the schedule's."""
    if entry is None and entries is None:
        raise ValueError('no entry to move: give step(..., entry=index), or '
                         'coordinate_move(..., entries=schedule).')
    if isinstance(entry, int) and not 0 <= entry < size:
        raise ValueError(f'entry {entry} is out of range; the block has {size} '
                         f'entries, 0 … {size - 1}.')
    if entry is None:
        entry = entries(count)  # type: ignore[misc]
    return jnp.asarray(entry, jnp.int32)


def _places(active, entry) -> Any:
    """Where in each leaf the entry is; the leaf's size, so nowhere, in all but one.

    A negative index would count from the end of a leaf, hence the `where`.
    """
    leaves, treedef = jax.tree.flatten(active)
    places, start = [], 0
    for leaf in leaves:
        here = (entry >= start) & (entry < start + leaf.size)
        places.append(jnp.where(here, entry - start, leaf.size))
        start += leaf.size
    return jax.tree.unflatten(treedef, places)


def _one_hot(leaf, place) -> jax.Array:
    if not leaf.size:
        return leaf
    return jnp.zeros(leaf.size, leaf.dtype).at[place].set(1, mode='drop').reshape(
        leaf.shape)
