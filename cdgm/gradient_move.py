"""Moves: how a block goes from where it is to where its objective is lower.

A move is a pair of pure functions, as an optax transformation is; but where optax is
handed a gradient, a move is handed the objective itself, the block's loss as a function
of the block alone. So a gradient step, a forward-mode derivative of one coordinate and
an exact minimisation are all moves, and a block pays only for what its move evaluates.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

# The block's loss with everything else held: active params -> (scalar, aux).
Objective = Callable[[Any], tuple[jax.Array, Any]]


class Evaluation(NamedTuple):
    """What a move saw on its way.

    Attributes:
      loss: floating[], before the move.
      aux: what the loss returned beside it, before the move.
      grad_norm: floating[], the 2-norm of the part of the gradient that was computed.
    """

    loss: jax.Array
    aux: Any
    grad_norm: jax.Array


class Move(NamedTuple):
    """How a block moves.

    Attributes:
      init: active params -> state, a pytree of arrays.
      apply: (objective, active params, state, **extra) -> (active params, state,
        Evaluation).
    """

    init: Callable[[Any], Any]
    apply: Callable[..., tuple[Any, Any, Evaluation]]


def gradient_move(tx: optax.GradientTransformation) -> Move:
    """Move by an optax transformation of the block's own gradient.

    The transformation sees the active leaves only: clipping, decay, counts and learning
    rate schedules are the block's. Line searches get `value`, `grad` and `value_fn`.
    """
    tx = optax.with_extra_args_support(tx)

    def apply(objective, active, state, **extra):
        (loss, aux), grads = jax.value_and_grad(objective, has_aux=True)(active)
        moved, state = apply_gradient(tx, objective, active, state, loss, grads, **extra)
        return moved, state, Evaluation(loss, aux, optax.tree.norm(grads))

    return Move(tx.init, apply)


def apply_gradient(tx: optax.GradientTransformationExtraArgs, objective: Objective, active,
           state, loss, grads, **extra) -> tuple[Any, Any]:
    """Follow a gradient that is known: (active params, state of the transformation)."""
    updates, state = tx.update(grads, state, active, value=loss, grad=grads,
                               value_fn=lambda params: objective(params)[0], **extra)
    return optax.apply_updates(active, updates), state


def as_move(tx: optax.GradientTransformation | Move) -> Move:
    """Take an optax transformation for the move that it defines."""
    return tx if isinstance(tx, Move) else gradient_move(tx)
