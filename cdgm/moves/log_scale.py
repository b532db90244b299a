"""Exact minimisation over a scale: a sigma, a variance, a covariance.

    L(u) = a e^(kappa u) + m u + constant,  with the sign of a kappa opposite to m's
    u <- u + log(m / (m - dL/du)) / kappa                      the minimum, in one step

The constant a is not needed: the slope tells it. Where the loss is of this form:

    u                               kappa    m
    log sigma of a Gaussian          -2      D, the dimensions that share it
    logvar of q(z|x) in a linear VAE  1      -1/2

So a global sigma is the root mean square error over the batch that the block is given:
the whole data set, or a minibatch, with what earlier ones said counted in. Each entry
of a leaf must enter the loss on its own.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cdgm import blocks as trees
from cdgm.gradient_move import Evaluation, Move


class RunningScale(NamedTuple):
    """Attributes:
      a: of the active leaves' structure, the decayed sum of the batches' constants a.
      weight: floating[], the decayed number of batches.
    """

    a: Any
    weight: jax.Array


def log_scale_minimisation(kappa: float, slope: float, decay: float = 0.) -> Move:
    """Move every entry of the block to the minimum of its loss, all else held.

    Args:
      kappa: the exponent's factor, not zero.
      slope: m, the linear term of each entry, not zero.
      decay: in [0, 1), what a batch weighs in the next step of the block relative to
        the new one: the constant a is averaged over 1 / (1 - decay) batches or so,
        which the last of them alone would only estimate. 0 for the last alone.

    Returns:
      A `Move` whose state is a `RunningScale`, or () for a decay of 0. Where the loss
      falls without end (errors of zero, and a sigma that would be zero) the block and
      the average stay and the loss is NaN.

    Raises:
      ValueError: kappa or slope is zero, or decay is not in [0, 1).

    >>> from cdgm import Block, block_descent
    >>> def loss(u, batch, key):  # a Gaussian's log density, an error of 9 on average
    ...     return 9 * jnp.exp(-2 * u) / 2 + u, None
    >>> descent = block_descent({'u': Block('', loss, log_scale_minimisation(-2, 1))})
    >>> state, _ = descent.step(descent.init(jnp.zeros(())), None, None, 'u')
    >>> round(float(jnp.exp(state.params)), 4)
    3.0
    """
    if not kappa or not slope:
        raise ValueError(f'kappa is {kappa} and slope {slope}; neither may be zero.')
    if not 0 <= decay < 1:
        raise ValueError(f'decay is {decay}; give a number in [0, 1), 0 for none.')

    def apply(objective, active, state, **extra):
        (loss, aux), grads = jax.value_and_grad(objective, has_aux=True)(active)
        # Of exp(kappa u) at u itself, which cannot overflow, rather than at zero.
        found = jax.tree.map(lambda grad: (grad - slope) / kappa, grads)
        said = found if not decay else jax.tree.map(
            lambda here, u, past: (here + decay * past * jnp.exp(kappa * u))
            / (1 + decay * state.weight), found, active, state.a)
        ratios = jax.tree.map(lambda a: -slope / (kappa * a), said)
        exact = jnp.all(jnp.stack([
            jnp.all((ratio > 0) & jnp.isfinite(ratio))
            for ratio in jax.tree.leaves(ratios)]))
        moved = jax.tree.map(
            lambda u, ratio: jnp.where(exact, u + jnp.log(ratio) / kappa, u),
            active, ratios)
        if decay:
            state = jax.tree.map(partial(jnp.where, exact), RunningScale(
                jax.tree.map(lambda a, u: a * jnp.exp(-kappa * u)
                             * (1 + decay * state.weight), said, active),
                1 + decay * state.weight), state)
        norm = jnp.sqrt(sum(jnp.sum(jnp.square(grad))
                            for grad in jax.tree.leaves(grads)))
        return moved, state, Evaluation(jnp.where(exact, loss, jnp.nan), aux, norm)

    def init(active):
        trees.check_real(active, 'log_scale_minimisation')
        if not decay:
            return ()
        dtype = jnp.result_type(*jax.tree.leaves(active))
        return RunningScale(jax.tree.map(jnp.zeros_like, active), jnp.zeros((), dtype))

    return Move(init, apply)


def log_det_minimisation(weight: float) -> Move:
    """Minimise, over a matrix or a scalar X, tr(R X)/2 - weight/2 log det X exactly.

    With G the gradient at X, R = 2 G + weight X'^-1, and the minimum is at weight R^-1.
    The transpose matters: without it an asymmetry of rounding would double each time.

    Args:
      weight: of log det: 1 for the covariance of q(z|x) in a linear VAE, D for the
        precision of D dimensions with one sigma.

    Returns:
      A `Move` without state, of leaves float[Z, Z] or float[].
    """
    def apply(objective, active, state, **extra):
        (loss, aux), grads = jax.value_and_grad(objective, has_aux=True)(active)

        def minimum(x, grad):
            shape, x, grad = x.shape, jnp.atleast_2d(x), jnp.atleast_2d(grad)
            linear = 2 * grad + weight * jnp.linalg.inv(x).T
            return (weight * jnp.linalg.inv(linear)).reshape(shape)

        moved = jax.tree.map(minimum, active, grads)
        norm = jnp.sqrt(sum(jnp.sum(jnp.square(grad))
                            for grad in jax.tree.leaves(grads)))
        return moved, state, Evaluation(loss, aux, norm)

    return Move(lambda active: (), apply)
