"""python_docs: the language reference that ships with Python, as characters.

The topics of `help()` (`pydoc_data.topics`), some 0.4 million characters of technical
English and code, about 100 of them different. It needs no download, so it is to a
language model what `digits` is to an image model: small, and there at once.

Topics overlap (`specialnames` repeats the whole of `customization`), so each paragraph
is kept where it comes first and dropped afterwards: otherwise the test split would be
learnt by heart. Topics are taken in the order of their names, and the last tenth of the
paragraphs of each (rounded) is test, so both splits speak of the same things, and
neither holds a paragraph of the other.

The text is another one in every version of Python, and so is the vocabulary: compare
figures of one version only. `Dataset.sha256` says which text it was.

Shapes   N windows of T characters (`length`), cut one after another from the split's
         text; what is left at the end is dropped. A model that predicts each character
         from those before it has T predictions a window, the first from nothing.
"""

import hashlib
from collections.abc import Mapping

from cdgm.data.dataset import Dataset, Split
from cdgm.data.files import Directory
from cdgm.data.windows import windows

_TEST_SHARE = 10  # one paragraph in ten


def python_docs(data_dir: Directory | None = None, *, length: int = 128) -> Dataset:
    """Load the reference of the running Python, in windows of characters.

    Args:
      data_dir: ignored, as the text is installed with Python.
      length: T, characters a window.

    Returns:
      A `Dataset` whose examples are int32[N, T], indices into its `vocabulary`; no
      labels and no validation split.

    Raises:
      ImportError: this Python was installed without its documentation.
      ValueError: length is not positive, or longer than the test text.

    >>> python_docs(length=64).train.examples.shape[1]
    64
    """
    del data_dir
    train, test = split_topics(_read())
    vocabulary = ''.join(sorted({*train, *test}))
    sha256 = hashlib.sha256((train + test).encode()).hexdigest()
    return Dataset('python_docs', Split(windows(train, vocabulary, length), None), None,
                   Split(windows(test, vocabulary, length), None),
                   {'pydoc_data.topics': sha256}, vocabulary)


def split_topics(topics: Mapping[str, str]) -> tuple[str, str]:
    """Join the topics into a train and a test text without common paragraphs.

    Args:
      topics: name -> text, paragraphs with an empty line between.

    Returns:
      (train, test); each paragraph ends with an empty line.

    >>> split_topics({'b': 'two\\n\\none', 'a': 'one'})
    ('one\\n\\ntwo\\n\\n', '')
    """
    seen: set[str] = set()
    train, test = [], []
    for name in sorted(topics):
        fresh = []
        for paragraph in topics[name].split('\n\n'):
            paragraph = paragraph.strip('\n')
            # Indentation is no difference: a topic within another is indented.
            bare = ' '.join(paragraph.split())
            if bare and bare not in seen:
                seen.add(bare)
                fresh.append(paragraph + '\n\n')
        stop = len(fresh) - round(len(fresh) / _TEST_SHARE)
        train += fresh[:stop]
        test += fresh[stop:]
    return ''.join(train), ''.join(test)


def _read() -> Mapping[str, str]:
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise ImportError("the data set 'python_docs' needs pydoc_data, a part of the "
                          'standard library: install Python with it') from error
    return topics
