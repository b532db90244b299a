"""Penalties that keep a discriminator smooth, and the clipping of its weights.

    squared_gradient   E |grad_x D(x)|^2          R1 at real, R2 at fake points
    wgan_gp            E (|grad_x D(x^)| - 1)^2   x^ = u x + (1 - u) g, u ~ U(0, 1)
    clip_weights       w <- min(max(w, -c), c)

Each penalty is bare; `r1`, `r2` and `gradient_penalty` give it the weight with which
`gan_game` adds it to the loss, gamma / 2 for R1 and R2, and lambda for WGAN-GP (gamma =
10 and lambda = 10 are common). To penalise is to differentiate twice, so a
discriminator needs second derivatives.

Shapes   B batch; a discriminator maps floating[B, ...] -> floating[B], each value
         depending on its own example only (so not through batch statistics).
Units    squared logits per squared unit of x, averaged over the batch.
Sources  Mescheder et al. 2018 (arXiv:1801.04406) eq. 9 (R1, R2); Gulrajani et al. 2017
         (arXiv:1704.00028) eq. 3 and algorithm 1; Arjovsky et al. 2017
         (arXiv:1701.07875) algorithm 1 (clipping).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cdgm.losses.inputs import check_equal_shapes, widen

Discriminator = Callable[[jax.Array], jax.Array]


def squared_gradient(discriminate: Discriminator, points: jax.Array) -> jax.Array:
    """Mean squared length of the discriminator's slope: R1 at real points, R2 at fake.

    Args:
      discriminate: floating[B, ...] -> floating[B].
      points: floating[B, ...].

    Returns:
      float32[], summed over dimensions, averaged over the batch.

    >>> weight = jnp.array([[3.0, 4.0]])
    >>> float(squared_gradient(lambda x: (x * weight).sum(-1), jnp.ones((8, 2))))
    25.0
    """
    return jnp.mean(_squared_norms(discriminate, points))


def wgan_gp(discriminate: Discriminator, real: jax.Array, fake: jax.Array,
            key: jax.Array) -> jax.Array:
    """Mean squared distance of the critic's slope from one, between real and fake.

    Where the slope is zero the penalty has a corner; its derivative there is taken to
    be zero, not NaN.

    Args:
      discriminate: floating[B, ...] -> floating[B].
      real: floating[B, ...].
      fake: of the same shape; the i-th of each are joined.
      key: PRNG key of the places on the lines, one for each pair.

    Returns:
      float32[], averaged over the batch.

    Raises:
      ValueError: the shapes differ.

    >>> weight = jnp.array([[3.0, 4.0]])
    >>> key = jax.random.key(0)
    >>> x, g = jnp.ones((8, 2)), jnp.zeros((8, 2))
    >>> float(wgan_gp(lambda x: (x * weight).sum(-1), x, g, key))
    16.0
    """
    check_equal_shapes(real=real, fake=fake)
    place = jax.random.uniform(key, (len(real),) + (1,) * (real.ndim - 1), real.dtype)
    squares = _squared_norms(discriminate, place * real + (1 - place) * fake)
    # The square root has an infinite slope at zero, and infinity times zero is NaN.
    flat = squares == 0
    norms = jnp.where(flat, 0, jnp.sqrt(jnp.where(flat, 1, squares)))
    return jnp.mean(jnp.square(norms - 1))


def _squared_norms(discriminate: Discriminator, points) -> jax.Array:
    """|grad_x D|^2 of each example, floating[B]."""
    logits, pull_back = jax.vjp(discriminate, points)
    if logits.shape != points.shape[:1]:
        raise ValueError(f'the discriminator gave {logits.shape} for points '
                         f'{points.shape}; it gives one logit an example, '
                         f'{points.shape[:1]}.')
    slopes, = pull_back(jnp.ones_like(logits))
    return jnp.sum(jnp.square(widen(slopes)), axis=tuple(range(1, slopes.ndim)))


def clip_weights(params: Any, bound) -> Any:
    """Project parameters onto the box of half-width `bound`.

    >>> print(clip_weights({'w': jnp.array([-2.0, 0.5])}, 1.0)['w'])
    [-1.   0.5]
    """
    return jax.tree.map(lambda leaf: jnp.clip(leaf, -bound, bound), params)


def weight_clipping(bound) -> optax.GradientTransformation:
    """Make a rule end in the box: the last link of a chain, after the learning rate.

    >>> tx = optax.chain(optax.sgd(1.0), weight_clipping(1.0))
    >>> params = jnp.array(0.5)
    >>> updates, _ = tx.update(jnp.array(-3.0), tx.init(params), params)
    >>> float(optax.apply_updates(params, updates))
    1.0
    """
    def update(updates, params):
        ends = clip_weights(optax.apply_updates(params, updates), bound)
        return jax.tree.map(jnp.subtract, ends, params)

    return optax.stateless(update)


class Penalty(NamedTuple):
    """What is added to a discriminator's loss, and how often.

    Attributes:
      name: of it, for messages.
      value: (discriminate, real, fake, key) -> float32[], for a discriminator of one
        argument, floating[B, ...] -> floating[B], and the points that it is shown.
      weight: what multiplies it, may be traced.
      every: it is computed at every so many steps of the discriminator, the first of
        them included, with as many times the weight (lazy regularisation, Karras et al.
        2020 (arXiv:1912.04958) appendix B).
    """

    name: str
    value: Callable[[Discriminator, jax.Array, jax.Array, jax.Array], jax.Array]
    weight: jax.typing.ArrayLike
    every: int = 1


def r1(gamma: jax.typing.ArrayLike, every: int = 1) -> Penalty:
    """gamma / 2 times the squared slope at the real points."""
    return Penalty('r1', _at_real, gamma / 2, _checked(every))


def r2(gamma: jax.typing.ArrayLike, every: int = 1) -> Penalty:
    """gamma / 2 times the squared slope at the fake points."""
    return Penalty('r2', _at_fake, gamma / 2, _checked(every))


def gradient_penalty(weight: jax.typing.ArrayLike, every: int = 1) -> Penalty:
    """`wgan_gp` times its weight, lambda: for Wasserstein critics."""
    return Penalty('gradient_penalty', wgan_gp, weight, _checked(every))


def _at_real(discriminate, real, fake, key):
    del fake, key
    return squared_gradient(discriminate, real)


def _at_fake(discriminate, real, fake, key):
    del real, key
    return squared_gradient(discriminate, fake)


def _checked(every: int) -> int:
    if every < 1:
        raise ValueError(f'a penalty is computed every {every} steps; give a whole '
                         'number > 0.')
    return every
