"""Stacked digits: channels on their own, numbers of triples, splits not pooled."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdgm import data
from cdgm.data.dataset import Split

COUNT = 4000


@pytest.fixture(scope='module')
def base():
    return data.load('digits')


@pytest.fixture(scope='module')
def drawn(base):
    return jax.jit(data.draw_stacked, static_argnums=2)(
        base.train, jax.random.key(0), COUNT)


def _rows(images):
    return {image.tobytes() for image in np.asarray(images)}


def test_each_channel_is_an_image_of_the_base_and_of_its_class(base, drawn):
    assert drawn.examples.shape == (COUNT, 8, 8, 3)
    assert drawn.labels.dtype == jnp.int32
    classes = {image.tobytes(): label for image, label in zip(*base.train)}
    for image, number in zip(np.asarray(drawn.examples[:100]), drawn.labels):
        triple = [classes[np.ascontiguousarray(image[..., c])[..., None].tobytes()]
                  for c in range(3)]
        assert int(number) == int(''.join(map(str, triple)))


def test_channels_are_independent_and_uniform(base, drawn):
    # Pearson's statistic of pairs of classes, of 99 degrees of freedom.
    digits = np.stack([np.asarray(drawn.labels) // place % 10
                       for place in (100, 10, 1)])
    share = np.bincount(base.train.labels) / len(base.train.labels)
    for a, b in ((0, 1), (0, 2), (1, 2)):
        seen = np.histogram2d(digits[a], digits[b], bins=10)[0]
        expected = COUNT * np.outer(share, share)
        assert ((seen - expected) ** 2 / expected).sum() < 99 + 4 * np.sqrt(2 * 99)


def test_the_key_decides(base):
    once, again, other = (data.draw_stacked(base.train, jax.random.key(seed), 20)
                          for seed in (1, 1, 2))
    np.testing.assert_array_equal(once.examples, again.examples)
    assert (once.labels != other.labels).any()


def test_the_kept_set_does_not_pool_its_splits(base):
    kept = data.load('stacked_digits')
    assert kept.name == 'stacked_digits' and kept.sha256 == base.sha256
    assert kept.train.examples.dtype == np.float32
    for mine, whole in ((kept.train, base.train), (kept.test, base.test)):
        assert mine.examples.shape == (len(mine.labels), 8, 8, 3)
        channels = np.moveaxis(mine.examples[:500], -1, 1).reshape(-1, 8, 8, 1)
        assert _rows(channels) <= _rows(whole.examples)
        assert np.ptp(mine.labels) > 990


def test_the_base_of_what_is_no_stack():
    assert data.stacked_base('stacked_digits').train.examples.shape[-1] == 1
    with pytest.raises(ValueError, match="'mnist' is not a set of stacked digits; .*"
                                         'stacked_digits, stacked_mnist'):
        data.stacked_base('mnist')


def test_numbers_of_triples():
    triples = jnp.stack(jnp.meshgrid(*3 * [jnp.arange(10)], indexing='ij'), axis=-1)
    np.testing.assert_array_equal(data.triple_number(triples).ravel(),
                                  np.arange(data.NUM_MODES))


def test_any_size(base):
    tiny = Split(jnp.zeros((3, 5, 4, 1)), jnp.arange(3))
    assert data.draw_stacked(tiny, jax.random.key(0), 2).examples.shape == (2, 5, 4, 3)
