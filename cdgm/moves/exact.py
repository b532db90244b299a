"""Exact block minimisation, where the loss is quadratic in the block.

    w <- w + d,    H d = -g,    L(w + d) = L(w) + g' d + d' H d / 2 = min over the block

A linear layer under a Gaussian likelihood is such a block: its exact step is the least
squares solution, whatever the other blocks are. The loss stays a function: g and
v -> H v are its derivatives, forward over reverse, so nobody writes normal equations.

If H is singular there are many minimisers, and the move goes to the nearest: d has the
least norm, so directions that the loss does not see stay as they are.

A block that is not quadratic, or has no minimum, is detected and not silently wrong.
The move looks at where it landed: the gradient there must vanish, and no curvature may
have been negative. If not, the block stays as it was, and the step says so: outside of
a trace by a ValueError; in one, where nothing can be raised, by `info.block == -1`,
beside the loss where it stays. `check_quadratic` says why, before training.

Legend   w, g, d float[N], the block's leaves, its gradient and its step, ravelled;
         H float[N, N], its second derivatives; eps the resolution of their dtype.
Sources  Beck & Tetruashvili 2013, SIAM J. Optim. 23(4) (exact block minimisation);
         Pearlmutter 1994, Neural Comput. 6(1) (H v without H);
         Hestenes & Stiefel 1952 (conjugate gradients).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree

from cdgm import blocks as trees
from cdgm.descent import Descent, DescentState, call_loss
from cdgm.gradient_move import Evaluation, Move, Objective

Product = Callable[[jax.Array], jax.Array]  # v -> H v

_DENSE_UP_TO = 256
_MAX_ITERATIONS = 1000


class _Solution(NamedTuple):
    """A step and what was seen of H on the way: float[N], float[], float[]."""

    step: jax.Array
    lowest: jax.Array
    highest: jax.Array


def exact_minimisation(dense_up_to: int = _DENSE_UP_TO,
                       max_iterations: int = _MAX_ITERATIONS,
                       tolerance: float | None = None) -> Move:
    """Move the block to the minimum of its loss, all else held.

    Up to `dense_up_to` entries H is formed (N products H v) and solved by its
    eigenvalues; beyond, by conjugate gradients, which need as many products as H has
    distinct eigenvalues: for a linear layer of I inputs at most I + 1, however many
    outputs it has. Either way one more gradient checks the result.

    Args:
      dense_up_to: entries of the block up to which H is formed.
      max_iterations: most products H v of conjugate gradients.
      tolerance: how far the gradient after the step may be from zero, relative to its
        terms; eps^(2/3) when left out.

    Raises:
      TypeError: at `init`, a leaf is complex.
      ValueError: at `init`, the block has no entry; at a step that is not traced, the
        block has no minimum that one step can reach.

    Returns:
      A `Move` without state. Where the block has no minimum that one step can reach,
      it leaves the block as it was, and `StepInfo.block` of a traced step is -1.
      Conjugate gradients do not see negative curvature in directions in which the
      gradient has no part.

    >>> from cdgm import Block, block_descent
    >>> def loss(w, batch, key):
    ...     return (w[0] - 3) ** 2 + (w[0] - w[1]) ** 2, None
    >>> descent = block_descent({'w': Block('', loss, exact_minimisation())})
    >>> state = descent.init(jnp.zeros(2))
    >>> state, info = descent.step(state, None, jax.random.key(0), 'w')
    >>> print(state.params.round(4), info.loss)
    [3. 3.] 9.0
    """
    solve = partial(_solved, dense_up_to, max_iterations, tolerance)

    def apply(objective, active, state, **extra):
        active, seen = solve(objective, active)
        if not isinstance(seen.moved, jax.core.Tracer) and not seen.moved:
            raise ValueError('exact_minimisation finds no minimum at the end of its '
                             'step: the loss is not quadratic in the block, or has '
                             'none; check_quadratic says which. Use an optax '
                             'transformation.')
        return active, state, seen

    def init(active):
        trees.check_real(active, 'exact_minimisation')
        if not sum(jnp.size(leaf) for leaf in jax.tree.leaves(active)):
            raise ValueError('the block has no entry to minimise over: all its leaves '
                             'are empty (size 0). Leave them to an optax '
                             'transformation.')
        return ()

    return Move(init, apply)


def _solved(dense_up_to: int, max_iterations: int, tolerance: float | None,
            objective: Objective, active) -> tuple[Any, Evaluation]:
    """The block at its minimum, or as it was if that is not found."""
    start, unravel = ravel_pytree(active)

    def gradient(flat):
        (loss, aux), grad = jax.value_and_grad(objective, has_aux=True)(unravel(flat))
        return ravel_pytree(grad)[0], (loss, aux)

    # The rounding of TF32 would look like a loss that is not quadratic.
    with jax.default_matmul_precision('highest'):
        grad, product, (loss, aux) = jax.linearize(gradient, start, has_aux=True)
        step, lowest, highest = (
            _dense_step(product, grad) if grad.size <= dense_up_to else
            _iterated_step(product, grad, max_iterations))
        end = start + step
        end_grad, _ = gradient(end)

    slack = (jnp.finfo(start.dtype).eps ** (2 / 3) if tolerance is None
             else tolerance)
    # A gradient is a sum of terms that cancel at the minimum: H w, and for least
    # squares X'(y - Xw), at most the square root of |H| L. Rounding is relative to
    # those, not to the gradient, which may have been nothing but rounding before.
    length = jnp.linalg.norm(start) + jnp.linalg.norm(end)
    scale = (jnp.linalg.norm(grad) + highest * length
             + jnp.sqrt(highest * jnp.abs(loss)))
    exact = ((jnp.linalg.norm(end_grad) <= slack * scale)
             & (lowest >= -slack * highest))
    seen = Evaluation(loss, aux, jnp.linalg.norm(grad), exact)
    return unravel(jnp.where(exact, end, start)), seen


def check_quadratic(descent: Descent, state: DescentState, batch: Any, key: Any,
                    block: str) -> None:
    """Say before training whether an exact move suits a block.

    Curvature along a random direction is compared here and at two points away, one
    near and one far. That is a test, not a proof: it finds what is not quadratic at
    these points. Not to be traced.

    Args:
      descent: what `block_descent` returned.
      state: where to look.
      batch, key: as for `descent.step`.
      block: name of the block.

    Raises:
      ValueError: the loss is not quadratic in the block, or it is and has no minimum;
        or there is no such block.
    """
    block = trees.block_name(block, tuple(descent.blocks))
    objective, active = _objective(descent, state, batch, key, block)
    start, unravel = ravel_pytree(active)
    here, near, far = _curvatures(lambda flat: objective(unravel(flat))[0], start)
    for there in (near, far):
        # Not `>`: curvature that is not a number is not equal either.
        if not abs(there - here) <= jnp.finfo(start.dtype).eps ** 0.5 * abs(here):
            raise ValueError(
                f'the loss is not quadratic in block {block!r}: its curvature along a '
                f'direction goes from {here:.6g} to {there:.6g}. Use an optax '
                'transformation, or a block in which the model is linear and the '
                'likelihood Gaussian.')
    _, seen = _solved(_DENSE_UP_TO, _MAX_ITERATIONS, None, objective, active)
    if not seen.moved:
        raise ValueError(
            f'the loss is quadratic in block {block!r} but has no minimum there: it '
            'falls without end along some direction. Add a penalty, or use an optax '
            'transformation.')


def _dense_step(product: Product, grad) -> _Solution:
    """The least solution of H d = -g by the eigenvalues of H."""
    hessian = jax.vmap(product)(jnp.eye(grad.size, dtype=grad.dtype))
    values, vectors = jnp.linalg.eigh(hessian)
    highest = jnp.max(jnp.abs(values))
    kept = jnp.abs(values) > grad.size * jnp.finfo(grad.dtype).eps * highest
    inverse = jnp.where(kept, 1 / jnp.where(kept, values, 1), 0)
    return _Solution(-vectors @ (inverse * (vectors.T @ grad)), values[0], highest)


def _iterated_step(product: Product, grad, max_iterations: int) -> _Solution:
    """The same by conjugate gradients, which from zero stay in the range of H.

    Their directions are conjugate, so by Sylvester's law of inertia one of them has
    negative curvature if H has any in the space that they span; there the steps end.
    """
    small = (10 * jnp.finfo(grad.dtype).eps * jnp.linalg.norm(grad)) ** 2

    def unfinished(carry):
        count, _, residual, _, lowest, _ = carry
        return ((count < max_iterations) & (lowest > 0)
                & (jnp.vdot(residual, residual) > small))

    def advance(carry):
        count, step, residual, direction, lowest, highest = carry
        image = product(direction)
        bend = jnp.vdot(direction, image)
        curvature = bend / jnp.vdot(direction, direction)
        old = jnp.vdot(residual, residual)
        length = jnp.where(bend > 0, old / bend, 0)
        step, residual = step + length * direction, residual - length * image
        direction = residual + jnp.vdot(residual, residual) / old * direction
        return (count + 1, step, residual, direction, jnp.minimum(lowest, curvature),
                jnp.maximum(highest, curvature))

    start = (0, jnp.zeros_like(grad), -grad, -grad, jnp.full((), jnp.inf, grad.dtype),
             _norm_estimate(product, grad))
    _, step, _, _, lowest, highest = lax.while_loop(unfinished, advance, start)
    return _Solution(step, lowest, highest)


def _norm_estimate(product: Product, like) -> jax.Array:
    """|H^2 v| / |H v| for random signs v: a step of the power method."""
    once = product(jax.random.rademacher(jax.random.key(0), like.shape, like.dtype))
    norm = jnp.linalg.norm(once)
    return jnp.linalg.norm(product(once)) / jnp.where(norm > 0, norm, 1)


def _objective(descent: Descent, state: DescentState, batch, key,
               block: str) -> tuple[Objective, Any]:
    """A block's loss as a function of its own leaves, and these leaves."""
    selectors = {name: b.leaves for name, b in descent.blocks.items()}
    labels = trees.label(state.params, selectors)
    active, frozen = trees.split(state.params, labels, block)
    return (lambda active: call_loss(
        block, descent.blocks[block], trees.merge(active, frozen), state.model_state,
        batch, key)), active


def _curvatures(loss: Callable, start) -> list[float]:
    """Second derivatives along a direction: at the start, 1 and 10 lengths away."""
    direction = jax.random.normal(jax.random.key(0), start.shape, start.dtype)
    direction *= jnp.maximum(jnp.linalg.norm(start), 1) / jnp.linalg.norm(direction)
    slope = jax.grad(lambda t: loss(start + t * direction))
    one = jnp.ones((), start.dtype)
    return [float(jax.jvp(slope, (t * one,), (one,))[1]) for t in (0, 1, 10)]
