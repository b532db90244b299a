"""Stateless rules: updates made of the gradient at hand, and of nothing kept.

    by sign              u_ij = sign(g_ij)               `optax.scale_by_sign`
    whole matrices       u = g / rms(g)                  `scale_by_rms`
    columns              u_.j = g_.j / rms(g_.j)         `scale_by_columns`
    rows and columns     the one, then the other, k times: `scale_by_rows_and_columns`
    directions           u = sqrt(max(m, n)) U V', of g = U S V': `orthogonalise`

They are for what moves along with a block (`cdgm.riders`), and for who has no room for
moments. All give a matrix an update whose root mean square is one (the last: at full
rank), so that a rate means the same to each: the root mean square of the step. Adam's
update is rather 0.2 to 1 of its rate.

Leaves of one axis, such as gains and biases, and scalars go by sign: the papers leave
them to Adam, which on its first step is a step by sign. The last two axes of a leaf are
its matrix; those in front are taken for many matrices, as in a stack of layers.

Legend   g [..., m, n] a gradient, u the update, rms(x) = sqrt(mean(x^2)). A matrix of a
         model of this package is [in, out], so that a column is what makes one output.
Sources  Columns: SCALE, arXiv:2506.16659. Rows and columns: SinkGD, arXiv:2502.06742.
         Directions: Muon, https://kellerjordan.github.io/posts/muon/, here without its
         momentum; SWAN, arXiv:2412.13148, does so after it has scaled the rows.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

# Of the odd polynomial that carries singular values in (0, 1] near to one (Muon).
_QUINTIC = (3.4445, -4.7750, 2.0315)


def scale_by_rms() -> optax.GradientTransformation:
    """Scale each matrix to a root mean square of one.

    >>> tx = scale_by_rms()
    >>> updates, _ = tx.update(jnp.array([[1., 7.], [-5., 5.]]), tx.init(None))
    >>> [[round(u, 2) for u in row] for row in updates.tolist()]
    [[0.2, 1.4], [-1.0, 1.0]]
    """
    return _of_matrices(lambda g: _unit(g, (-2, -1)))


def scale_by_columns() -> optax.GradientTransformation:
    """Scale each column of each matrix to a root mean square of one (SCALE).

    >>> tx = scale_by_columns()
    >>> updates, _ = tx.update(jnp.array([[1., 70.], [-7., 10.]]), tx.init(None))
    >>> [[round(u, 2) for u in row] for row in updates.tolist()]
    [[0.2, 1.4], [-1.4, 0.2]]
    """
    return _of_matrices(lambda g: _unit(g, -2))


def scale_by_rows_and_columns(rounds: int = 5) -> optax.GradientTransformation:
    """Scale rows, then columns, each to a root mean square of one, in turn (SinkGD).

    After enough rounds both are: what remains is a balanced matrix, as Sinkhorn's is.

    Args:
      rounds: k; SinkGD takes five.

    >>> tx = scale_by_rows_and_columns()
    >>> updates, _ = tx.update(jnp.array([[1., 0.], [0., -50.]]), tx.init(None))
    >>> [[round(u, 2) for u in row] for row in updates.tolist()]
    [[1.41, 0.0], [0.0, -1.41]]
    """
    def balanced(g):
        for _ in range(rounds):
            g = _unit(_unit(g, -1), -2)
        return g

    return _of_matrices(balanced)


def orthogonalise(rounds: int = 5) -> optax.GradientTransformation:
    """Give all directions of each matrix one length: Muon without its momentum.

        x <- a x + (b x x' + c (x x')^2) x,    x = g / |g| at the start

    The polynomial brings singular values to within 0.7 and 1.2, those above a
    thousandth of the largest in five rounds. A round costs three products of matrices,
    2 min(m, n)^2 (2 max(m, n) + min(m, n)) operations, whatever the minibatch.

    Args:
      rounds: k; Muon takes five.

    >>> tx = orthogonalise()
    >>> updates, _ = tx.update(jnp.array([[3., 0.], [0., -3.]]), tx.init(None))
    >>> bool(jnp.all(jnp.abs(jnp.diag(updates) - jnp.array([1.4, -1.4])) < 0.5))
    True
    """
    a, b, c = _QUINTIC

    def orthogonal(g):
        wide = g.shape[-2] <= g.shape[-1]
        x = g if wide else jnp.swapaxes(g, -2, -1)
        x = _unit(x, (-2, -1)) / (x.shape[-2] * x.shape[-1]) ** 0.5
        for _ in range(rounds):
            gram = x @ jnp.swapaxes(x, -2, -1)
            x = a * x + (b * gram + c * gram @ gram) @ x
        x = x * max(g.shape[-2:]) ** 0.5
        return x if wide else jnp.swapaxes(x, -2, -1)

    return _of_matrices(orthogonal)


def _unit(g: jax.Array, axis) -> jax.Array:
    """Scale to a root mean square of one; what is zero stays zero."""
    # The largest first, so that no square is lost below the smallest float.
    largest = jnp.max(jnp.abs(g), axis, keepdims=True)
    g = g / jnp.where(largest > 0, largest, 1)
    square = jnp.mean(jnp.square(g), axis, keepdims=True)
    return g * jax.lax.rsqrt(jnp.where(square > 0, square, 1))


def _of_matrices(rule: Callable[[jax.Array], jax.Array]
                 ) -> optax.GradientTransformation:
    return optax.stateless(lambda updates, params: jax.tree.map(
        lambda g: rule(g) if jnp.ndim(g) >= 2 else jnp.sign(g), updates))
