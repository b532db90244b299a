"""Data sets by name: arrays of images, text or sound, by functions of one signature.

A set's files are read from a directory that the user names (`data_dir`, or the
environment variable CDGM_DATA_DIR), or downloaded once to the user's cache. The sha256
of every file is pinned, and checked at every load before the file is parsed.
"""

import difflib
from collections.abc import Callable

from cdgm.data.audio_folder import audio_folder as audio_folder
from cdgm.data.binarize import binarize as binarize
from cdgm.data.binarized_mnist import binarized_mnist as binarized_mnist
from cdgm.data.dataset import Dataset as Dataset
from cdgm.data.dataset import Split as Split
from cdgm.data.digits import digits as digits
from cdgm.data.files import DataError as DataError
from cdgm.data.files import Directory
from cdgm.data.fsdd import fsdd as fsdd
from cdgm.data.mixtures import Mixture as Mixture
from cdgm.data.mnist import fashion_mnist as fashion_mnist
from cdgm.data.mnist import mnist as mnist
from cdgm.data.names import names as names
from cdgm.data.names import names_text as names_text
from cdgm.data.notes import notes as notes
from cdgm.data.python_docs import python_docs as python_docs
from cdgm.data.shakespeare import shakespeare as shakespeare
from cdgm.data.stacked import NUM_MODES as NUM_MODES
from cdgm.data.stacked import draw_stacked as draw_stacked
from cdgm.data.stacked import stack as stack
from cdgm.data.stacked import stacked_base as stacked_base
from cdgm.data.stacked import stacked_digits as stacked_digits
from cdgm.data.stacked import stacked_mnist as stacked_mnist
from cdgm.data.stacked import triple_number as triple_number
from cdgm.data.windows import token_table as token_table
from cdgm.data.windows import windows as windows
from cdgm.data.synthetic_text import synthetic_text as synthetic_text

DATASETS: dict[str, Callable[[Directory | None], Dataset]] = {
    'digits': digits,
    'mnist': mnist,
    'binarized_mnist': binarized_mnist,
    'fashion_mnist': fashion_mnist,
    'stacked_digits': stacked_digits,
    'stacked_mnist': stacked_mnist,
    'python_docs': python_docs,
    'shakespeare': shakespeare,
    'names': names,
    'notes': notes,
    'fsdd': fsdd,
    'folder': audio_folder,
}


def load(name: str, data_dir: Directory | None = None) -> Dataset:
    """Load a data set by its name.

    Args:
      name: a key of `DATASETS`.
      data_dir: where its files are; see `cdgm.data.fetch.fetch`.

    Raises:
      ValueError: there is no set of that name.
      DataError: a file is missing, altered, or cannot be downloaded.

    >>> load('digits').train.examples.shape
    (1437, 8, 8, 1)
    """
    if name not in DATASETS:
        close = difflib.get_close_matches(name, DATASETS, n=1)
        hint = f'; did you mean {close[0]!r}?' if close else ''
        raise ValueError(
            f'unknown dataset {name!r}: choose one of {", ".join(DATASETS)}{hint}')
    return DATASETS[name](data_dir)
