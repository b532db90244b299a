"""What every loader returns: splits of examples, as NumPy arrays.

Shapes: N examples; of images H rows, W columns, one channel (the NHWC order of flax);
of text T tokens; of sound T samples.
"""

from typing import Any, NamedTuple

import numpy as np


class Split(NamedTuple):
    """Examples and, where the set has them, their classes.

    Attributes:
      examples: a pytree of arrays with a leading axis of N. Images are float32[N, H, W,
        1], intensities in [0, 1]; text is int32[N, T], indices into the vocabulary;
        sound is float32[N, T], each recording scaled to a peak of 1.
      labels: int32[N], or None for a set without labels.
    """

    examples: Any
    labels: Any | None


class Dataset(NamedTuple):
    """A data set and the witness of which bytes it was read from.

    Attributes:
      name: the name `cdgm.data.load` knows it by.
      train: what is trained on.
      validation: what choices are made on, or None where the set defines none.
      test: what is reported.
      sha256: name of each file read -> the sha256 of its bytes, in hexadecimal.
      vocabulary: of a text, its characters: token i stands for vocabulary[i].
      rate: of sound, samples a second.
      classes: names of the classes: label i stands for classes[i].
    """

    name: str
    train: Split
    validation: Split | None
    test: Split
    sha256: dict[str, str]
    vocabulary: str | None = None
    rate: int | None = None
    classes: tuple[str, ...] | None = None


def unit_images(values: np.ndarray, white: int) -> np.ndarray:
    """Scale integer pixels to [0, 1] and add the channel.

    Args:
      values: integer[N, H, W], 0 (black) to `white`.
      white: the value of a white pixel, which becomes 1.

    Returns:
      float32[N, H, W, 1].

    >>> unit_images(np.array([[[0, 255]]], np.uint8), 255).ravel()
    array([0., 1.], dtype=float32)
    """
    return np.divide(values, white, dtype=np.float32)[..., None]
