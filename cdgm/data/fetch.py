"""Find the files of a data set: in the user's folder, in the cache, or on the web.

A folder that the user names is final: nothing is downloaded then, and nothing written.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from cdgm.data.download import download, import_pooch
from cdgm.data.files import Content, DataError, Directory, File, read


def fetch(
    folder: str, files: Sequence[File], data_dir: Directory | None = None,
) -> dict[str, Content]:
    """Read the files of a set, each checked against its sha256.

    Args:
      folder: the name of the set's folder, as 'fashion-mnist'.
      files: what to read.
      data_dir: the directory that has the set's folder, or that folder itself; None
        means the environment variable CDGM_DATA_DIR or, without it, pooch's cache
        directory of this user, to which missing or altered files are downloaded.

    Returns:
      The content of each file by its name.

    Raises:
      DataError: a file is missing, altered, or cannot be downloaded.
      ImportError: a download is called for, and pooch is not installed.
    """
    home = local_folder(folder, files, data_dir)
    if home is not None:
        return {file.name: read(file, home) for file in files}
    cache = Path(import_pooch().os_cache('cdgm')) / folder
    return {file.name: _read_or_download(file, cache) for file in files}


def local_folder(
    folder: str, files: Sequence[File], data_dir: Directory | None = None,
) -> Path | None:
    """Find the set's folder in `data_dir` or CDGM_DATA_DIR; None if neither is given.

    It is the first of DIR/fashion-mnist, DIR/fashion_mnist and DIR (for example) that
    holds any of the files, and DIR/fashion-mnist, where they should be, if none does.

    Raises:
      DataError: the directory does not exist.
    """
    given_by = 'data_dir' if data_dir else 'CDGM_DATA_DIR'
    root = data_dir or os.environ.get('CDGM_DATA_DIR')
    if not root:
        return None
    path = Path(root).expanduser()
    if not path.is_dir():
        raise DataError(f'{given_by}={root}: no such directory; name the one that has '
                        f'{folder}/, or none to download the data')
    homes = path / folder, path / folder.replace('-', '_'), path
    found = (home for home in homes
             if any((home / file.name).exists() for file in files))
    return next(found, homes[0])


def _read_or_download(file: File, cache: Path) -> Content:
    try:
        return read(file, cache)
    except DataError:
        download(file, cache)
        return read(file, cache)
