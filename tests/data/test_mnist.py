"""The idx format on small files; the real sets where CDGM_DATA_DIR has them."""

import gzip
import hashlib
import struct

import numpy as np
import pytest

from cdgm import data
from cdgm.data.fetch import fetch
from cdgm.data.files import Content, DataError, File, parse
from cdgm.data.mnist import (FASHION_FILES, MNIST_FILES, TEST_IMAGES, TEST_LABELS,
                             TRAIN_IMAGES, TRAIN_LABELS, idx_dataset, parse_idx)


def idx(values):
    head = struct.pack('>BBBB', 0, 0, 8, values.ndim)
    return gzip.compress(head + struct.pack(f'>{values.ndim}I', *values.shape)
                         + values.tobytes())


def write(folder, name, data):
    (folder / name).write_bytes(data)
    return File(name, 'http://localhost/' + name, hashlib.sha256(data).hexdigest())


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (5, 3, 4)).astype(np.uint8)


def test_idx_dataset(tmp_path, pixels):
    labels = np.array([3, 1, 4, 1, 5], np.uint8)
    files = [write(tmp_path, TRAIN_IMAGES, idx(pixels[:3])),
             write(tmp_path, TRAIN_LABELS, idx(labels[:3])),
             write(tmp_path, TEST_IMAGES, idx(pixels[3:])),
             write(tmp_path, TEST_LABELS, idx(labels[3:]))]
    dataset = idx_dataset('tiny', fetch('tiny', files, tmp_path))
    assert dataset.name == 'tiny' and dataset.validation is None
    assert dataset.train.examples.shape == (3, 3, 4, 1)
    assert dataset.train.examples.dtype == dataset.test.examples.dtype == np.float32
    assert dataset.train.labels.dtype == np.int32
    np.testing.assert_array_equal(
        dataset.test.examples[..., 0], pixels[3:].astype(np.float32) / np.float32(255))
    np.testing.assert_array_equal(dataset.test.labels, [1, 5])
    assert dataset.sha256 == {file.name: file.sha256 for file in files}


@pytest.mark.parametrize('damage', [
    lambda data: b'<html>not found</html>',            # no gzip file
    lambda data: data[:-9],                            # half a gzip file
    lambda data: gzip.compress(b''),                   # nothing in it
    lambda data: gzip.compress(gzip.decompress(data)[:-1]),  # a pixel short
    lambda data: gzip.compress(b'\0\0\x0d' + gzip.decompress(data)[3:]),  # floats
    lambda data: idx(np.zeros((2, 2), np.uint8)),      # two axes
], ids=['html', 'truncated', 'empty', 'short', 'floats', 'axes'])
def test_unparsable(tmp_path, pixels, damage):
    content = Content(tmp_path / 'x.gz', damage(idx(pixels)), 'f00')
    with pytest.raises(DataError) as caught:
        parse(content, lambda data: parse_idx(data, 3))
    message = str(caught.value)
    assert str(content.path) in message and 'f00' in message and '\n' not in message


@pytest.mark.parametrize('name, files', [
    ('mnist', MNIST_FILES), ('fashion_mnist', FASHION_FILES)])
def test_real(name, files, real_folder):
    real_folder(name.replace('_', '-'))
    dataset = data.load(name)
    assert set(dataset.sha256) == {file.name for file in files}
    for split, count in (dataset.train, 60_000), (dataset.test, 10_000):
        assert split.examples.shape == (count, 28, 28, 1)
        assert split.examples.dtype == np.float32 and split.labels.dtype == np.int32
        assert split.examples.min() == 0 and split.examples.max() == 1
        assert set(split.labels) == set(range(10))
        if name == 'fashion_mnist':
            assert (np.bincount(split.labels) == count // 10).all()
