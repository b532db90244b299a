"""notes: single tones that are synthesised from a seed, and so need no download.

    x(t) = a(t) sum_h h^-slope sin(2 pi h f t),    a(t) = min(t / attack, 1) exp(-t / d)

of the overtones h = 1 ... 8 below half the sample rate. A class is a pitch, one of ten
of a pentatonic scale from 220 to 740 Hz, a little out of tune; slope (how dull), attack
and decay d are drawn anew for every note. They are known, so that what a model makes of
them can be measured: see `draw_notes` and `synthesise`.

Shapes   N notes, T samples; 1000 train and 200 test notes, as many of each pitch.
Units    Hz, seconds, samples in [-1, 1].
"""

import hashlib
from typing import NamedTuple

import numpy as np

from cdgm.data.dataset import Dataset, Split
from cdgm.data.files import Directory
from cdgm.data.sound import Recording, fitted

# Semitones above 220 Hz: the major pentatonic scale of A, two octaves.
_SCALE = (0, 2, 4, 7, 9, 12, 14, 16, 19, 21)
_NAMES = ('A3', 'B3', 'C#4', 'E4', 'F#4', 'A4', 'B4', 'C#5', 'E5', 'F#5')
_RATE, _SAMPLES = 8000, 8192
_TRAIN, _TEST = 1000, 200
_OVERTONES = 8
_SEED = 0


class Notes(NamedTuple):
    """What notes are made of, float64[N] each but the class, int32[N].

    Attributes:
      label: index of the pitch.
      pitch: Hz.
      slope: exponent by which overtones fall off.
      attack: seconds to full level.
      decay: seconds in which the level falls by a factor e.
    """

    label: np.ndarray
    pitch: np.ndarray
    slope: np.ndarray
    attack: np.ndarray
    decay: np.ndarray


def notes(data_dir: Directory | None = None) -> Dataset:
    """Make 1000 train and 200 test notes of 1.024 s at 8000 Hz, labelled by pitch.

    Args:
      data_dir: ignored, as there are no files.
    """
    del data_dir
    train, test = draw_notes(_TRAIN, _SEED), draw_notes(_TEST, _SEED + 1)
    sha256 = hashlib.sha256(b''.join(part.tobytes() for part in (*train, *test)))
    splits = [Split(synthesise(each, _SAMPLES, _RATE), each.label)
              for each in (train, test)]
    return Dataset('notes', splits[0], None, splits[1],
                   {'notes': sha256.hexdigest()}, rate=_RATE, classes=_NAMES)


def draw_notes(count: int, seed: int) -> Notes:
    """Draw notes, the pitches in turn, in an order that is drawn too.

    >>> sorted(draw_notes(10, seed=0).label.tolist())
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """
    # RandomState, because NumPy promises that its stream never changes (NEP 19).
    random = np.random.RandomState(seed)
    label = random.permutation(np.arange(count) % len(_SCALE)).astype(np.int32)
    cents = random.uniform(-10, 10, count)
    semitones = np.array(_SCALE)[label] + cents / 100
    return Notes(label, 220 * 2 ** (semitones / 12), random.uniform(0.8, 2.5, count),
                 random.uniform(0.005, 0.08, count), random.uniform(0.1, 0.4, count))


def synthesise(given: Notes, samples: int, rate: int) -> np.ndarray:
    """Make the waves, each at a peak of 1.

    Args:
      given: the notes.
      samples: T.
      rate: samples a second.

    Returns:
      float32[N, T].
    """
    time = np.arange(samples) / rate
    waves = []
    for _, pitch, slope, attack, decay in zip(*given):
        turn = np.exp(2j * np.pi * pitch * time)
        # Its powers are the overtones: one product each, where a sine would be slow.
        tone, power = np.zeros(samples), np.ones_like(turn)
        for overtone in range(1, min(_OVERTONES, int(rate / 2 // pitch)) + 1):
            power = power * turn
            tone += overtone ** -slope * power.imag
        level = np.minimum(time / attack, 1) * np.exp(-time / decay)
        waves.append(Recording('a note', (level * tone).astype(np.float32), rate))
    return fitted(waves, samples)
