"""Mel filters, and magnitudes from what they let through.

    mel(f) = 2595 log10(1 + f / 700)

Filter m is a triangle over frequency, one at its centre and zero at the centres of its
neighbours; the centres are evenly spaced in mel from 0 to half the sample rate.

Shapes   M mels, K = N // 2 + 1 frequencies of a transform of N samples.
Units    frequencies in Hz; a filter's values have no unit.
Sources  O'Shaughnessy 1987, Speech Communication, p. 150 (mel, the HTK formula). The
         filters are those of librosa.filters.mel(htk=True, norm=None).
"""

import jax
import jax.numpy as jnp
import numpy as np


# No filter reaches zero and half the sample rate, where the sum would be divided by.
_TINY = 1e-6


def mel_filters(rate: int, size: int = 256, mels: int = 64) -> np.ndarray:
    """Make the filters.

    Args:
      rate: samples a second.
      size: N, samples of a frame.
      mels: M.

    Returns:
      float64[M, N // 2 + 1] in [0, 1], of NumPy, as they are constants.

    Raises:
      ValueError: a filter lies between two frequencies of the transform, so that
        nothing would ever pass it; the message names those.

    >>> mel_filters(8000, mels=3).max(axis=1).round(2).tolist()
    [0.98, 0.99, 1.0]
    """
    edges = _hertz(np.linspace(0, _mel(rate / 2), mels + 2))
    frequencies = np.linspace(0, rate / 2, size // 2 + 1)
    rising, falling = np.diff(edges)[:-1, None], np.diff(edges)[1:, None]
    below = (frequencies - edges[:-2, None]) / rising
    above = (edges[2:, None] - frequencies) / falling
    filters = np.maximum(0, np.minimum(below, above))
    empty = np.flatnonzero(filters.max(axis=1) == 0)
    if len(empty):
        named = ', '.join(f'{index} ({edges[index + 1]:.0f} Hz)' for index in empty)
        raise ValueError(
            f'{mels} mels are more than frames of {size} samples resolve at {rate} Hz: '
            f'nothing passes the filters {named}. Ask for fewer mels, or give longer '
            'frames.')
    return filters


def nonnegative_magnitudes(filters: jax.Array, passed: jax.Array,
                           steps: int = 30) -> jax.Array:
    """Find magnitudes that the filters would turn into what passed.

    Projected gradient, with Nesterov's momentum, of |filters x - passed|^2 over x >= 0,
    from the filters' transpose with rows and columns scaled.

    Args:
      filters: float32[M, K].
      passed: float32[..., M], >= 0.
      steps: of the descent.

    Returns:
      float32[..., K], >= 0.
    """
    filters = jnp.asarray(filters, passed.dtype)
    gram = filters.T @ filters
    length = 1 / jnp.linalg.eigvalsh(gram)[-1]
    target = passed @ filters
    lead = (1,) * (passed.ndim - 1)
    rows, columns = filters.sum(1), jnp.maximum(filters.sum(0), _TINY)
    start = passed / rows.reshape(*lead, -1) @ filters / columns.reshape(*lead, -1)

    def step(index, carry):
        x, look = carry
        new = jnp.maximum(look - length * (look @ gram - target), 0)
        momentum = index / (index + 3)
        return new, new + momentum * (new - x)

    return jax.lax.fori_loop(0, steps, step, (start, start))[0]


def _mel(hertz):
    return 2595 * np.log10(1 + np.asarray(hertz) / 700)


def _hertz(mel):
    return 700 * (10 ** (np.asarray(mel) / 2595) - 1)
