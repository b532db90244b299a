"""The short-time Fourier transform and its inverse.

    X[t, f] = sum_n w[n] x[t hop + n - N / 2] exp(-2 pi i f n / N)

Frames are centred on multiples of the hop, and the wave is zero outside. The window w
is the periodic Hann window of N samples. The inverse is the wave whose transform is
nearest to X in the least squares sense, so that it undoes the transform exactly and
does something sensible with an X that no wave has.

Shapes   T samples, N of a frame, F = 1 + T // hop frames, N // 2 + 1 frequencies.
Units    the wave's; a sine of amplitude 1 in the middle of a bin gives |X| = N / 4.
Sources  Griffin & Lim 1984, IEEE Trans. ASSP 32(2), eq. 6 (the inverse). Frames, window
         and scale are those of librosa.stft(..., pad_mode='constant').
"""

import jax
import jax.numpy as jnp


def hann(size: int) -> jax.Array:
    """Make the periodic Hann window, float[size]: zero at 0, one in the middle.

    >>> hann(4).round(6).tolist()
    [0.0, 0.5, 1.0, 0.5]
    """
    return (1 - jnp.cos(2 * jnp.pi * jnp.arange(size) / size)) / 2


def stft(wave: jax.Array, size: int = 256, hop: int = 128) -> jax.Array:
    """Transform waves.

    Args:
      wave: float32[..., T].
      size: N, samples of a frame; a multiple of the hop, and even.
      hop: samples from one frame to the next.

    Returns:
      complex64[..., 1 + T // hop, N // 2 + 1].

    Raises:
      ValueError: size is not an even multiple of the hop.

    >>> stft(jnp.zeros(1024)).shape
    (9, 129)
    """
    _check_frames(size, hop)
    frames = 1 + wave.shape[-1] // hop
    span = (frames - 1) * hop + size
    lead = [(0, 0)] * (wave.ndim - 1)
    after = max(span - size // 2 - wave.shape[-1], 0)
    padded = jnp.pad(wave, [*lead, (size // 2, after)])[..., :span]
    hops = padded.reshape(*wave.shape[:-1], -1, hop)
    # A frame is `size // hop` hops in a row: slices, where a gather would be slow.
    cut = jnp.concatenate([hops[..., at:at + frames, :] for at in range(size // hop)],
                          axis=-1)
    return jnp.fft.rfft(cut * _window(size, cut), axis=-1)


def istft(spectrum: jax.Array, samples: int, size: int = 256,
          hop: int = 128) -> jax.Array:
    """Transform back; the adjoint of the framing over the sum of squared windows.

    Args:
      spectrum: complex64[..., 1 + T // hop, N // 2 + 1].
      samples: T.
      size: N.
      hop: samples from one frame to the next.

    Returns:
      float32[..., T].

    Raises:
      ValueError: size is not an even multiple of the hop, or the numbers of frames or
        of frequencies do not fit.
    """
    _check_frames(size, hop)
    expected = 1 + samples // hop, size // 2 + 1
    if spectrum.shape[-2:] != expected:
        raise ValueError(f'the spectrum has {spectrum.shape[-2:]} frames and '
                         f'frequencies; {samples} samples have {expected} with '
                         f'size={size} and hop={hop}.')
    cut = jnp.fft.irfft(spectrum, size, axis=-1)
    window = _window(size, cut)
    wave = _overlap_add(cut * window, hop)
    weights = _overlap_add(jnp.broadcast_to(window ** 2, (1,) * (cut.ndim - 2)
                                            + cut.shape[-2:]), hop)
    tiny = jnp.finfo(cut.dtype).tiny
    wave = jnp.where(weights > tiny, wave / jnp.maximum(weights, tiny), 0)
    wave = wave[..., size // 2:size // 2 + samples]
    # Beyond the last frame there may be samples that no frame has seen.
    missing = samples - wave.shape[-1]
    return jnp.pad(wave, [(0, 0)] * (wave.ndim - 1) + [(0, missing)])


def _window(size: int, like: jax.Array) -> jax.Array:
    return hann(size).astype(like.dtype).reshape((1,) * (like.ndim - 1) + (size,))


def _overlap_add(cut: jax.Array, hop: int) -> jax.Array:
    """Sum overlapping frames, [..., F, N] -> [..., (F - 1) hop + N]."""
    *lead, frames, size = cut.shape
    pieces = cut.reshape(*lead, frames, size // hop, hop)
    still = [(0, 0)] * len(lead)
    hops = [jnp.pad(pieces[..., at, :], [*still, (at, size // hop - 1 - at), (0, 0)])
            for at in range(size // hop)]
    return jnp.sum(jnp.stack(hops), axis=0).reshape(*lead, -1)


def _check_frames(size: int, hop: int) -> None:
    if hop < 1 or size % 2 or size % hop or size < 2 * hop:
        raise ValueError(f'size={size} and hop={hop}: a frame is an even number of '
                         'samples and two or more whole hops, as in size=256, '
                         'hop=128.')
