"""Data files and their pinned sha256: nothing is parsed before its hash is right.

Whatever is wrong with a file ends as a `DataError` of one line that names the file, the
hashes, and the remedy.
"""

import hashlib
import os
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

Directory = str | os.PathLike[str]
T = TypeVar('T')


class DataError(ValueError):
    """A data file is missing, altered or unreadable; the message is one line."""


class File(NamedTuple):
    """A file as its authors publish it.

    Attributes:
      name: its name in the set's folder.
      url: where it is published.
      sha256: of the published bytes, in hexadecimal.
      repacked: sha256 of other archives known to hold the same content.
    """

    name: str
    url: str
    sha256: str
    repacked: tuple[str, ...] = ()


class Content(NamedTuple):
    """The bytes of a file, and their sha256, which is one of those pinned."""

    path: Path
    data: bytes
    sha256: str


def check_sha256(data: bytes, pinned: tuple[str, ...], where: str, remedy: str) -> str:
    """Return the sha256 of `data`.

    Args:
      data: the bytes.
      pinned: the hashes that are right, in hexadecimal.
      where: what the bytes are, for the message: a path or an address.
      remedy: what to do about wrong bytes, for the message.

    Raises:
      DataError: the hash is none of those pinned.
    """
    seen = hashlib.sha256(data).hexdigest()
    if seen not in pinned:
        expected = ' or '.join(pinned)
        raise DataError(f'{where}: sha256 is {seen}, expected {expected}; {remedy}')
    return seen


def read(file: File, folder: Path) -> Content:
    """Read a file of `folder` whole and check its sha256.

    Raises:
      DataError: the file is missing, unreadable, truncated or altered.
    """
    path = folder / file.name
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(
            f'{path}: {error.strerror} (expected sha256 {file.sha256}); '
            f'fetch {file.url} into {folder}') from error
    pinned = (file.sha256, *file.repacked)
    remedy = f'move it away and fetch {file.url}'
    return Content(path, data, check_sha256(data, pinned, str(path), remedy))


def parse(content: Content, parser: Callable[[bytes], T]) -> T:
    """Parse the bytes of a file that has passed its check.

    Raises:
      DataError: the parser does not understand the bytes.
    """
    try:
        return parser(content.data)
    except (OSError, EOFError, KeyError, ValueError, zlib.error,
            zipfile.BadZipFile) as error:
        reason = ' '.join(str(error).split())
        raise DataError(
            f'{content.path}: cannot be parsed ({reason}) although its sha256 is '
            f'{content.sha256}, as pinned; please report this') from error
