"""names: 32,033 first names of one to fifteen letters a to z, an end mark after each.

Two splits. The lecture split is that of the published figures, by Python's own `random`
with seed 42: 25,626 to train on, 3203 to choose and 3204 to test on. Names come twice
and more in the file, so 12 % of its test names stand in its training part too;
`unseen` says which do not.

Shapes   N names; tokens int32[N, 16]: letters are 1 to 26, the end mark, and what comes
         after it, 0; lengths int32[N], letters and the end mark. As a text, N windows
         of T characters (`length`); what is left at the end is dropped.
Source   karpathy/makemore (MIT), names.txt; split: nn-zero-to-hero, part 2.
"""

import random
import string

import numpy as np

from cdgm.data.dataset import Dataset, Split
from cdgm.data.fetch import fetch
from cdgm.data.files import Directory, File, parse
from cdgm.data.windows import windows

VOCABULARY = '.' + string.ascii_lowercase
LENGTH = 16  # fifteen letters and the end mark
FILE = File('names.txt',
            'https://raw.githubusercontent.com/karpathy/makemore/master/names.txt',
            '0a30b5557f192f32ab962680889aac5f6fda0f4cecf40a6d0b5694f58ea8cc4d')


def names(data_dir: Directory | None = None) -> Dataset:
    """Load the lecture split; examples are pairs (tokens, lengths).

    Args:
      data_dir: where names.txt is; see `cdgm.data.fetch.fetch`.

    Raises:
      DataError: the file is missing, altered, or cannot be downloaded.
    """
    parts, sha256 = _lecture_split(data_dir)
    train, validation, test = (Split(tokenise(part), None) for part in parts)
    return Dataset('names', train, validation, test, {FILE.name: sha256}, VOCABULARY)


def names_text(data_dir: Directory | None = None, *, length: int = 128) -> Dataset:
    """Load the lecture split as one text, a newline after each name, in windows.

    Args:
      data_dir: where names.txt is; see `cdgm.data.fetch.fetch`.
      length: T, characters a window.

    Returns:
      A `Dataset` whose examples are int32[N, T], indices into its `vocabulary`: the
      newline and 26 letters.

    Raises:
      DataError: the file is missing, altered, or cannot be downloaded.
      ValueError: length is not positive, or longer than the shortest text.
    """
    parts, sha256 = _lecture_split(data_dir)
    vocabulary = '\n' + VOCABULARY[1:]
    train, validation, test = (
        Split(windows(''.join(f'{word}\n' for word in part), vocabulary, length), None)
        for part in parts)
    return Dataset('names', train, validation, test, {FILE.name: sha256}, vocabulary)


def _lecture_split(data_dir: Directory | None) -> tuple[list[list[str]], str]:
    """Words to train on, to choose and to test on; the file's SHA-256."""
    content = fetch('names', (FILE,), data_dir)[FILE.name]
    words = parse(content, lambda data: data.decode('ascii').split())
    random.Random(42).shuffle(words)
    first, second = int(0.8 * len(words)), int(0.9 * len(words))
    return [words[:first], words[first:second], words[second:]], content.sha256


def tokenise(words: list[str], length: int = LENGTH) -> tuple[np.ndarray, np.ndarray]:
    """Words to (tokens int32[N, T], lengths int32[N]), an end mark after each.

    Raises:
      ValueError: a word is empty, too long, or has another character than a to z.

    >>> tokens, lengths = tokenise(['ab', 'z'], length=3)
    >>> tokens.tolist(), lengths.tolist()
    ([[1, 2, 0], [26, 0, 0]], [3, 2])
    """
    for word in words:
        strange = set(word) - set(VOCABULARY[1:])
        if not word or len(word) >= length or strange:
            what = ('is empty' if not word else
                    f'has {sorted(strange)[0]!r}' if strange else
                    f'has {len(word)} letters')
            raise ValueError(f'the name {word!r} {what}; give 1 to {length - 1} '
                             'letters from a to z.')
    tokens = np.zeros((len(words), length), np.int32)
    for row, word in zip(tokens, words):
        row[:len(word)] = [VOCABULARY.index(letter) for letter in word]
    return tokens, np.array([len(word) + 1 for word in words], np.int32)


def spell(tokens: np.ndarray) -> list[str]:
    """Tokens to words, up to the first end mark.

    >>> spell(np.array([[1, 2, 0, 7]]))
    ['ab']
    """
    return [''.join(VOCABULARY[token] for token in row).partition('.')[0]
            for row in np.asarray(tokens)]


def unseen(held_out: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Say which held-out names do not stand in the training part; bool[N].

    >>> unseen(np.array([[1, 0], [2, 0]]), np.array([[2, 0], [3, 0]])).tolist()
    [True, False]
    """
    known = set(spell(train))
    return np.array([word not in known for word in spell(held_out)])
