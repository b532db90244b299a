"""folder: recordings of one's own, WAV, FLAC or OGG, labelled by the folders' names.

    data_dir/yes/anna.wav, data_dir/yes/take 2/ben.flac, data_dir/no/anna.ogg, ...

The folders within `data_dir` are the classes, in the order of their names; where the
recordings lie in `data_dir` itself there are no labels. Of each class a tenth, at least
one, is the test split, drawn with a fixed seed.
"""

from pathlib import Path

import numpy as np

from cdgm.data.dataset import Dataset, Split
from cdgm.data.files import DataError, Directory
from cdgm.data.sound import decode, digest, fitted, resampled

_ENDINGS = ('.wav', '.flac', '.ogg')
_TEST_SHARE = 10  # one recording in ten
_SEED = 0


def audio_folder(data_dir: Directory | None = None, *, rate: int = 8000,
                 samples: int = 8192) -> Dataset:
    """Load a folder of recordings of any rate, width and number of channels.

    Args:
      data_dir: the folder.
      rate: samples a second, to which all are resampled.
      samples: T, to which all are cut or filled with silence.

    Returns:
      A `Dataset` of float32[N, T], each recording at a peak of 1; no validation split.

    Raises:
      DataError: there is no such folder or no recording in it, a class has only one, or
        a recording cannot be read; the message names it.
      ImportError: there is a .flac or .ogg, and soundfile is not installed.
    """
    if not data_dir:
        raise DataError('the data set folder is one of your own: name it with '
                        'data_dir (--data_dir=FOLDER)')
    root = Path(data_dir).expanduser()
    if not root.is_dir():
        raise DataError(f'data_dir={root}: no such directory; name the one that has '
                        'the recordings')
    paths = sorted(path for path in root.rglob('*')
                   if path.suffix.lower() in _ENDINGS and path.is_file())
    if not paths:
        raise DataError(f'{root}: no recording in it or below it; put files in that '
                        f'end in {", ".join(_ENDINGS)}')
    labels, classes = _labels(root, paths)
    files = {str(path): path.read_bytes() for path in paths}
    waves = fitted([resampled(decode(*item), rate) for item in files.items()], samples)
    test = _draw(np.zeros(len(paths), int) if labels is None else labels,
                 classes or (root.name,))
    train, held = (Split(waves[part], None if labels is None else labels[part])
                   for part in (~test, test))
    names = {str(Path(name).relative_to(root)): data for name, data in files.items()}
    return Dataset('folder', train, None, held, {str(root.name): digest(names)},
                   rate=rate, classes=classes)


def _labels(root: Path, paths: list[Path]
            ) -> tuple[np.ndarray | None, tuple[str, ...] | None]:
    """int32[N] and what they stand for; None each without folders."""
    tops = [path.relative_to(root).parts for path in paths]
    loose = [path for path, parts in zip(paths, tops) if len(parts) == 1]
    if len(loose) == len(paths):
        return None, None
    if loose:
        raise DataError(f'{loose[0]}: lies beside folders, which are the classes, and '
                        'in none of them; move it into one')
    classes = sorted({parts[0] for parts in tops})
    return (np.array([classes.index(parts[0]) for parts in tops], np.int32),
            tuple(classes))


def _draw(labels: np.ndarray, classes: tuple[str, ...]) -> np.ndarray:
    """Which recordings are the test split, bool[N]."""
    # RandomState, because NumPy promises that its stream never changes (NEP 19).
    random = np.random.RandomState(_SEED)
    test = np.zeros(len(labels), bool)
    for index, name in enumerate(classes):
        mine = np.flatnonzero(labels == index)
        if len(mine) < 2:
            raise DataError(f'{name}: it has only one recording, and a class needs one '
                            'to train on and one to test with; add some')
        test[random.permutation(mine)[:max(1, len(mine) // _TEST_SHARE)]] = True
    return test
