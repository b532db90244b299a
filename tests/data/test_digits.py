"""digits against scikit-learn's own arrays."""

import hashlib

import numpy as np
import pytest
import sklearn.datasets

from cdgm.data import DataError, digits
from cdgm.data.digits import stratified


@pytest.fixture(scope='module')
def dataset():
    return digits()


@pytest.fixture(scope='module')
def oracle():
    return sklearn.datasets.load_digits()


def test_layout(dataset):
    assert dataset.name == 'digits' and dataset.validation is None
    for split, count in (dataset.train, 1437), (dataset.test, 360):
        assert split.examples.shape == (count, 8, 8, 1)
        assert split.examples.dtype == np.float32 and split.labels.dtype == np.int32
        assert split.examples.min() == 0 and split.examples.max() == 1


def test_every_image_of_scikit_learn_once(dataset, oracle):
    def rows(images, labels):
        flat = images.reshape(len(images), 64)
        table = np.column_stack([flat, labels])
        return table[np.lexsort(table.T)]

    both = [np.concatenate(pair) for pair in zip(dataset.train, dataset.test)]
    np.testing.assert_array_equal(
        rows(*both), rows(oracle.images / 16, oracle.target))


def test_split_is_stratified(dataset, oracle):
    assert (np.bincount(dataset.test.labels) == 36).all()
    fifth = np.bincount(oracle.target) / 5
    assert np.abs(np.bincount(dataset.test.labels) - fifth).max() < 1.5


def test_split_is_the_documented_one(dataset):
    # Pinned, so that figures of different versions stay comparable.
    seen = hashlib.sha256(dataset.test.examples.tobytes()).hexdigest()
    assert seen == '67c84834bbf84c8f8dfd6386424463dd70d3f44a06140017af4e9b30604f1bc6'


def test_data_dir_is_ignored(dataset, tmp_path):
    np.testing.assert_array_equal(
        digits(tmp_path / 'nowhere').test.examples, dataset.test.examples)


def test_stratified_partitions():
    labels = np.random.default_rng(0).integers(0, 4, 50)
    train, test = stratified(labels, 5, seed=1)
    np.testing.assert_array_equal(np.sort(np.r_[train, test]), np.arange(50))
    assert (np.bincount(labels[test]) == 5).all()
    assert not np.array_equal(test, stratified(labels, 5, seed=2)[1])


@pytest.mark.parametrize('error, match', [
    (OSError('gone'), 'cannot be read'), (ImportError('gone'), None)])
def test_unreadable(monkeypatch, error, match):
    def fail():
        raise error

    monkeypatch.setattr(sklearn.datasets, 'load_digits', fail)
    with pytest.raises(DataError if match else ImportError, match=match):
        digits()


def test_altered(monkeypatch, oracle):
    images = oracle.images.copy()
    images[0, 0, 0] += 1
    monkeypatch.setattr(sklearn.datasets, 'load_digits', lambda: sklearn.utils.Bunch(
        images=images, target=oracle.target))
    with pytest.raises(DataError, match='^scikit-learn digits: sha256 is .* again$'):
        digits()
