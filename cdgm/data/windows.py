"""Windows: a text as rows of tokens of one length.

Shapes   N windows of T tokens.
"""

import numpy as np


def windows(text: str, vocabulary: str, length: int) -> np.ndarray:
    """Cut a text into windows of tokens.

    Args:
      text: made of the characters of the vocabulary.
      vocabulary: different characters; a token is an index into it.
      length: T, characters a window.

    Returns:
      int32[len(text) // T, T].

    Raises:
      ValueError: length is not positive, or longer than the text.

    >>> windows('abcab', 'abc', 2)
    array([[0, 1],
           [2, 0]], dtype=int32)
    """
    if not 0 < length <= len(text):
        raise ValueError(f'length is {length}; give a window from 1 to {len(text)} '
                         'characters, the length of the text.')
    token = {character: index for index, character in enumerate(vocabulary)}
    stop = len(text) // length * length
    tokens = np.array([token[character] for character in text[:stop]], np.int32)
    return tokens.reshape(-1, length)


def token_table(vocabulary: str, other: str, unknown: str) -> np.ndarray:
    """Translate the tokens of one vocabulary into those of another.

    Args:
      vocabulary: different characters, those of the tokens as they are.
      other: different characters, those of the tokens to be.
      unknown: a character of `other` for what it does not hold.

    Returns:
      int32[len(vocabulary)]: `token_table(...)[tokens]` are the other's.

    >>> token_table('abc', 'cb?', '?').tolist()
    [2, 1, 0]
    """
    place = {character: index for index, character in enumerate(other)}
    return np.array([place.get(character, place[unknown]) for character in vocabulary],
                    np.int32)
