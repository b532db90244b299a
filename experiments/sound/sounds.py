"""Sounds of a run, each a WAV and its picture, for its folder and its report."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from scipy.io import wavfile

_PEAK = 0.9  # of full scale: nothing is clipped, whoever resamples it
_SILENCE = 1e-3  # of the peak, 60 dB: what is after the last louder sample is cut
_TAIL = 400  # samples kept beyond
_SCALE = 3  # pixels of the picture for one of the image


def write_sounds(folder: Path, names: Sequence[str], waves, images, rate: int) -> None:
    """Write name.wav, 16 bits at a peak of 0.9, and name.png for each.

    Args:
      folder: made when missing.
      names: of the sounds.
      waves: float[N, T].
      images: float[N, M, F, 1], their log-mel images.
      rate: samples a second.
    """
    folder.mkdir(exist_ok=True)
    for name, wave, image in zip(names, np.asarray(waves), np.asarray(images)):
        peak = np.max(np.abs(wave), initial=0) or 1.
        audible = np.flatnonzero(np.abs(wave) > _SILENCE * peak)
        end = min(len(wave), audible[-1] + _TAIL if len(audible) else _TAIL)
        samples = np.round(wave[:end] * (_PEAK * 32767 / peak)).astype(np.int16)
        wavfile.write(folder / f'{name}.wav', rate, samples)
        picture = np.kron(image[::-1, :, 0], np.ones((_SCALE, _SCALE)))
        plt.imsave(folder / f'{name}.png', picture, cmap='magma', vmin=0, vmax=1,
                   metadata={'Software': None})
