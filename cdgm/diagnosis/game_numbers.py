"""The numbers that a game is judged by, at one state and minibatch.

With v(w) = (dL_1/dw_1, ..., dL_B/dw_B), the game's gradient field, and J its Jacobian,
the leading eigenvalues of J are Ritz values: those of the small matrix that K steps of
Arnoldi's iteration make of products J u, each a Jacobian-vector product, so that J is
never there. They are exact where K reaches the number of parameters.

Sources  Arnoldi 1951, as Saad 2011 (Numerical Methods for Large Eigenvalue Problems)
         algorithm 6.2, orthogonalised twice.
"""

from collections.abc import Callable
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from cdgm import blocks as trees
from cdgm.descent import Descent, DescentState
from cdgm.games import gradient_field

# (params, batch, key) -> what there is of real and of fake examples.
Pairs = Callable[[Any, Any, jax.Array], tuple[jax.Array, jax.Array]]


def game_numbers(descent: Descent, state: DescentState, batch: Any, key: jax.Array, *,
                 logits: Pairs | None = None, points: Pairs | None = None,
                 krylov: int = 30) -> dict[str, jax.Array]:
    """Take the numbers of a game; pure, so that it may be jitted with the rest.

    Args:
      descent: two blocks or more.
      state: where it stands; its parameters are real.
      batch, key: as a step is given them.
      logits: (params, batch, key) -> (real, fake), float[B] and float[B']: logits that
        the discriminator gives real and fake examples.
      points: (params, batch, key) -> (real, fake), float[B, ...] and float[B', ...]:
        real and fake examples themselves, two of each or more.
      krylov: K, products with the Jacobian; each costs about twice a gradient of every
        loss, and K vectors of the parameters' size are held. 0 leaves eigenvalues out.

    Returns:
      Name -> float32[]:
        loss/NAME, gradient_norm/NAME   of each block
        loss_gap         the largest loss less the least
        gradient_ratio   the least norm over the largest
        finite           1 if losses and gradients are
        rotation, rotation_real, rotation_imaginary
                         the largest |Im z| / |z| of the Ritz values within a tenth of
                         the largest, and that z; smaller ones turn in healthy games
                         too
        leading          the largest |z|
        overlap          share of the pairs of a real and a fake example whose logits
                         are in the wrong order, ties by half: 0.5 for equals
        logit_gap        mean of the real less that of the fake logits
        diversity        mean distance of two fakes over that of two real examples
        reach            median distance of a real example to the nearest fake, over
                         that to the nearest other real one
    """
    trees.check_real(state.params, 'game_numbers')
    field = gradient_field(descent, state, batch, key)
    values, gradients = field(state.params)
    losses = jnp.stack(list(values.values()))
    norms = jnp.stack([optax.tree.norm(gradients[name]) for name in descent.blocks])
    numbers = {
        **{f'loss/{name}': value for name, value in values.items()},
        **{f'gradient_norm/{name}': norm for name, norm in zip(descent.blocks, norms)},
        'loss_gap': jnp.max(losses) - jnp.min(losses),
        'gradient_ratio': jnp.min(norms) / jnp.maximum(jnp.max(norms), 1e-30),
        'finite': jnp.all(jnp.isfinite(losses) & jnp.isfinite(norms)).astype(float)}
    if krylov:
        numbers |= _rotation(ritz_values(
            lambda params: reduce(trees.merge, field(params)[1].values()),
            state.params, krylov))
    if logits is not None:
        numbers |= _overlap(*logits(state.params, batch, key))
    if points is not None:
        numbers |= _spread(*points(state.params, batch, key))
    return numbers


def ritz_values(field: Callable[[Any], Any], params: Any, steps: int) -> jax.Array:
    """Approximate the leading eigenvalues of a gradient field's Jacobian.

    Args:
      field: params -> a tree like them.
      params: where.
      steps: K, at least 1.

    Returns:
      complex[min(K, number of parameters)], in no order.
    """
    point, unravel = ravel_pytree(params)
    size = min(steps, point.size)

    def product(direction):
        return jax.jvp(lambda x: ravel_pytree(field(unravel(x)))[0], (point,),
                       (direction,))[1]

    start = jax.random.normal(jax.random.key(0), point.shape, point.dtype)
    basis = jnp.zeros((size + 1, point.size), point.dtype).at[0].set(
        start / jnp.linalg.norm(start))

    def step(basis, index):
        image = product(basis[index])
        length = jnp.linalg.norm(image)
        # Once more: rounding leaves a part along the basis, and it would grow.
        along = basis @ image
        rest = image - along @ basis
        again = basis @ rest
        rest = rest - again @ basis
        left = jnp.linalg.norm(rest)
        # The basis is invariant: what is left is rounding, and no direction.
        over = left <= 10 * jnp.finfo(point.dtype).eps * length
        left = jnp.where(over, 0, left)
        basis = basis.at[index + 1].set(jnp.where(over, 0, rest / jnp.where(
            over, 1, left)))
        return basis, (along + again).at[index + 1].set(left)

    _, columns = jax.lax.scan(step, basis, jnp.arange(size))
    return jnp.linalg.eigvals(columns[:, :size].T)


def _rotation(values: jax.Array) -> dict[str, jax.Array]:
    sizes = jnp.abs(values)
    leading = jnp.max(sizes)
    angles = jnp.where((sizes >= 0.9 * leading) & (sizes > 0), jnp.abs(values.imag)
                       / jnp.where(sizes > 0, sizes, 1), 0)
    most = jnp.argmax(angles)
    # A real part of rounding would be told as a step size.
    noise = 10 * jnp.finfo(sizes.dtype).eps * sizes[most]
    real = jnp.where(jnp.abs(values[most].real) > noise, values[most].real, 0)
    return {'rotation': angles[most], 'rotation_real': real,
            'rotation_imaginary': jnp.abs(values[most].imag), 'leading': leading}


def _overlap(real: jax.Array, fake: jax.Array) -> dict[str, jax.Array]:
    wrong = jnp.mean(jnp.where(fake[None] == real[:, None], 0.5,
                               fake[None] > real[:, None]))
    return {'overlap': wrong, 'logit_gap': jnp.mean(real) - jnp.mean(fake)}


def _spread(real: jax.Array, fake: jax.Array) -> dict[str, jax.Array]:
    real, fake = real.reshape(len(real), -1), fake.reshape(len(fake), -1)
    among_real, among_fake = _distances(real, real), _distances(fake, fake)
    to_other = jnp.min(among_real + jnp.diag(jnp.full(len(real), jnp.inf)), axis=1)
    to_fake = jnp.min(_distances(real, fake), axis=1)
    return {'diversity': _mean_of_pairs(among_fake) / _mean_of_pairs(among_real),
            'reach': jnp.median(to_fake) / jnp.median(to_other)}


def _distances(x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.sqrt(jax.lax.map(
        lambda row: jnp.sum(jnp.square(y - row[None]), axis=1), x))


def _mean_of_pairs(distances: jax.Array) -> jax.Array:
    return jnp.sum(distances) / (len(distances) * (len(distances) - 1))
