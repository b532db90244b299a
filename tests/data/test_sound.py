"""Recordings: decoded, resampled, fitted; notes, spoken digits, one's own folders."""

import importlib
import io
import logging
import tarfile

import numpy as np
import pytest
import scipy.signal
from scipy.io import wavfile

from cdgm import data
from cdgm.data.files import DataError
from cdgm.data.notes import draw_notes, synthesise
from cdgm.data.sound import Recording, decode, digest, fitted, resampled

# The name `cdgm.data.fsdd` is the loader's.
fsdd_module = importlib.import_module('cdgm.data.fsdd')
TONE = np.sin(2 * np.pi * 440 * np.arange(800) / 8000)


def wav(samples, rate=8000):
    file = io.BytesIO()
    wavfile.write(file, rate, samples)
    return file.getvalue()


def wav24(samples, rate=8000):
    """SciPy reads 24 bits and does not write them."""
    whole = np.round(samples * (2 ** 23 - 1)).astype('<i4')
    body = whole.view(np.uint8).reshape(-1, 4)[:, :3].tobytes()
    head = wav(np.zeros(1, np.int16), rate)
    form = (head[16:20] + b'\x01\x00\x01\x00' + rate.to_bytes(4, 'little')
            + (3 * rate).to_bytes(4, 'little') + b'\x03\x00\x18\x00')
    chunks = b'WAVEfmt ' + form + b'data' + len(body).to_bytes(4, 'little') + body
    return b'RIFF' + len(chunks).to_bytes(4, 'little') + chunks


@pytest.mark.parametrize('bits, samples, tolerance', [
    (8, np.round(TONE * 127 + 128).astype(np.uint8), 0.013),
    (16, np.round(TONE * 32767).astype(np.int16), 1e-4),
    (32, np.round(TONE * (2 ** 31 - 1)).astype(np.int32), 1e-6),
    (32, TONE.astype(np.float32), 1e-6), (64, TONE, 1e-6)])
def test_every_width_is_the_same_wave(bits, samples, tolerance):
    recording = decode('a.wav', wav(samples))
    assert samples.itemsize * 8 == bits and recording.rate == 8000
    np.testing.assert_allclose(recording.wave, TONE, atol=tolerance)


def test_24_bits():
    np.testing.assert_allclose(decode('a.wav', wav24(TONE)).wave, TONE, atol=1e-6)


def test_channels_are_mixed_down():
    stereo = np.stack([TONE, TONE / 2], axis=1).astype(np.float32)
    np.testing.assert_allclose(decode('a.wav', wav(stereo)).wave, TONE * 0.75,
                               atol=1e-6)


@pytest.mark.parametrize('ending, tolerance', [('flac', 1e-4), ('ogg', 0.1)])
def test_flac_and_ogg(ending, tolerance):
    soundfile = pytest.importorskip('soundfile')
    file = io.BytesIO()
    soundfile.write(file, TONE * 0.9, 8000, format=ending.upper())
    recording = decode(f'a.{ending}', file.getvalue())
    assert recording.rate == 8000
    np.testing.assert_allclose(recording.wave[100:700], 0.9 * TONE[100:700],
                               atol=tolerance)


@pytest.mark.parametrize('name, content, reason', [
    ('cut.wav', wav(TONE)[:-100], 'cannot be read'),
    ('head.wav', wav(TONE)[:20], 'cannot be read'),
    ('nothing.wav', b'', 'cannot be read'),
    ('text.wav', b'this is no sound at all, but it is long enough', 'cannot be read'),
    ('text.flac', b'this is no sound at all', 'cannot be read'),
    ('empty.wav', wav(np.zeros(0, np.int16)), 'empty'),
    ('silent.wav', wav(np.zeros(800, np.int16)), 'silent'),
    ('bad.wav', wav(np.array([0., np.nan])), 'not finite')],
    ids=lambda value: value if isinstance(value, str) else '')
def test_bad_files_are_one_line_with_their_name(name, content, reason):
    if name.endswith('.flac'):
        pytest.importorskip('soundfile')
    with pytest.raises(DataError, match=f'^{name}: .*{reason}') as caught:
        decode(name, content)
    assert '\n' not in str(caught.value)


