"""Free riders: other blocks move along with the active one, for a product each.

    theta_b <- theta_b - U_b(g_b),    theta_r <- theta_r - U_r(g_r) for each rider r,
    g = d L_b / d theta, taken once, at the one point

The backward pass to block b runs through all deeper blocks, which lie between it and
the loss, and knows the gradient at the output of each; by itself it throws them away. A
layer's own gradient is then one product more. In a chain of L equal layers (layer 0 is
the first), in products of a layer with one minibatch, a step of layer i costs

    2 L - i               alone
    3 L - 2 i - 1         with all L - 1 - i deeper layers as riders
    3 (L - i) - 1         the same, again on the same minibatch
    2 L - j - 1 + M       in general: M layers move, the first of them layer j

so a rider in front of the active layer costs more: the backward pass has to go on to
it. For layer 0 with all others it is the joint step, 3 L - 1.

A rider descends the *active* block's loss; between adversaries that is seldom meant.
Its transformation keeps no state, such as `optax.sgd(1e-3)` or a step by sign, so
riders cost no memory either, and its own tx neither knows nor moves. The active
block's tx, with its clipping and its reported gradient norm, sees its own leaves.

Source: Accelerating Block Coordinate Descent for LLM Finetuning via Landscape Expansion
(BREAD), NeurIPS 2025, https://openreview.net/forum?id=DBybUx7ARy, which also has riders
of low rank; here they are of full rank.
"""

from collections.abc import Mapping
from typing import Any

import jax
import optax

from cdgm import blocks as trees
from cdgm.blocks import Labels, Params, Selector
from cdgm.gradient_move import (
    Evaluation, Move, apply_gradient, check_tx, initial_state, steepest_ascent)

Riders = Mapping[str, optax.GradientTransformation]


def riding_move(tx: optax.GradientTransformation, name: str, riders: Riders,
                selectors: Mapping[str, Selector]) -> Move:
    """Move a block by its tx, and its riders along with it from the same point.

    Args:
      tx: of the block, an optax transformation.
      name: the block's.
      riders: block name -> stateless optax transformation.
      selectors: block name -> which leaves it owns, see `cdgm.blocks.selects`.

    Returns:
      A `Move` of the leaves of the block and of its riders together, with the state of
      the block's tx and the 2-norm of the block's own gradient.

    >>> import jax.numpy as jnp
    >>> move = riding_move(optax.sgd(0.5), 'x', {'y': optax.sgd(0.1)},
    ...                    {'x': 'x', 'y': 'y'})
    >>> params = {'x': jnp.array(1.0), 'y': jnp.array(2.0)}
    >>> moved, state, seen = move.apply(
    ...     lambda params: (params['x'] * params['y'], None), params, move.init(params))
    >>> {name: round(float(leaf), 3) for name, leaf in moved.items()}
    {'x': 0.0, 'y': 1.9}
    >>> float(seen.grad_norm)
    2.0
    """
    tx = optax.with_extra_args_support(tx)

    def init(active):
        return initial_state(tx, _owned(active, selectors[name]))

    def apply(objective, active, state, **extra):
        (loss, aux), grads = steepest_ascent(objective, active)

        def moved_by(tx, block, state, **extra):
            mine, grad = (_owned(tree, selectors[block]) for tree in (active, grads))
            mine, state = apply_gradient(
                tx, lambda mine: objective(trees.merge(mine, active)), mine, state,
                loss, grad, **extra)
            return mine, state, grad

        moved, state, grad = moved_by(tx, name, state, **extra)
        for rider, rider_tx in riders.items():
            empty = rider_tx.init(_owned(active, selectors[rider]))
            along, _, _ = moved_by(optax.with_extra_args_support(rider_tx), rider,
                                   empty)
            moved = trees.merge(moved, along)
        return moved, state, Evaluation(loss, aux, optax.tree.norm(grad))

    return Move(init, apply)


def _owned(tree: Any, selector: Selector) -> Any:
    """The leaves that a selector owns, holes in place of the others."""
    owns = trees.predicate(selector)
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf if owns(trees.leaf_path(path))
        else optax.MaskedNode(), tree)


def check_riders(tx: optax.GradientTransformation | Move, name: str, riders: Riders,
                 params: Params, labels: Labels) -> None:
    """Raise a ValueError if the riders of a block cannot ride.

    Args:
      tx, name, riders: of the block.
      params: the whole tree.
      labels: the name of the block that owns each leaf.
    """
    if riders and isinstance(tx, Move):
        raise ValueError(f'block {name!r} has riders and a Move for a tx; riders '
                         'follow a gradient, so give it an optax transformation.')
    others = sorted(set(jax.tree.leaves(labels)) - {name})
    for rider, rider_tx in riders.items():
        check_tx(rider_tx, rider)
        if rider not in others:
            raise ValueError(f'block {name!r} has a rider {rider!r}; blocks that can '
                             f'ride with it are {others}.')
        kept = jax.tree.leaves(jax.eval_shape(
            rider_tx.init, trees.split(params, labels, rider)[0]))
        if kept:
            raise ValueError(f"a rider's tx keeps no state: that of {rider!r}, which "
                             f'rides with {name!r}, keeps {len(kept)} arrays. Take one '
                             'such as optax.sgd(1e-3), without momentum or schedule.')
