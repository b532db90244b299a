"""Recordings as arrays: decoded, mixed down, resampled, and fitted to one length.

Shapes   T samples of the window; a recording has its own number.
Units    samples in [-1, 1].
"""

import hashlib
import io
import logging
import math
import struct
import warnings
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import scipy.signal
from scipy.io import wavfile

from cdgm.data.files import DataError


class Recording(NamedTuple):
    """A sound of one channel: its name, float32[samples] and samples a second."""

    name: str
    wave: np.ndarray
    rate: int


def decode(name: str, data: bytes) -> Recording:
    """Decode a file of any rate, width and number of channels, and mix it down.

    Args:
      name: of the file; its ending says what it is: .wav, or .flac or .ogg, which need
        soundfile.
      data: its bytes.

    Returns:
      The mean of its channels.

    Raises:
      DataError: it cannot be read, is truncated, empty or silent, or holds numbers that
        are not finite.
      ImportError: it is no .wav, and soundfile is not installed.
    """
    read = _read_wav if name.lower().endswith('.wav') else _read_others
    try:
        with warnings.catch_warnings():
            # Chunks that SciPy does not know are harmless; the rest is not.
            warnings.simplefilter('error', wavfile.WavFileWarning)
            warnings.filterwarnings('ignore', message='Chunk .*not understood')
            rate, channels = read(data)
    except (ValueError, OSError, EOFError, RuntimeError, struct.error,
            wavfile.WavFileWarning) as error:
        reason = ' '.join(str(error).split())
        raise DataError(f'{name}: cannot be read ({reason or type(error).__name__}); '
                        'mend it or take it away') from error
    if not len(channels):
        raise DataError(f'{name}: it is empty, it has no samples; take it away')
    wave = channels.reshape(len(channels), -1).mean(axis=1)
    if not np.isfinite(wave).all():
        raise DataError(f'{name}: some samples are not finite; mend it or take it away')
    if not wave.any():
        raise DataError(f'{name}: it is silent, all {len(wave)} samples are zero; take '
                        'it away')
    return Recording(name, wave.astype(np.float32), rate)


def resampled(recording: Recording, rate: int) -> Recording:
    """Change the rate by SciPy's polyphase filter, which lets nothing alias.

    >>> sound = Recording('a', np.ones(441, np.float32), 44100)
    >>> len(resampled(sound, 8000).wave)
    80
    """
    if recording.rate == rate:
        return recording
    common = math.gcd(recording.rate, rate)
    wave = scipy.signal.resample_poly(recording.wave.astype(float), rate // common,
                                      recording.rate // common)
    return Recording(recording.name, wave.astype(np.float32), rate)


def fitted(recordings: Sequence[Recording], samples: int) -> np.ndarray:
    """Cut recordings to one length or fill them up with silence, at a peak of 1.

    Levels of speakers differ by a factor of ten and more; the peak of what is kept
    counts. How many are cut is logged.

    Args:
      recordings: of one rate.
      samples: T.

    Returns:
      float32[N, T].

    Raises:
      DataError: a recording is silent as far as it is kept.

    >>> fitted([Recording('a', np.array([0., -.5]), 8000)], 3).tolist()
    [[0.0, -1.0, 0.0]]
    """
    waves = np.zeros((len(recordings), samples), np.float32)
    for row, recording in zip(waves, recordings):
        kept = recording.wave[:samples]
        peak = np.max(np.abs(kept), initial=0)
        if not peak:
            raise DataError(f'{recording.name}: its first {samples} samples are '
                            'silent; take it away, or cut the silence off')
        row[:len(kept)] = kept / peak
    long = sum(len(recording.wave) > samples for recording in recordings)
    if long:
        logging.getLogger(__name__).warning(
            '%d of %d recordings are longer than %d samples (%.3g s) and are cut there',
            long, len(recordings), samples, samples / recordings[0].rate)
    return waves


def digest(files: Mapping[str, bytes]) -> str:
    """Hash the names and the bytes of files, in the order of their names.

    >>> digest({'b': b'2', 'a': b'1'}) == digest({'a': b'1', 'b': b'2'})
    True
    """
    total = hashlib.sha256()
    for name in sorted(files):
        total.update(name.encode())
        total.update(files[name])
    return total.hexdigest()


def _read_wav(data: bytes) -> tuple[int, np.ndarray]:
    rate, samples = wavfile.read(io.BytesIO(data))
    if samples.dtype == np.uint8:
        return rate, (samples.astype(float) - 128) / 128
    if np.issubdtype(samples.dtype, np.integer):
        # 24 bits come as the upper ones of 32.
        return rate, samples / -float(np.iinfo(samples.dtype).min)
    return rate, samples.astype(float)


def _read_others(data: bytes) -> tuple[int, np.ndarray]:
    try:
        import soundfile
    except ImportError as error:
        raise ImportError('recordings that are no .wav need soundfile: pip install '
                          'cdgm[experiments]') from error
    samples, rate = soundfile.read(io.BytesIO(data), dtype='float64', always_2d=True)
    return rate, samples
