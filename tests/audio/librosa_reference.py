"""What librosa makes of a short wave, for tests where it is not installed.

    python tests/audio/librosa_reference.py        # made with librosa 0.11.0
"""

from pathlib import Path

import numpy as np

FILE = Path(__file__).with_suffix('.npz')
RATE, SIZE, HOP, SAMPLES = 8000, 256, 128, 2000
MELS = 24, 64


def wave() -> np.ndarray:
    """A gliding tone with an overtone, that swells and fades, and a little noise."""
    time = np.arange(SAMPLES) / RATE
    phase = 2 * np.pi * (300 * time + 800 * time ** 2)
    swell = np.sin(np.pi * np.arange(SAMPLES) / SAMPLES)
    noise = np.random.RandomState(0).normal(size=SAMPLES)
    return (swell * (np.sin(phase) + np.sin(2 * phase) / 2) / 2 + 0.01 * noise
            ).astype(np.float32)


def convergence(found: np.ndarray, magnitudes: np.ndarray, librosa) -> float:
    """|X| - M over M, by librosa's own transform; magnitudes [K, F]."""
    error = np.abs(librosa.stft(found, n_fft=SIZE, hop_length=HOP,
                                pad_mode='constant')) - magnitudes
    return float(np.linalg.norm(error) / np.linalg.norm(magnitudes))


if __name__ == '__main__':
    import librosa

    spectrum = librosa.stft(wave(), n_fft=SIZE, hop_length=HOP, pad_mode='constant')
    magnitudes = np.abs(spectrum)
    found = [convergence(librosa.griffinlim(
        magnitudes, n_iter=32, hop_length=HOP, n_fft=SIZE, length=SAMPLES,
        pad_mode='constant', random_state=seed), magnitudes, librosa)
        for seed in range(10)]
    np.savez_compressed(
        FILE, stft=spectrum, convergence=np.array(found, np.float32),
        **{f'mel{mels}': librosa.filters.mel(
            sr=RATE, n_fft=SIZE, n_mels=mels, htk=True, norm=None, dtype=np.float32)
           for mels in MELS})
    print(f'{FILE}: {FILE.stat().st_size} bytes, convergence {np.mean(found):.4f} '
          f'± {np.std(found):.4f}')