def test_resampling_keeps_the_tone_and_lets_nothing_alias():
    time = np.arange(44100) / 44100
    high = np.sin(2 * np.pi * 6000 * time)  # would be heard as 2000 Hz
    low = np.sin(2 * np.pi * 440 * time)
    found = resampled(Recording('a', (low + high).astype(np.float32), 44100), 8000)
    expected = np.sin(2 * np.pi * 440 * np.arange(8000) / 8000)
    assert found.rate == 8000 and len(found.wave) == 8000
    np.testing.assert_allclose(found.wave[200:-200], expected[200:-200], atol=0.01)


def test_long_recordings_are_cut_and_counted(caplog):
    long, short = (Recording('a', np.full(n, 0.5, np.float32), 8000) for n in (9, 3))
    with caplog.at_level(logging.WARNING):
        waves = fitted([long, short], 5)
    assert waves.tolist() == [[1] * 5, [1, 1, 1, 0, 0]]
    assert '1 of 2 recordings are longer than 5 samples' in caplog.text


def test_silence_at_the_start_is_named():
    late = Recording('late.wav', np.r_[np.zeros(5), 1].astype(np.float32), 8000)
    with pytest.raises(DataError, match='late.wav: its first 5 samples are silent'):
        fitted([late], 5)


def test_notes_are_what_they_were_drawn_to_be():
    drawn = draw_notes(10, seed=3)
    waves = synthesise(drawn, 8192, 8000)
    window = scipy.signal.windows.hann(8192)
    for wave, pitch, attack, decay in zip(waves, drawn.pitch, drawn.attack,
                                          drawn.decay):
        spectrum = np.abs(np.fft.rfft(wave * window))
        # The lowest of the strong lines is the pitch: a line is a hertz wide.
        lines, _ = scipy.signal.find_peaks(spectrum, height=spectrum.max() / 3)
        assert abs(lines[0] * 8000 / 8192 - pitch) < 3
        # A period is a whole number of samples nearly; levels 0.2 s apart.
        level = [np.abs(wave[start:start + 400]).max() for start in (1600, 3200)]
        assert level[1] / level[0] == pytest.approx(np.exp(-0.2 / decay), rel=0.05)
        assert np.abs(wave[:int(attack * 800)]).max(initial=0) < 0.3


def test_notes_is_a_data_set():
    notes = data.load('notes')
    assert notes.train.examples.shape == (1000, 8192) and notes.rate == 8000
    assert notes.train.examples.dtype == np.float32
    assert np.bincount(notes.test.labels).tolist() == [20] * 10
    np.testing.assert_array_equal(np.abs(notes.test.examples).max(axis=1), 1)
    assert len(notes.classes) == 10
    # Not one note is in both.
    assert not set(draw_notes(1000, 0).pitch) & set(draw_notes(200, 1).pitch)


@pytest.fixture
def folder(tmp_path):
    """Three recordings of `yes`, and two of `no` at other rates and widths."""
    for index in range(3):
        place = tmp_path / 'yes' / f'take {index}' / 'a.wav'
        place.parent.mkdir(parents=True)
        place.write_bytes(wav((TONE * 2 ** (8 + index)).astype(np.int16)))
    (tmp_path / 'no').mkdir()
    (tmp_path / 'no/stereo.wav').write_bytes(
        wav(np.stack([TONE, TONE], 1).astype(np.float32), 16000))
    (tmp_path / 'no/deep.WAV').write_bytes(wav24(TONE, 4000))
    (tmp_path / 'no/notes.txt').write_text('no sound')
    return tmp_path


def test_a_folder_of_ones_own(folder):
    found = data.audio_folder(folder, samples=1000)
    assert found.classes == ('no', 'yes') and found.rate == 8000
    assert np.bincount(found.train.labels).tolist() == [1, 2]
    assert np.bincount(found.test.labels).tolist() == [1, 1]
    assert found.train.examples.shape == (3, 1000)
    again = data.audio_folder(folder, samples=1000)
    np.testing.assert_array_equal(found.test.examples, again.test.examples)
    (folder / 'yes/take 0/a.wav').write_bytes(wav(TONE))
    assert data.audio_folder(folder).sha256 != found.sha256


def test_a_folder_without_folders_has_no_labels(tmp_path):
    for index in range(20):
        (tmp_path / f'{index}.wav').write_bytes(wav(TONE))
    found = data.audio_folder(tmp_path)
    assert found.classes is None and found.train.labels is None
    assert len(found.train.examples) == 18 and len(found.test.examples) == 2


