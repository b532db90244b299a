"""Griffin-Lim in JAX beside librosa's: seconds of the processor, and how near it ends.

    python -m benchmarks.griffin_lim                  # librosa is no extra: install it
    python -m benchmarks.griffin_lim fsdd DIR         # spoken digits, in DIR/fsdd

The magnitudes are those of test recordings, 32 iterations, momentum 0.99, frames of 256
samples every 128. Seconds are of the processor, all its cores together, so that other
work on the machine counts less; compiling is left out. Librosa is given a tenth of the
clips, one after another as it takes them, and its time is scaled; how near they come is
of the same clips.
"""

import sys
import time

import jax
import jax.numpy as jnp
import librosa
import numpy as np

from cdgm import audio
from cdgm.data import load

_CLIPS = 300
_SHARE = 10


def main(name: str = 'notes', data_dir: str | None = None) -> None:
    """Print a line for each."""
    waves = load(name, data_dir).test.examples[:_CLIPS]
    magnitudes = jnp.abs(audio.stft(jnp.asarray(waves)))
    samples = waves.shape[1]

    def ours(magnitudes, key):
        keys = jax.random.split(key, len(magnitudes))
        return jax.lax.map(lambda given: audio.griffin_lim(given[0], samples, given[1]),
                           (magnitudes, keys), batch_size=32)

    find = jax.jit(ours)
    find(magnitudes, jax.random.key(0)).block_until_ready()
    began = time.process_time()
    found = find(magnitudes, jax.random.key(1)).block_until_ready()
    spent = time.process_time() - began
    few = np.asarray(magnitudes[::_SHARE])
    near = _convergence(found[::_SHARE], few)
    _report('cdgm', spent, near)

    def theirs(magnitudes):
        return librosa.griffinlim(
            magnitudes.T, n_iter=32, hop_length=128, n_fft=256, length=samples,
            pad_mode='constant', random_state=0)

    theirs(few[0])  # it compiles, too
    began = time.process_time()
    made = np.stack([theirs(each) for each in few])
    spent = (time.process_time() - began) * len(waves) / len(few)
    _report('librosa', spent, _convergence(made, few))
    apart = near - _convergence(made, few)
    print(f'difference of the convergence {apart.mean():+.4f} ± '
          f'{apart.std(ddof=1) / len(apart) ** 0.5:.4f} (standard error)')


def _convergence(waves, magnitudes) -> np.ndarray:
    return np.asarray(audio.spectral_convergence(jnp.asarray(waves),
                                                 jnp.asarray(magnitudes)))


def _report(name: str, seconds: float, near: np.ndarray) -> None:
    print(f'{name}: {seconds:.1f} s of the processor for {_CLIPS} clips, spectral '
          f'convergence {near.mean():.4f}', flush=True)


if __name__ == '__main__':
    main(*sys.argv[1:])
