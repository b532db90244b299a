"""Larochelle's text and the packed copy, small and, where there, the real one."""

import hashlib
import io

import numpy as np
import pytest

from cdgm import data
from cdgm.data.fetch import fetch
from cdgm.data.binarized_mnist import (AMAT_FILES, PACKED_FILE, binarized_mnist,
                                       parse_amat, parse_packed)
from cdgm.data.files import Content, DataError, parse


def amat(images):
    lines = [' '.join(map(str, image.ravel())) + '\n' for image in images]
    return ''.join(lines).encode()


def packed(parts):
    file = io.BytesIO()
    np.savez(file, **{part: np.packbits(images.reshape(len(images), -1), axis=1)
                      for part, images in parts.items()})
    return file.getvalue()


@pytest.fixture
def bits():
    return np.random.default_rng(0).integers(0, 2, (3, 28, 28)).astype(np.uint8)


def test_amat(bits):
    np.testing.assert_array_equal(parse_amat(amat(bits)), bits)


def test_packed(bits):
    parts = {'train': bits, 'valid': bits[:2], 'test': bits[2:]}
    parsed = parse_packed(packed(parts))
    assert list(parsed) == list(parts)
    for part, images in parts.items():
        np.testing.assert_array_equal(parsed[part], images)


def test_both_forms_load_alike(tmp_path, monkeypatch, bits):
    parts = {'train': bits, 'valid': bits[:2], 'test': bits[2:]}
    for part, images in parts.items():
        text = amat(images)
        file = AMAT_FILES[part]
        (tmp_path / file.name).write_bytes(text)
        monkeypatch.setitem(AMAT_FILES, part, file._replace(
            sha256=hashlib.sha256(text).hexdigest()))
    of_text = binarized_mnist(tmp_path)
    assert sorted(of_text.sha256) == sorted(file.name for file in AMAT_FILES.values())
    archive = packed(parts)
    (tmp_path / PACKED_FILE.name).write_bytes(archive)
    with pytest.raises(DataError, match=f'{PACKED_FILE.name}: sha256'):
        binarized_mnist(tmp_path)
    monkeypatch.setitem(
        binarized_mnist.__globals__, 'PACKED_FILE',
        PACKED_FILE._replace(sha256=hashlib.sha256(archive).hexdigest()))
    of_bits = binarized_mnist(tmp_path)
    assert list(of_bits.sha256) == [PACKED_FILE.name]
    for dataset in of_text, of_bits:
        splits = dataset.train, dataset.validation, dataset.test
        for split, images in zip(splits, parts.values(), strict=True):
            assert split.labels is None and split.examples.dtype == np.float32
            np.testing.assert_array_equal(split.examples[..., 0], images)


@pytest.mark.parametrize('damage', [
    lambda text: text[:-2], lambda text: text.replace(b'1', b'2', 1),
    lambda text: text.replace(b' ', b',', 1), lambda text: text.replace(b'\n', b' ', 1),
], ids=['short', 'two', 'comma', 'newline'])
def test_unparsable_amat(tmp_path, bits, damage):
    with pytest.raises(DataError, match='x.amat: cannot be parsed'):
        parse(Content(tmp_path / 'x.amat', damage(amat(bits)), 'f00'), parse_amat)


@pytest.mark.parametrize('data', [
    b'no archive', packed({'train': np.zeros((1, 28, 28), np.uint8)}),
    packed({part: np.zeros((1, 27, 27), np.uint8) for part in AMAT_FILES}),
], ids=['archive', 'keys', 'shape'])
def test_unparsable_packed(tmp_path, data):
    with pytest.raises(DataError, match='x.npz: cannot be parsed'):
        parse(Content(tmp_path / 'x.npz', data, 'f00'), parse_packed)


def test_real(real_folder):
    real_folder('binarized-mnist')
    dataset = data.load('binarized_mnist')
    splits = dataset.train, dataset.validation, dataset.test
    for split, count in zip(splits, (50_000, 10_000, 10_000), strict=True):
        assert split.examples.shape == (count, 28, 28, 1) and split.labels is None
        assert split.examples.dtype == np.float32
        assert ((split.examples == 0) | (split.examples == 1)).all()
        assert 0.1 < split.examples.mean() < 0.2


def test_real_packed_copy_is_the_published_text(real_folder):
    """The packed bits, written as Larochelle wrote them, have the pinned hashes."""
    if not (real_folder('binarized-mnist') / PACKED_FILE.name).exists():
        pytest.skip('no packed copy')
    content = fetch('binarized-mnist', [PACKED_FILE])[PACKED_FILE.name]
    for part, bits in parse_packed(content.data).items():
        text = np.full((len(bits), 28 * 28, 2), ord(' '), np.uint8)
        text[..., 0] = ord('0') + bits.reshape(len(bits), -1)
        text[:, -1, 1] = ord('\n')
        assert hashlib.sha256(text.tobytes()).hexdigest() == AMAT_FILES[part].sha256
