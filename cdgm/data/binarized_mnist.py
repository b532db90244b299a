"""binarized_mnist: MNIST as black and white once and for all, without labels.

50,000 train, 10,000 validation and 10,000 test images of 28x28. Each pixel was drawn
once from the Bernoulli law of its intensity, and everybody uses the same draw;
`binarize` draws anew. The images stand in another order than in `mnist`; those of the
test split are sorted by digit, so take no few of its first rows for the whole.

Source: Larochelle and Murray 2011, "The neural autoregressive distribution estimator",
after Salakhutdinov and Murray 2008. Published as text: a line an image, 784 digits 0 or
1 with a space between. A packed copy (NumPy's `packbits` along each image, in one .npz
with the keys train, valid and test) takes a fiftieth of the room and is read instead
where there is one.
"""

import io

import numpy as np

from cdgm.data.dataset import Dataset, Split, unit_images
from cdgm.data.fetch import fetch, local_folder
from cdgm.data.files import Directory, File, parse

_SIDE = 28
_FOLDER = 'binarized-mnist'
_URL = 'http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/'

AMAT_FILES = {part: File(f'binarized_mnist_{part}.amat',
                         f'{_URL}binarized_mnist_{part}.amat', sha256)
              for part, sha256 in (
    ('train', 'ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d'),
    ('valid', '1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2'),
    ('test', 'e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c'),
)}

# Not published, so the remedy for a bad copy is the published text.
PACKED_FILE = File(
    'binarized_mnist_packed.npz', _URL,
    '50de2c8299a5a297789293ab2c30f6fc3cb8c359a15e5e88d5501aa18ebb8fa5')


def binarized_mnist(data_dir: Directory | None = None) -> Dataset:
    """Load the fixed binarisation; the folder is `binarized-mnist`.

    Args:
      data_dir: where the files are; see `cdgm.data.fetch.fetch`.

    Raises:
      DataError: a file is missing, altered, or cannot be downloaded.
    """
    texts = tuple(AMAT_FILES.values())
    home = local_folder(_FOLDER, (PACKED_FILE, *texts), data_dir)
    packed = home is not None and (home / PACKED_FILE.name).exists()
    contents = fetch(_FOLDER, (PACKED_FILE,) if packed else texts, data_dir)
    if packed:
        bits = parse(contents[PACKED_FILE.name], parse_packed)
    else:
        bits = {part: parse(contents[file.name], parse_amat)
                for part, file in AMAT_FILES.items()}
    train, valid, test = (
        Split(unit_images(bits[part], white=1), None) for part in AMAT_FILES)
    return Dataset('binarized_mnist', train, valid, test,
                   {name: content.sha256 for name, content in contents.items()})


def parse_amat(data: bytes) -> np.ndarray:
    """Parse Larochelle's text, to uint8[N, 28, 28] of zeros and ones.

    Raises:
      ValueError: a line is not 784 digits 0 or 1 with a space between.
    """
    text = np.frombuffer(data, np.uint8).reshape(-1, _SIDE * _SIDE, 2)
    bits, gaps = text[..., 0] - ord('0'), text[..., 1]
    if (bits > 1).any() or (gaps[:, :-1] != ord(' ')).any() or (
            gaps[:, -1] != ord('\n')).any():
        raise ValueError('a line is not 784 digits 0 or 1 with a space between')
    return bits.reshape(-1, _SIDE, _SIDE)


def parse_packed(data: bytes) -> dict[str, np.ndarray]:
    """Parse the packed copy, to uint8[N, 28, 28] of zeros and ones for each split.

    Raises:
      ValueError: the arrays have another shape (or KeyError, zipfile.BadZipFile, where
        it is no such archive).
    """
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return {part: np.unpackbits(arrays[part], axis=1).reshape(-1, _SIDE, _SIDE)
                for part in AMAT_FILES}
