"""MNIST and Fashion-MNIST: 60,000 + 10,000 images of 28x28, in the idx format.

An idx file is big-endian: two zero bytes, a type code (8: unsigned bytes), the number
of axes, the length of each axis as 4 bytes, then the values in row-major order.

Sources: LeCun, Cortes and Burges, "The MNIST database of handwritten digits" (1998),
from PyTorch's mirror, as the authors' own server no longer serves it; Xiao, Rasul and
Vollgraf 2017, arXiv:1708.07747.
"""

import gzip

import numpy as np

from cdgm.data.dataset import Dataset, Split, unit_images
from cdgm.data.fetch import fetch
from cdgm.data.files import Content, Directory, File, parse

_UNSIGNED_BYTE = 8
_WHITE = 255

_MNIST_URL = 'https://ossci-datasets.s3.amazonaws.com/mnist/'
_FASHION_URL = 'http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/'

TRAIN_IMAGES = 'train-images-idx3-ubyte.gz'
TRAIN_LABELS = 'train-labels-idx1-ubyte.gz'
TEST_IMAGES = 't10k-images-idx3-ubyte.gz'
TEST_LABELS = 't10k-labels-idx1-ubyte.gz'

MNIST_FILES = tuple(File(name, _MNIST_URL + name, sha256) for name, sha256 in (
    (TRAIN_IMAGES, '440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609'),
    (TRAIN_LABELS, '3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c'),
    (TEST_IMAGES, '8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6'),
    (TEST_LABELS, 'f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6'),
))

# The second hash is of Debian's package dataset-fashion-mnist, whose gzip headers leave
# out the file name and the time; the compressed bytes are the same.
FASHION_FILES = tuple(
    File(name, _FASHION_URL + name, sha256, (debian,)) for name, sha256, debian in (
        (TRAIN_IMAGES,
         '3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84',
         'b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7'),
        (TRAIN_LABELS,
         'a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845',
         '0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056'),
        (TEST_IMAGES,
         '346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073',
         'cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa'),
        (TEST_LABELS,
         '67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5',
         '8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05'),
    ))


def mnist(data_dir: Directory | None = None) -> Dataset:
    """Load MNIST, labelled 0 to 9 by the digit; the folder is `mnist`.

    Args:
      data_dir: where the files are; see `cdgm.data.fetch.fetch`.

    Raises:
      DataError: a file is missing, altered, or cannot be downloaded.
    """
    return idx_dataset('mnist', fetch('mnist', MNIST_FILES, data_dir))


def fashion_mnist(data_dir: Directory | None = None) -> Dataset:
    """Load Fashion-MNIST: clothes of ten kinds; the folder is `fashion-mnist`.

    Args:
      data_dir: where the files are; see `cdgm.data.fetch.fetch`.

    Raises:
      DataError: a file is missing, altered, or cannot be downloaded.
    """
    return idx_dataset('fashion_mnist', fetch('fashion-mnist', FASHION_FILES, data_dir))


def idx_dataset(name: str, contents: dict[str, Content]) -> Dataset:
    """Build a data set of the four idx files, given by their names.

    Raises:
      DataError: a file cannot be parsed.
    """
    def split(images_name, labels_name):
        pixels = parse(contents[images_name], lambda data: parse_idx(data, 3))
        labels = parse(contents[labels_name], lambda data: parse_idx(data, 1))
        return Split(unit_images(pixels, _WHITE), labels.astype(np.int32))

    return Dataset(name, split(TRAIN_IMAGES, TRAIN_LABELS), None,
                   split(TEST_IMAGES, TEST_LABELS),
                   {key: content.sha256 for key, content in contents.items()})


def parse_idx(data: bytes, ndim: int) -> np.ndarray:
    """Parse a gzipped idx file of unsigned bytes with `ndim` axes, to uint8[...].

    Raises:
      ValueError: the bytes are no such file (or OSError, EOFError, zlib.error, where
        they are no whole gzip file).
    """
    data = gzip.decompress(data)
    magic = bytes((0, 0, _UNSIGNED_BYTE, ndim))
    if data[:4] != magic:
        raise ValueError(f'it begins with {data[:4].hex()}, not {magic.hex()}')
    start = 4 + 4 * ndim
    shape = tuple(np.frombuffer(data[4:start], '>u4'))
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)
