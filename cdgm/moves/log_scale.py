"""Exact minimisation over a scale: a sigma, a variance, a covariance.

    L(u) = a e^(kappa u) + m u + constant,  with the sign of a kappa opposite to m's
    u <- u + log(m / (m - dL/du)) / kappa                      the minimum, in one step

The constant a is not needed: the slope tells it. Where the loss is of this form:

    u                               kappa    m
    log sigma of a Gaussian          -2      D, the dimensions that share it
    logvar of q(z|x) in a linear VAE  1      -1/2

So a global sigma is the root mean square error over the batch that the block is given;
give it the whole data set. Each entry of a leaf must enter the loss on its own.
"""

import jax
import jax.numpy as jnp

from cdgm import blocks as trees
from cdgm.gradient_move import Evaluation, Move


def log_scale_minimisation(kappa: float, slope: float) -> Move:
    """Move every entry of the block to the minimum of its loss, all else held.

    Args:
      kappa: the exponent's factor, not zero.
      slope: m, the linear term of each entry, not zero.

    Returns:
      A `Move` without state. Where the loss falls without end (errors of zero, and a
      sigma that would be zero) the block stays and the loss is NaN.

    Raises:
      ValueError: kappa or slope is zero.

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

    def apply(objective, active, state, **extra):
        (loss, aux), grads = jax.value_and_grad(objective, has_aux=True)(active)
        ratios = jax.tree.map(lambda grad: slope / (slope - grad), grads)
        exact = jnp.all(jnp.stack([
            jnp.all((ratio > 0) & jnp.isfinite(ratio))
            for ratio in jax.tree.leaves(ratios)]))
        moved = jax.tree.map(
            lambda u, ratio: jnp.where(exact, u + jnp.log(ratio) / kappa, u),
            active, ratios)
        norm = jnp.sqrt(sum(jnp.sum(jnp.square(grad))
                            for grad in jax.tree.leaves(grads)))
        return moved, state, Evaluation(jnp.where(exact, loss, jnp.nan), aux, norm)

    def init(active):
        trees.check_real(active, 'log_scale_minimisation')
        return ()

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
