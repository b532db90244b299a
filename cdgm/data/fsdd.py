"""fsdd: the Free Spoken Digit Dataset, 3000 recordings of ten digits by six speakers.

English, 8000 Hz, one channel, trimmed; fifty recordings of each digit by each speaker,
of which the authors name the first five the test split: 2700 train and 300 test, of the
same speakers. A window of 8192 samples (1.024 s) holds 99.4 % of them whole.

Source: github.com/Jakobovski/free-spoken-digit-dataset (Jackson et al.), CC BY-SA 4.0.
GitHub does not promise the bytes of an archive, so what is pinned is a digest of what
is in it: of the recordings' names and bytes.
"""

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from cdgm.data.dataset import Dataset, Split
from cdgm.data.download import download, import_pooch
from cdgm.data.fetch import local_folder
from cdgm.data.files import DataError, Directory, File
from cdgm.data.sound import decode, digest, fitted

_COMMIT = '26eb9aaf76e81b692f806f9140c2d2777410d7a1'
_DIGEST = '3bec3e2f926459b52761103b0e1c92753cbc63180a3c2f2f19cc4c620e72f91c'
ARCHIVE = File(f'fsdd-{_COMMIT[:8]}-recordings.tar.gz',
               'https://github.com/Jakobovski/free-spoken-digit-dataset/archive/'
               f'{_COMMIT}.tar.gz', _DIGEST)
_DIGITS = ('zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight',
           'nine')
_SPEAKERS = ('george', 'jackson', 'lucas', 'nicolas', 'theo', 'yweweler')
_TEST = 5  # recordings 0 to 4
_RATE = 8000


def fsdd(data_dir: Directory | None = None, *,
         label: Literal['digit', 'speaker'] = 'digit', samples: int = 8192) -> Dataset:
    """Load the recordings, each scaled to a peak of 1 and cut or filled to one length.

    Args:
      data_dir: the directory that has `fsdd/`, or that folder itself, with the archive
        of `ARCHIVE.name` or the unpacked folder `recordings/`; None means
        CDGM_DATA_DIR or, without it, a download to the user's cache.
      label: what the labels are.
      samples: T, of the window.

    Returns:
      A `Dataset` of float32[N, T]; no validation split.

    Raises:
      DataError: the recordings are missing or altered, or cannot be downloaded.
      ImportError: a download is called for, and pooch is not installed.
    """
    files = _files(data_dir)
    recordings = [decode(name, files[name]) for name in sorted(files)]
    waves = fitted(recordings, samples)
    # recordings/7_jackson_32.wav
    parts = [Path(recording.name).stem.split('_') for recording in recordings]
    digits, speakers = (np.array(column, np.int32) for column in (
        [int(digit) for digit, _, _ in parts],
        [_SPEAKERS.index(speaker) for _, speaker, _ in parts]))
    labels, classes = ((digits, _DIGITS) if label == 'digit' else
                       (speakers, _SPEAKERS))
    test = np.array([int(number) < _TEST for _, _, number in parts])
    return Dataset('fsdd', Split(waves[~test], labels[~test]), None,
                   Split(waves[test], labels[test]), {'recordings': _DIGEST},
                   rate=_RATE, classes=classes)


def _files(data_dir: Directory | None) -> Mapping[str, bytes]:
    """Name, as in recordings/7_jackson_32.wav, -> bytes."""
    home = local_folder('fsdd', [ARCHIVE, ARCHIVE._replace(name='recordings')],
                        data_dir)
    if home is not None:
        return _read(home)
    cache = Path(import_pooch().os_cache('cdgm')) / 'fsdd'
    try:
        return _read(cache)
    except DataError:
        download(ARCHIVE, cache, check=lambda data, where, remedy: _checked(
            _unpack(data, where), where, remedy))
        return _read(cache)


def _read(folder: Path) -> Mapping[str, bytes]:
    remedy = f'move it away and fetch {ARCHIVE.url} as {folder / ARCHIVE.name}'
    archive, loose = folder / ARCHIVE.name, folder / 'recordings'
    if archive.exists():
        return _checked(_unpack(archive.read_bytes(), str(archive)), str(archive),
                        remedy)
    if loose.is_dir():
        return _checked({f'recordings/{path.name}': path.read_bytes()
                         for path in loose.glob('*.wav')}, str(loose), remedy)
    raise DataError(f'{archive}: no such file, and no folder recordings/ beside it '
                    f'(expected a digest {_DIGEST} of the recordings); fetch '
                    f'{ARCHIVE.url} into {folder}')


def _unpack(data: bytes, where: str) -> Mapping[str, bytes]:
    """Read the recordings of an archive, wherever in it they are."""
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            return {f'recordings/{Path(member.name).name}':
                    archive.extractfile(member).read()  # type: ignore[union-attr]
                    for member in archive if member.isfile()
                    and Path(member.name).parent.name == 'recordings'
                    and member.name.endswith('.wav')}
    except (tarfile.TarError, OSError, EOFError) as error:
        reason = ' '.join(str(error).split())
        raise DataError(f'{where}: it is no whole archive ({reason}); move it away and '
                        f'fetch {ARCHIVE.url}') from error


def _checked(files: Mapping[str, bytes], where: str, remedy: str
             ) -> Mapping[str, bytes]:
    seen = digest(files)
    if seen != _DIGEST:
        raise DataError(f'{where}: the digest of its {len(files)} recordings is '
                        f'{seen}, expected {_DIGEST}; {remedy}')
    return files
