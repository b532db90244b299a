"""Download a file with pooch; a file that is not right never gets its name.

pooch writes to a temporary file in the same folder and renames it once its hash is
right, so that neither a broken connection nor a killed process leaves half a file under
the name, and two processes may download at once.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

from cdgm.data.files import DataError, File, check_sha256


def import_pooch():
    """Import pooch, or say how to get it."""
    try:
        import pooch
    except ImportError as error:
        raise ImportError(
            'downloading a data set needs pooch: pip install cdgm[experiments]'
        ) from error
    return pooch


@contextlib.contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def download(file: File, folder: Path,
             check: Callable[[bytes, str, str], object] | None = None) -> None:
    """Bring `file` from its address to `folder`, in place of what has its name there.

    Args:
      file: its name, address and sha256.
      folder: where it goes; made when missing.
      check: (bytes, where, remedy) -> anything, raises a DataError for wrong bytes, for
        a file whose `sha256` is of what is in it and not of its own bytes.

    Raises:
      DataError: the server cannot be reached, does not have the file or sends other
        bytes, or the folder cannot be written.
      ImportError: pooch is not installed.
    """
    pooch = import_pooch()
    import requests

    by_hand = (f'try again, or put the file into DIR/{folder.name}/ by hand and give '
               f'DIR as data_dir or CDGM_DATA_DIR')

    def downloader(url, output_file, pup):
        # Without stream, the connection is closed also when the server refuses.
        pooch.HTTPDownloader(stream=False)(url, output_file, pup)
        # pooch would check as well, but its message lacks the address and the remedy.
        data = Path(output_file).read_bytes()
        where = f'download of {url}'
        if check:
            check(data, where, by_hand)
        else:
            check_sha256(data, (file.sha256,), where, by_hand)

    logging.getLogger(__name__).info('downloading %s to %s', file.url, folder)
    try:
        with _quiet(pooch.get_logger()):
            pooch.retrieve(file.url, None if check else f'sha256:{file.sha256}',
                           fname=file.name, path=folder, downloader=downloader)
    except requests.RequestException as error:
        raise DataError(
            f'{file.url}: not downloaded ({_reason(error)}; expected sha256 '
            f'{file.sha256}); {by_hand}') from error
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise DataError(f'{folder / file.name}: cannot be written ({reason}) for the '
                        f'download of {file.url}; {by_hand}') from error


def _reason(error) -> str:
    if error.response is not None:
        return f'{error.response.status_code} {error.response.reason}'
    return type(error).__name__
