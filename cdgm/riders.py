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

Where the layers of a stack ride (`riders={'layers': optax.sgd(1e-3)}`, by the name of a
family) each moves on its own, as if it were a block, in the loop of the backward pass:
no second copy of the stack, and no gradient of it, is ever held. With a layer ride the
deeper ones, or, if the family says reach='all', all others; with a block outside the
stack, such as an embedding, all do.

A *companion* moves down the active block's loss too, but by its own tx and with the
state that it keeps in `DescentState.opt_state`: an embedding and a head that are always
on (LISA), as `optax.partition` would have it. It costs what its state costs.

Sources: Accelerating Block Coordinate Descent for LLM Finetuning via Landscape
Expansion (BREAD), NeurIPS 2025, https://openreview.net/forum?id=DBybUx7ARy, which also
has riders of low rank; here they are of full rank. FRUGAL, ICML 2025, arXiv:2411.07837
(all others, by sign). LISA, NeurIPS 2024, arXiv:2403.17919.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import optax

from cdgm import blocks as trees
from cdgm import stacks
from cdgm.blocks import Labels, Params
from cdgm.families import Program
from cdgm.gradient_move import (
    Evaluation, Move, apply_gradient, check_tx, initial_state, steepest_ascent)
from cdgm.stacks import Rider
from cdgm.transforms import counts_globally, sync_global_count

Riders = Mapping[str, optax.GradientTransformation]


class Moving(NamedTuple):
    """What moves in a step.

    Attributes:
      own: leaves of the active block.
      along: name of a rider or companion -> its leaves.
      stacks: path -> a stack whose layers ride; its "gradient" is the moved stack, see
        `cdgm.stacks`.
    """

    own: Any
    along: dict[str, Any]
    stacks: dict[str, Any]


def accompanied_move(tx: optax.GradientTransformation, name: str, riders: Riders,
                     companions: Riders) -> Move:
    """Move a block by its tx, and others along with it from the same point.

    Args:
      tx: of the block, an optax transformation.
      name: the block's.
      riders: block name -> stateless optax transformation.
      companions: block name -> its optax transformation.

    Returns:
      A `Move` of a `Moving`. Its state has an entry for the block and for each that
      moves along; the 2-norm that it reports is that of the block's own gradient.

    >>> import jax.numpy as jnp
    >>> move = accompanied_move(optax.sgd(0.5), 'x', {'y': optax.sgd(0.1)}, {})
    >>> moving = Moving(jnp.array(1.0), {'y': jnp.array(2.0)}, {})
    >>> moved, state, seen = move.apply(
    ...     lambda at: (at.own * at.along['y'], None), moving, move.init(moving))
    >>> float(moved.own), round(float(moved.along['y']), 3), float(seen.grad_norm)
    (0.0, 1.9, 2.0)
    """
    txs = {name: tx, **companions, **riders}

    def init(moving):
        return {other: initial_state(rule, moving.own if other == name else
                                     moving.along[other])
                for other, rule in txs.items()}

    def apply(objective, active, state, **extra):
        # Here alone, where it costs nothing: around the loop of a visit there would be
        # a second copy of the stack.
        riding, active = active.stacks, active._replace(
            stacks=stacks.uncode(active.stacks))
        (loss, aux), grads = steepest_ascent(objective, active)

        def moved_by(tx, other, its_state):
            if other == name:
                at, grad = active.own, grads.own
                value = lambda own: objective(active._replace(own=own))  # noqa: E731
            else:
                at, grad = active.along[other], grads.along[other]
                value = lambda leaves: objective(active._replace(  # noqa: E731
                    along={**active.along, other: leaves}))
            return apply_gradient(optax.with_extra_args_support(tx), value, at,
                                  its_state, loss, grad, **extra)

        along, kept = {}, {}
        own, kept[name] = moved_by(tx, name, state[name])
        for other, rule in {**companions, **riders}.items():
            along[other], kept[other] = moved_by(rule, other, state[other])
        return (Moving(own, along, stacks.recode(grads.stacks, riding)), kept,
                Evaluation(loss, aux, optax.tree.norm(grads.own)))

    return Move(init, apply)


def layer_rider(riders: Riders, labels: Labels, count: jax.Array) -> Rider:
    """Move one layer that rides: the leaves of each family by its transformation.

    Args:
      riders: family name -> stateless optax transformation.
      labels: of one layer, the name of the family that owns each leaf.
      count: int32[], steps of the descent.

    Returns:
      (params of the layer, their gradient) -> params; leaves of others stay.
    """
    def move(params, grads):
        for name, tx in riders.items():
            if name in jax.tree.leaves(labels):
                mine, rest = trees.split(params, labels, name)
                grad = trees.split(grads, labels, name)[0]
                state = sync_global_count(tx.init(mine), count)
                updates, _ = tx.update(grad, state, mine)
                params = trees.merge(optax.apply_updates(mine, updates), rest)
        return params

    return move


def check_riders(name: str, block: Any, params: Params, labels: Labels,
                 programs: Mapping[str, Program]) -> None:
    """Raise a ValueError if who moves along with a block cannot.

    Args:
      name: of the block or its family.
      block: as `cdgm.Block`.
      params: the whole tree.
      labels: the name of the block or family that owns each leaf.
      programs: by those names.
    """
    others = sorted(set(programs) - {name})
    along = [*block.riders, *block.companions]
    if along and isinstance(block.tx, Move):
        raise ValueError(f'block {name!r} has riders or companions and a Move for a '
                         'tx; they follow a gradient, so give it an optax '
                         'transformation.')
    if both := sorted(set(block.riders) & set(block.companions)):
        raise ValueError(f'{", ".join(map(repr, both))} rides with {name!r} and is its '
                         'companion as well; a rider keeps no state and a companion '
                         'does, so choose one.')
    for rider, rider_tx in block.riders.items():
        check_tx(rider_tx, rider)
        itself = rider == name and block.layers is not None
        if rider not in others and not itself:
            raise ValueError(f'block {name!r} has a rider {rider!r}; blocks that can '
                             f'ride with it are {others}.')
        state = jax.eval_shape(rider_tx.init, trees.split(params, labels, rider)[0])
        kept = [part for part in jax.tree.leaves(state, is_leaf=counts_globally)
                if not counts_globally(part)]
        if kept:
            raise ValueError(f"a rider's tx keeps no state: that of {rider!r}, which "
                             f'rides with {name!r}, keeps {len(kept)} arrays. Take one '
                             'such as optax.sgd(1e-3), without momentum; a schedule '
                             'by cdgm.transforms.scale_by_global_schedule.')
    for companion in block.companions:
        _check_companion(name, companion, programs, others)


def _check_companion(name: str, companion: str, programs: Mapping[str, Program],
                     others) -> None:
    alone = [other for other in others if programs[other].block.layers is None]
    if companion not in alone:
        raise ValueError(f'block {name!r} has a companion {companion!r}; blocks that '
                         f'can go with it are {alone}.')
    block = programs[companion].block
    if isinstance(block.tx, Move) or block.ephemeral:
        raise ValueError(f'{companion!r} is a companion of {name!r}, and its '
                         + ('tx is a Move; give it an optax transformation.'
                            if isinstance(block.tx, Move) else
                            'state is ephemeral; a companion keeps its state.'))
