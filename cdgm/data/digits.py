"""digits: 1797 handwritten digits of 8x8 pixels, which come with scikit-learn.

The test part of the UCI set "Optical Recognition of Handwritten Digits" (Alpaydin and
Kaynak 1998): counts 0 to 16 of the pixels with ink in blocks of 4x4, here over 16.
It needs no download, so it is the default of every experiment.

The split is fixed: of each digit's images, shuffled, 36 (about a fifth) are the test
split, 360 in all, and the other 1437 the train split. Both hold images of the same 13
writers, so a test figure says nothing about new writers.
"""

import numpy as np

from cdgm.data.dataset import Dataset, Split, unit_images
from cdgm.data.files import DataError, Directory, check_sha256

_WHITE = 16
_TEST_PER_DIGIT = 36
_SEED = 0
_SHA256 = '87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826'


def digits(data_dir: Directory | None = None) -> Dataset:
    """Load scikit-learn's digits: 1437 train and 360 test images of 8x8, labelled.

    Args:
      data_dir: ignored, as the images are installed with scikit-learn.

    Raises:
      DataError: scikit-learn's copy is altered or cannot be read.
      ImportError: scikit-learn is not installed.
    """
    del data_dir
    pixels, labels = _read()
    # Hashed as arrays, since scikit-learn may pack its file differently some day.
    sha256 = check_sha256(pixels.tobytes() + labels.tobytes(), (_SHA256,),
                          'scikit-learn digits', 'install scikit-learn again')
    images = unit_images(pixels, _WHITE)
    train, test = stratified(labels, _TEST_PER_DIGIT, _SEED)
    classes = labels.astype(np.int32)
    return Dataset('digits', Split(images[train], classes[train]), None,
                   Split(images[test], classes[test]),
                   {'sklearn.datasets.load_digits': sha256})


def stratified(
    labels: np.ndarray, per_class: int, seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw `per_class` test indices of every class; the rest are train indices.

    Args:
      labels: integer[N].
      per_class: the number of test indices of each class.
      seed: of the draw.

    Returns:
      The train and the test indices, int64[N - C * per_class] and
      int64[C * per_class] for C classes, each in rising order.

    >>> stratified(np.array([0, 1, 0, 1, 1]), 1, seed=0)
    (array([0, 1, 3]), array([2, 4]))
    """
    # RandomState, because NumPy promises that its stream never changes (NEP 19).
    random = np.random.RandomState(seed)
    test = np.sort(np.concatenate([
        random.permutation(np.flatnonzero(labels == c))[:per_class]
        for c in np.unique(labels)]))
    return np.setdiff1d(np.arange(len(labels)), test), test


def _read() -> tuple[np.ndarray, np.ndarray]:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "the data set 'digits' needs scikit-learn: pip install cdgm[experiments]"
        ) from error
    try:
        bunch = load_digits()
    except (OSError, EOFError, ValueError) as error:
        reason = ' '.join(str(error).split())
        raise DataError(f'scikit-learn digits: cannot be read ({reason}); '
                        f'install scikit-learn again') from error
    return bunch.images.astype(np.uint8), bunch.target.astype(np.uint8)
