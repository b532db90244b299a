"""Moves: how a block goes from where it is to where its objective is lower.

A move is a pair of pure functions, as an optax transformation is; but where optax is
handed a gradient, a move is handed the objective itself, the block's loss as a function
of the block alone. So a gradient step, a forward-mode derivative of one coordinate and
an exact minimisation are all moves, and a block pays only for what its move evaluates.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax

from cdgm.extras import accepted_extras, takes

# The block's loss with everything else held: active params -> (scalar, aux).
Objective = Callable[[Any], tuple[jax.Array, Any]]


class Evaluation(NamedTuple):
    """What a move saw on its way.

    Attributes:
      loss: floating[], before the move.
      aux: what the loss returned beside it, before the move.
      grad_norm: floating[], the 2-norm of the part of the gradient that was computed.
      moved: bool[], False if the move could not be made and the block is as it was.
    """

    loss: jax.Array
    aux: Any
    grad_norm: jax.Array
    moved: jax.Array | bool = True


class MoveFn(Protocol):
    """(objective, active params, state, **extra) -> (active params, state, seen)."""

    def __call__(self, objective: Objective, active: Any, state: Any, **extra: Any
                 ) -> tuple[Any, Any, Evaluation]: ...


class Move(NamedTuple):
    """How a block moves.

    Attributes:
      init: active params -> state, a pytree of arrays.
      apply: (objective, active params, state, **extra) -> (active params, state,
        Evaluation).
      report: aux of the block's loss -> the aux that the Evaluation has, where a move
        takes something out of it.
    """

    init: Callable[[Any], Any]
    apply: MoveFn
    report: Callable[[Any], Any] = lambda aux: aux


def gradient_move(tx: optax.GradientTransformation) -> Move:
    """Move by an optax transformation of the block's own gradient.

    The transformation sees the active leaves only: clipping, decay, counts and learning
    rate schedules are the block's. An update that takes them gets `value`, `grad`,
    `value_fn` and `obj_fn` (params -> value) and `grad_fn` (params -> gradient).
    """
    tx = optax.with_extra_args_support(tx)

    def apply(objective, active, state, **extra):
        (loss, aux), grads = steepest_ascent(objective, active)
        moved, state = apply_gradient(tx, objective, active, state, loss, grads,
                                      **extra)
        return moved, state, Evaluation(loss, aux, optax.tree.norm(grads))

    return Move(partial(initial_state, tx), apply)


def initial_state(tx: optax.GradientTransformation, active: Any) -> Any:
    """Return what a transformation starts from.

    Raises:
      TypeError: it is a lookahead, which wants two trees for the one of a block.
    """
    state = tx.init(active)
    parts = jax.tree.leaves(state, is_leaf=_is_lookahead)
    if any(map(_is_lookahead, parts)):
        raise TypeError('optax.lookahead takes LookaheadParams in the place of '
                        'parameters, and a block is a subtree of the parameters. Take '
                        'its fast optimiser, with cdgm.transforms.average_params for a '
                        'slow copy.')
    return state


def _is_lookahead(part: Any) -> bool:
    return isinstance(part, optax.LookaheadState)


def steepest_ascent(objective: Objective, active: Any) -> tuple[tuple[Any, Any], Any]:
    """Evaluate an objective and its gradient: ((loss, aux), gradient).

    Of a complex leaf it is the conjugate of `jax.grad`'s, which would lead astray.
    """
    seen, grads = jax.value_and_grad(objective, has_aux=True)(active)
    return seen, jax.tree.map(jnp.conj, grads)


def apply_gradient(tx: optax.GradientTransformationExtraArgs, objective: Objective,
                   active: Any, state: Any, loss: jax.Array, grads: Any, **extra: Any
                   ) -> tuple[Any, Any]:
    """Follow a gradient that is known: (active params, state of the transformation).

    Of `value`, `grad`, `value_fn`, `obj_fn`, `grad_fn` and the extras, the update is
    given those that it takes.

    Raises:
      TypeError: an extra has the name of one that the objective gives.
    """
    def value_fn(params):
        return objective(params)[0]

    def grad_fn(params, *_):
        return steepest_ascent(objective, params)[1]

    own = {'value': loss, 'grad': grads, 'value_fn': value_fn, 'obj_fn': value_fn,
           'grad_fn': grad_fn}
    # Line searches refuse what their objective does not take.
    own = {key: x for key, x in own.items()
           if key not in ('obj_fn', 'grad_fn') or takes(tx, key)}
    if clash := sorted(own.keys() & extra.keys()):
        raise TypeError(f'extra arguments {clash} are made of the loss of the block; '
                        'leave them out.')
    updates, state = tx.update(grads, state, active,
                               **accepted_extras(tx, {**own, **extra}))
    return optax.apply_updates(active, updates), state


def as_move(tx: optax.GradientTransformation | Move, name: str | None = None) -> Move:
    """Take an optax transformation for the move that it defines.

    Args:
      tx: a transformation, `optax.MultiSteps`, or a move, which is returned as it is.
      name: the block, for the error.

    Raises:
      TypeError: it is none of these.
    """
    if isinstance(tx, Move):
        return tx
    check_tx(tx, name, ', or a move of cdgm.moves')
    return gradient_move(tx)


def check_tx(tx: Any, name: str | None = None, others: str = '') -> None:
    """Raise a TypeError if something is no optax transformation.

    Args:
      tx: what may be one, or an `optax.MultiSteps`.
      name: the block, for the error.
      others: what else may be given, for the error.
    """
    if not isinstance(tx, optax.GradientTransformation | optax.MultiSteps):
        of = '' if name is None else f' of block {name!r}'
        call = ' (a function: was it meant to be called?)' if callable(tx) else ''
        raise TypeError(f'the tx{of} is {_kind(tx)}{call}; give an optax '
                        f'transformation, as optax.adam(1e-3){others}.')


def _kind(tx) -> str:
    return getattr(tx, '__name__', None) or (
        'None' if tx is None else f'a {type(tx).__name__}')
