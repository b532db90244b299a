"""Griffin-Lim: a wave whose transform has given magnitudes, phases unknown.

    c_k = P_magnitude(P_wave(t_{k-1})),    t_k = c_k + alpha (c_k - c_{k-1})

P_wave goes to a wave and back, P_magnitude replaces the magnitudes and keeps phases.
With alpha = 0 it is the method of 1984; alpha = 0.99 is faster and ends nearer.

Shapes   T samples, F = 1 + T // hop frames, K = N // 2 + 1 frequencies.
Sources  Griffin & Lim 1984, IEEE Trans. ASSP 32(2); Perraudin, Balazs & Sondergaard
         2013, WASPAA, algorithm 2 (fast).
"""

import jax
import jax.numpy as jnp

from cdgm.audio.stft import istft, stft


def griffin_lim(magnitudes: jax.Array, samples: int, key: jax.Array,
                iterations: int = 32, momentum: float = 0.99, size: int = 256,
                hop: int = 128) -> jax.Array:
    """Find a wave.

    Args:
      magnitudes: float32[..., 1 + T // hop, N // 2 + 1], >= 0.
      samples: T.
      key: PRNG key of the phases at the start.
      iterations: of the method; 0 is random phases.
      momentum: alpha.
      size: N, samples of a frame.
      hop: samples from one frame to the next.

    Returns:
      float32[..., T].

    Raises:
      ValueError: the shapes do not fit, see `istft`.
    """
    def with_phases(spectrum):
        # Where there is no amplitude there is no phase; zero would be one.
        norm = jnp.maximum(jnp.abs(spectrum), jnp.finfo(magnitudes.dtype).tiny)
        return magnitudes * (spectrum / norm)

    def step(_, carry):
        spectrum, before = carry
        projected = stft(istft(spectrum, samples, size, hop), size, hop)
        ahead = projected + momentum * (projected - before)
        return with_phases(ahead), projected

    angles = 2 * jnp.pi * jax.random.uniform(key, magnitudes.shape, magnitudes.dtype)
    start = magnitudes * jnp.exp(1j * angles)
    spectrum, _ = jax.lax.fori_loop(0, iterations, step,
                                    (start, jnp.zeros_like(start)))
    return istft(spectrum, samples, size, hop)


def spectral_convergence(wave: jax.Array, magnitudes: jax.Array, size: int = 256,
                         hop: int = 128) -> jax.Array:
    """How far a wave's magnitudes are from those asked for: |X| - M over M.

    Args:
      wave: float32[..., T].
      magnitudes: float32[..., 1 + T // hop, N // 2 + 1].
      size: N.
      hop: samples from one frame to the next.

    Returns:
      float32[...], Frobenius norms' ratio; 0 where they are equal.
    """
    error = jnp.abs(stft(wave, size, hop)) - magnitudes
    return (jnp.linalg.norm(error, axis=(-2, -1))
            / jnp.linalg.norm(magnitudes, axis=(-2, -1)))