def test_bad_folders(folder, tmp_path_factory):
    def fail(place):
        with pytest.raises(DataError) as caught:
            data.load('folder', place)
        assert '\n' not in str(caught.value)
        return str(caught.value)

    assert '--data_dir' in fail(None)
    assert 'no such directory' in fail(folder / 'nowhere')
    assert 'no recording' in fail(tmp_path_factory.mktemp('empty'))
    (folder / 'maybe').mkdir()
    (folder / 'maybe/one.wav').write_bytes(wav(TONE))
    assert 'maybe: it has only one recording' in fail(folder)
    (folder / 'maybe/two.wav').write_bytes(wav(TONE)[:-10])
    assert 'two.wav: cannot be read' in fail(folder)
    (folder / 'loose.wav').write_bytes(wav(TONE))
    assert 'loose.wav: lies beside folders' in fail(folder)


def archive(recordings, root=''):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode='w:gz') as tar:
        for name, content in recordings.items():
            member = tarfile.TarInfo(root + name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return file.getvalue()


@pytest.fixture
def recordings(monkeypatch):
    """Recordings 4 and 5 of two digits by two speakers, whose digest is pinned."""
    made = {f'recordings/{digit}_{speaker}_{number}.wav':
            wav((TONE * 1000 * (digit + 1)).astype(np.int16))
            for digit in (0, 7) for speaker in ('theo', 'lucas') for number in (4, 5)}
    monkeypatch.setattr(fsdd_module, '_DIGEST', digest(made))
    return made


def test_fsdd_from_an_archive_or_a_folder(recordings, tmp_path, monkeypatch):
    monkeypatch.setattr(fsdd_module, '_TEST', 5)
    (tmp_path / 'fsdd').mkdir()
    path = tmp_path / 'fsdd' / fsdd_module.ARCHIVE.name
    path.write_bytes(archive(recordings, 'free-spoken-digit-dataset-1/'))
    found = data.load('fsdd', tmp_path)
    assert found.train.labels.tolist() == found.test.labels.tolist() == [0, 0, 7, 7]
    assert found.train.examples.shape == (4, 8192)
    speakers = data.fsdd(tmp_path, label='speaker')
    assert speakers.test.labels.tolist() == [2, 4, 2, 4]  # sorted: lucas, theo
    path.unlink()
    for name, content in recordings.items():
        place = tmp_path / 'fsdd' / name
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(content)
    again = data.load('fsdd', tmp_path)
    np.testing.assert_array_equal(again.train.examples, found.train.examples)


def test_an_altered_fsdd_is_refused(recordings, tmp_path):
    name = next(iter(recordings))
    path = tmp_path / fsdd_module.ARCHIVE.name
    path.write_bytes(archive({**recordings, name: recordings[name] + b'x'}))
    with pytest.raises(DataError, match='the digest of its 8 recordings'):
        data.load('fsdd', tmp_path)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DataError, match='no whole archive|the digest of'):
        data.load('fsdd', tmp_path)
    path.unlink()
    with pytest.raises(DataError, match='no such file'):
        data.load('fsdd', tmp_path)


def test_fsdd_is_downloaded_whatever_the_archives_bytes(recordings, server, cache,
                                                        monkeypatch):
    file = server.publish('master.tar.gz', archive(recordings, 'somewhere/'))
    monkeypatch.setattr(fsdd_module, 'ARCHIVE', fsdd_module.ARCHIVE._replace(
        url=file.url))
    found = data.load('fsdd')
    assert len(found.train.examples) == 4
    server.close()
    data.load('fsdd')
    assert server.hits == ['/master.tar.gz']


def test_an_altered_download_of_fsdd_is_refused(recordings, server, cache, monkeypatch):
    file = server.publish('master.tar.gz', archive({'recordings/0_theo_1.wav': b'x'}))
    monkeypatch.setattr(fsdd_module, 'ARCHIVE', fsdd_module.ARCHIVE._replace(
        url=file.url))
    with pytest.raises(DataError, match='download of .* digest'):
        data.load('fsdd')
    assert list((cache / 'fsdd').iterdir()) == []


def test_the_real_fsdd(real_folder):
    found = data.load('fsdd', real_folder('fsdd').parent)
    assert found.train.examples.shape == (2700, 8192)
    assert np.bincount(found.test.labels).tolist() == [30] * 10
