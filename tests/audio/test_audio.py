"""Sound to images and back, against librosa, SciPy and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft
import scipy.optimize
import scipy.signal

from cdgm import audio
from tests.audio import librosa_reference as reference

RATE, SIZE, HOP = reference.RATE, reference.SIZE, reference.HOP


@pytest.fixture(scope='module')
def librosa():
    with np.load(reference.FILE) as file:
        return dict(file)


@pytest.mark.parametrize('mels', reference.MELS)
def test_filters_are_librosas(librosa, mels):
    np.testing.assert_allclose(audio.mel_filters(RATE, SIZE, mels),
                               librosa[f'mel{mels}'], atol=1e-6)


def test_stft_is_librosas(librosa):
    with jax.enable_x64(False):
        found = audio.stft(jnp.asarray(reference.wave()), SIZE, HOP)
    assert found.dtype == jnp.complex64
    np.testing.assert_allclose(found, librosa['stft'].T, atol=1e-5)


def test_stft_is_scipys():
    wave = np.random.RandomState(1).normal(size=(3, 777))
    transform = scipy.signal.ShortTimeFFT(
        scipy.signal.windows.hann(64, sym=False), 16, fs=1, phase_shift=None)
    expected = transform.stft(wave, p0=0, p1=1 + 777 // 16)
    np.testing.assert_allclose(audio.stft(jnp.asarray(wave), 64, 16),
                               np.swapaxes(expected, 1, 2), atol=1e-12)


@pytest.mark.parametrize('size, hop, samples', [(256, 128, 1024), (64, 16, 777)])
def test_the_inverse_undoes_the_transform(size, hop, samples):
    wave = np.random.RandomState(2).normal(size=(2, samples))
    found = audio.istft(audio.stft(jnp.asarray(wave), size, hop), samples, size, hop)
    seen = samples // hop * hop  # at least; what is beyond no frame may see
    np.testing.assert_allclose(found[:, :seen], wave[:, :seen], atol=1e-9)


def test_the_inverse_is_the_least_squares_wave():
    random = np.random.RandomState(3)
    spectrum = scipy.fft.rfft(random.normal(size=(5, 16)))  # of no wave
    basis = np.asarray(audio.stft(jnp.eye(32), 16, 8)).reshape(32, -1)
    # One-sided: the frequencies between the ends stand for two.
    weight = np.sqrt(np.tile(np.r_[1, np.full(7, 2.), 1], 5))

    def real(x):
        return np.concatenate([(x * weight).real, (x * weight).imag], axis=-1)

    expected, *_ = np.linalg.lstsq(real(basis).T, real(spectrum.ravel()), rcond=None)
    np.testing.assert_allclose(audio.istft(jnp.asarray(spectrum), 32, 16, 8), expected,
                               atol=1e-9)


def test_griffin_lim_is_no_worse_than_librosas(librosa):
    magnitudes = jnp.abs(audio.stft(jnp.asarray(reference.wave(), float)))
    find = jax.jit(jax.vmap(lambda key: audio.spectral_convergence(
        audio.griffin_lim(magnitudes, reference.SAMPLES, key), magnitudes)))
    ours, theirs = find(jax.random.split(jax.random.key(0), 10)), librosa['convergence']
    error = np.hypot(np.std(ours), np.std(theirs)) / 10 ** 0.5
    assert np.mean(ours) <= np.mean(theirs) + 2 * error


def test_magnitudes_are_those_of_nonnegative_least_squares():
    filters = audio.mel_filters(RATE, SIZE, 24)
    passed = np.abs(np.random.RandomState(4).normal(size=(3, 24)))
    found = audio.nonnegative_magnitudes(filters, jnp.asarray(passed), 300)
    assert np.min(found) >= 0
    for mine, row in zip(found, passed):
        _, residual = scipy.optimize.nnls(filters, row)
        assert np.linalg.norm(filters @ mine - row) <= residual + 1e-3


def test_a_full_scale_sine_is_zero_decibels():
    settings = audio.LogMel()
    centre = 1000.  # a frequency of the transform
    wave = jnp.sin(2 * jnp.pi * centre * jnp.arange(8192) / RATE)
    image = audio.log_mel(jnp.stack([wave, wave / 10, 0 * wave]), settings)
    middle = image[:, :, 30, 0].max(axis=1)
    # Hann's sidelobes are half as high, and the filter is not one at them.
    weight = audio.mel_filters(RATE)[:, 31:34] @ np.array([0.5, 1, 0.5])
    level = 1 + 20 * np.log10(weight.max()) / settings.decibels
    np.testing.assert_allclose(middle, [min(level, 1), level - 20 / 80, 0], atol=1e-3)


@pytest.mark.thorough
def test_there_and_back():
    wave = jnp.pad(jnp.asarray(reference.wave(), float), (0, 48))
    images = audio.log_mel(jnp.stack([wave, wave / 8]))
    waves = jax.jit(audio.invert_log_mel)(images, jax.random.key(0))
    again = audio.log_mel(waves)
    assert waves.shape == (2, 2048) and np.abs(waves).max() <= 1
    audible = images > 0.25  # 60 dB below full scale
    error = 80 * np.abs(again - images)[audible]
    assert error.mean() < 2, error.mean()
    # Silence stays silent.
    black = audio.invert_log_mel(jnp.zeros((1, 64, 16, 1)), jax.random.key(0))
    assert not black.any()


def test_chunks_change_nothing():
    random = np.random.RandomState(5)
    waves = jnp.asarray(random.uniform(-1, 1, (40, 1024)))  # more than a chunk
    whole = audio.log_mel(waves)
    np.testing.assert_allclose(whole[37:38], audio.log_mel(waves[37:38]), atol=1e-12)


def test_more_mels_than_frequencies_names_the_filters():
    with pytest.raises(ValueError, match=r'90 mels .* 256 .* 8000 Hz.* 0 \(15 Hz'):
        audio.mel_filters(8000, 256, 90)


@pytest.mark.parametrize('size, hop', [(255, 85), (256, 100), (256, 256), (256, 0)])
def test_frames_that_do_not_fit_are_refused(size, hop):
    with pytest.raises(ValueError, match='whole hops'):
        audio.stft(jnp.zeros(1000), size, hop)


def test_a_spectrum_of_another_length_is_refused():
    with pytest.raises(ValueError, match=r'1000 samples have \(8, 129\)'):
        audio.istft(jnp.zeros((9, 129), complex), 1000)
