"""Waves as log-mel images, and images as waves.

    pixel = clip(1 + 20 log10(filters |X| / A) / range, 0, 1),    A = N / 4

so 1 is a full-scale sine and 0 is `range` dB below it: a fixed reference, without which
an image could not be turned back. A mel filter sums magnitudes, so a loud broad band
may exceed 0 dB, and is clipped.

Back: decibels to what passed the filters, to magnitudes (`nonnegative_magnitudes`), to
a wave (`griffin_lim`).

Shapes   B clips, T samples, F = T // hop frames, M mels; the last of stft's frames,
         beyond the clip, is left out, and silent on the way back.
Units    waves in [-1, 1]; decibels re a full-scale sine.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from cdgm.audio.griffin_lim import griffin_lim
from cdgm.audio.mel import mel_filters, nonnegative_magnitudes
from cdgm.audio.stft import stft

# Clips that are transformed at a time: memory does not grow with their number.
_CHUNK = 32


class LogMel(NamedTuple):
    """What an image is made with.

    Attributes:
      rate: samples a second.
      size: samples of a frame.
      hop: samples from one frame to the next.
      mels: M, rows of an image.
      decibels: from black to white.
    """

    rate: int = 8000
    size: int = 256
    hop: int = 128
    mels: int = 64
    decibels: float = 80.

    @property
    def full_scale(self) -> float:
        """Magnitude of a sine of amplitude 1."""
        return self.size / 4


def log_mel(waves: jax.Array, settings: LogMel = LogMel()) -> jax.Array:
    """Make images.

    Args:
      waves: float32[B, T] in [-1, 1].
      settings: of the images.

    Returns:
      float32[B, M, T // hop, 1] in [0, 1], low frequencies in the first row.

    Raises:
      ValueError: the settings do not go together, see `mel_filters` and `stft`.

    >>> log_mel(jnp.zeros((2, 8192))).shape
    (2, 64, 64, 1)
    """
    filters = jnp.asarray(mel_filters(settings.rate, settings.size, settings.mels),
                          waves.dtype)

    def image(wave):
        magnitudes = jnp.abs(stft(wave, settings.size, settings.hop))
        passed = filters @ magnitudes[:len(wave) // settings.hop].T
        floor = settings.full_scale * 10 ** (-settings.decibels / 20)
        # The floor first: the logarithm of nothing has no gradient.
        level = 20 * jnp.log10(jnp.maximum(passed, floor) / settings.full_scale)
        return jnp.clip(1 + level / settings.decibels, 0, 1)[..., None]

    return jax.lax.map(image, waves, batch_size=_CHUNK)


def invert_log_mel(images: jax.Array, key: jax.Array, settings: LogMel = LogMel(),
                   iterations: int = 32) -> jax.Array:
    """Make waves that have given images.

    Args:
      images: float32[B, M, F, 1] in [0, 1]; black is taken for silence.
      key: PRNG key of the phases at the start; one for each clip is derived.
      settings: of the images.
      iterations: of Griffin-Lim.

    Returns:
      float32[B, F hop], clipped to [-1, 1].
    """
    filters = jnp.asarray(mel_filters(settings.rate, settings.size, settings.mels),
                          images.dtype)
    frames = images.shape[2]

    def wave(image_and_key):
        image, key = image_and_key
        image = jnp.clip(image[..., 0].T, 0, 1)
        amplitude = settings.full_scale * 10 ** ((image - 1) * settings.decibels / 20)
        passed = jnp.pad(jnp.where(image > 0, amplitude, 0), ((0, 1), (0, 0)))
        found = griffin_lim(nonnegative_magnitudes(filters, passed),
                            frames * settings.hop, key, iterations,
                            size=settings.size, hop=settings.hop)
        return jnp.clip(found, -1, 1)

    keys = jax.random.split(key, len(images))
    return jax.lax.map(wave, (images, keys), batch_size=_CHUNK)
