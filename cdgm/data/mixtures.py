"""Mixtures of Gaussians in the plane, on which modes that a model lost are counted.

    ring        K centres r (cos 2 pi k / K, sin 2 pi k / K), k = 0 … K - 1
    grid        side x side centres, `spacing` apart, about the origin
    two_moons   two half circles, one upside down; no mixture, as it has no centres

All are functions of a key and a number, drawn on the device, so that a training may
see fresh points at every step. A ring drawn with both ends of [0, 2 pi] would have one
mode of double weight and one less than it says, as a widely copied notebook has it.

Shapes   N points, K modes, D = 2 dimensions.
Sources  Metz et al. 2017 (arXiv:1611.02163) appendix A (ring); Srivastava et al. 2017
         (arXiv:1705.07761) section 4.1 and Lin et al. 2018 (arXiv:1712.04086) section
         4.1: ring of radius 1 and std 0.01, grid {-4, -2, 0, 2, 4}^2 of std 0.05;
         moons: scikit-learn's `make_moons`, at random places on the arcs.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cdgm.data.dataset import Dataset, Split


class Mixture(NamedTuple):
    """Equally likely Gaussians of one width, alike in all directions.

    Attributes:
      centres: float32[K, D].
      std: of every mode in every direction.
    """

    centres: np.ndarray | jax.Array
    std: float


def ring(modes: int = 8, radius: float = 1., std: float = 0.01) -> Mixture:
    """Make Gaussians on a circle; the first one is at (radius, 0).

    Args:
      modes: K. A ring of the same width is harder the larger its radius.
      radius: of the circle.
      std: of a mode.

    Raises:
      ValueError: a number is not positive.

    >>> ring(modes=4).centres.round(3) + 0.
    array([[ 1.,  0.],
           [ 0.,  1.],
           [-1.,  0.],
           [ 0., -1.]], dtype=float32)
    """
    _check_positive(modes=modes, radius=radius, std=std)
    angles = np.linspace(0, 2 * np.pi, modes, endpoint=False)
    centres = radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return Mixture(centres.astype(np.float32), std)


def grid(side: int = 5, spacing: float = 2., std: float = 0.05) -> Mixture:
    """Make Gaussians on a square grid about the origin.

    Args:
      side: K = side * side modes.
      spacing: between neighbours.
      std: of a mode.

    Raises:
      ValueError: a number is not positive.

    >>> grid(side=2).centres.tolist()
    [[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]]
    """
    _check_positive(side=side, spacing=spacing, std=std)
    axis = spacing * (np.arange(side) - (side - 1) / 2)
    centres = np.stack(np.meshgrid(axis, axis, indexing='ij'), axis=-1)
    return Mixture(centres.reshape(-1, 2).astype(np.float32), std)


# The mixtures that the papers' tables are of.
MIXTURES: dict[str, Callable[..., Mixture]] = {'ring': ring, 'grid': grid}


def draw(mixture: Mixture, key: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """Draw points, each of a mode of its own.

    Args:
      mixture: of K modes.
      key: PRNG key[].
      count: N.

    Returns:
      (points float32[N, D], modes int32[N]).
    """
    mode_key, noise_key = jax.random.split(key)
    centres = jnp.asarray(mixture.centres)
    modes = jax.random.randint(mode_key, (count,), 0, len(centres))
    noise = jax.random.normal(noise_key, (count, centres.shape[1]), centres.dtype)
    return centres[modes] + mixture.std * noise, modes


def two_moons(key: jax.Array, count: int, std: float = 0.05
              ) -> tuple[jax.Array, jax.Array]:
    """Draw points of two half circles that reach into each other.

    The first is the upper half of the unit circle, the second the lower half of that
    about (1, 1/2); noise is added to both.

    Args:
      key: PRNG key[].
      count: N.
      std: of the noise.

    Returns:
      (points float32[N, 2], moons int32[N], 0 or 1).
    """
    moon_key, angle_key, noise_key = jax.random.split(key, 3)
    moons = jax.random.randint(moon_key, (count,), 0, 2)
    angle = jax.random.uniform(angle_key, (count,), jnp.float32, 0., jnp.pi)
    upper = jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1)
    lower = jnp.array([[1., 0.5]], jnp.float32) - upper
    noise = jax.random.normal(noise_key, (count, 2), jnp.float32)
    return jnp.where(moons[:, None] == 0, upper, lower) + std * noise, moons


def mixture_dataset(name: str, mixture: Mixture, train: int = 100_000,
                    test: int = 10_000, seed: int = 0) -> Dataset:
    """Draw a fixed set, as papers train on; the labels are the modes.

    It is no entry of `DATASETS`: models of images, which take those, cannot take it.

    Args:
      name: of the set.
      mixture: such as `ring()`.
      train: number of points to train on; the papers' is 100,000.
      test: number of points held out.
      seed: of the draw.

    >>> data = mixture_dataset('ring', ring(), train=6, test=3)
    >>> data.train.examples.shape, data.test.labels.shape
    ((6, 2), (3,))
    """
    _check_positive(train=train, test=test)
    keys = jax.random.split(jax.random.key(seed))
    splits = [Split(*map(np.asarray, draw(mixture, key, count)))
              for key, count in zip(keys, (train, test))]
    return Dataset(name, splits[0], None, splits[1], {})


def _check_positive(**numbers: float) -> None:
    for name, number in numbers.items():
        if not number > 0:
            raise ValueError(f'{name} is {number}; give a positive number.')
