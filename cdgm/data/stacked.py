"""Stacked digits: three grey digits as the red, green and blue of one image.

A mode is the triple of the three classes, 1000 of them, all equally probable but for
the counts of the base set: a test of whether a generator forgets any. Every channel is
drawn on its own, from one split of a set of digits, so that train and test digits are
never pooled. `draw_stacked` draws on the device, by a key; the sets of the table are
draws of it that are kept:

    stacked_digits   8 x 8, of scikit-learn's digits; nothing to download
    stacked_mnist    28 x 28, of MNIST

Shapes   N base images, n stacks, H rows, W columns.
Sources  Metz et al. 2016 (arXiv:1611.02163) section 3.3.1; Lin et al. 2018, PacGAN
         (arXiv:1712.04086) section 4.2, who pool the splits.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from cdgm.data.dataset import Dataset, Split
from cdgm.data.digits import digits
from cdgm.data.files import Directory
from cdgm.data.mnist import mnist

NUM_MODES = 1000
_CLASSES = 10

# As many stacks are kept to train on as papers judge by.
_TRAIN, _TEST = 25_600, 5_120

BASES = {'stacked_digits': digits, 'stacked_mnist': mnist}


def draw_stacked(base: Split, key: jax.Array, count: int) -> Split:
    """Draw stacks; to be traced, or not.

    Args:
      base: images of one channel, float[N, H, W, 1], and their classes, int[N] 0 to 9.
      key: PRNG key; the same key draws the same stacks.
      count: n.

    Returns:
      float[n, H, W, 3] and the numbers of the triples, int32[n], see `triple_number`.

    >>> base = Split(jnp.zeros((2, 4, 4, 1)), jnp.array([4, 4]))
    >>> stacks = draw_stacked(base, jax.random.key(0), 5)
    >>> stacks.examples.shape, stacks.labels.tolist()
    ((5, 4, 4, 3), [444, 444, 444, 444, 444])
    """
    drawn = jax.random.randint(key, (3 * count,), 0, len(base.labels))
    triples = jnp.asarray(base.labels)[drawn].reshape(count, 3)
    return Split(stack(jnp.asarray(base.examples)[drawn]), triple_number(triples))


def stack(images: jax.Array) -> jax.Array:
    """Make one image of each three in a row, float[3 n, H, W, 1] -> float[n, H, W, 3].

    >>> stack(jnp.arange(6.).reshape(6, 1, 1, 1))[:, 0, 0].tolist()
    [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
    """
    _, height, width, _ = images.shape
    return jnp.moveaxis(images.reshape(-1, 3, height, width), 1, -1)


def triple_number(classes: jax.Array) -> jax.Array:
    """Number a triple of classes by its digits.

    Args:
      classes: int[..., 3], each 0 to 9, of the channels in order.

    Returns:
      int32[...], 0 to 999.

    >>> int(triple_number(jnp.array([3, 0, 9])))
    309
    """
    place = jnp.array([_CLASSES ** 2, _CLASSES, 1], jnp.int32)
    return jnp.asarray(classes, jnp.int32) @ place


def stacked_base(name: str, data_dir: Directory | None = None) -> Dataset:
    """Load the digits that a stacked set is made of, under the name of that set.

    Args:
      name: a key of `BASES`.
      data_dir: where the files are; see `cdgm.data.fetch.fetch`.

    Raises:
      ValueError: it is no stacked set.
      DataError: a file is missing, altered, or cannot be downloaded.
    """
    if name not in BASES:
        raise ValueError(f'{name!r} is not a set of stacked digits; choose one of '
                         f'{", ".join(BASES)}.')
    return BASES[name](data_dir)._replace(name=name)


def _stacked(name: str, data_dir: Directory | None) -> Dataset:
    base = stacked_base(name, data_dir)
    train, test = (
        Split(*map(np.asarray, draw_stacked(split, jax.random.key(seed), count)))
        for seed, (split, count) in enumerate([(base.train, _TRAIN),
                                               (base.test, _TEST)]))
    return base._replace(train=train, validation=None, test=test)


stacked_digits = partial(_stacked, 'stacked_digits')
stacked_mnist = partial(_stacked, 'stacked_mnist')
