"""shakespeare: 1.1 million characters of plays, the text of many small language models.

The first nine tenths of the characters are train and the rest test (1,003,854 and
111,540), as in nanoGPT, so that figures may be set beside its.

Source: "tinyshakespeare", A. Karpathy, github.com/karpathy/char-rnn.

Shapes   N windows of T characters (`length`), cut one after another from the split's
         text; what is left at the end is dropped.
"""

from cdgm.data.dataset import Dataset, Split
from cdgm.data.fetch import fetch
from cdgm.data.files import Directory, File, parse
from cdgm.data.windows import windows

_FOLDER = 'tinyshakespeare'

TEXT_FILE = File(
    'input.txt', 'https://raw.githubusercontent.com/karpathy/char-rnn/master/data/'
    'tinyshakespeare/input.txt',
    '86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed')


def shakespeare(data_dir: Directory | None = None, *, length: int = 128) -> Dataset:
    """Load the plays, in windows of characters; the folder is `tinyshakespeare`.

    Args:
      data_dir: where the file is; see `cdgm.data.fetch.fetch`.
      length: T, characters a window.

    Returns:
      A `Dataset` whose examples are int32[N, T], indices into its `vocabulary` of 65
      characters; no labels and no validation split.

    Raises:
      DataError: the file is missing, altered, or cannot be downloaded.
      ValueError: length is not positive, or longer than the test text.
    """
    contents = fetch(_FOLDER, (TEXT_FILE,), data_dir)
    text = parse(contents[TEXT_FILE.name], bytes.decode)
    vocabulary = ''.join(sorted(set(text)))
    stop = int(0.9 * len(text))
    return Dataset('shakespeare', Split(windows(text[:stop], vocabulary, length), None),
                   None, Split(windows(text[stop:], vocabulary, length), None),
                   {name: content.sha256 for name, content in contents.items()},
                   vocabulary)
