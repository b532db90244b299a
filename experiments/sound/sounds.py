"""Sounds of a run, each a WAV and its picture, for its folder and its report."""

import json
from collections.abc import Mapping, Sequence
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


def write_scores(folder: Path, rows: Mapping[str, Mapping[str, float]],
                 facts: Mapping[str, object]) -> None:
    """Write scores.json and, to be read, scores.txt.

    Args:
      folder: of the run.
      rows: what was judged -> name -> number.
      facts: what holds for all rows, as the classifier's hash.
    """
    (folder / 'scores.json').write_text(
        json.dumps({'facts': facts, 'rows': rows}, indent=1) + '\n')
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    width = max(map(len, rows))
    cells = [['', *columns], *([name, *(_number(row.get(column)) for column in columns)]
                               for name, row in rows.items())]
    widths = [max(width, *(len(row[0]) for row in cells)),
              *(max(len(row[at]) for row in cells) for at in range(1, len(cells[0])))]
    text = ''.join('  '.join(
        [row[0].ljust(widths[0]),
         *(cell.rjust(size) for cell, size in zip(row[1:], widths[1:]))]).rstrip()
        + '\n' for row in cells)
    text += ''.join(f'{name}: {value}\n' for name, value in facts.items())
    (folder / 'scores.txt').write_text(text)


def _number(value: float | None) -> str:
    if value is None:
        return '–'
    return f'{value:.0f}' if abs(value) >= 1000 else f'{value:.4g}'
