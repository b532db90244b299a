"""Runs of the sound experiment: what can be heard, and what is said of it."""

import json
import re
from functools import partial

import numpy as np
import pytest
from scipy.io import wavfile

from cdgm.data import Dataset, Split, load
from cdgm.data.notes import draw_notes, synthesise
from experiments import audio
from experiments.harness import cli
from experiments.harness.errors import SettingError
from experiments.harness.report import artifacts
from experiments.harness.runs.run_folder import read_rows

TINY = ('--cycles=4', '--evaluations=1', '--samples=20', '--classifier_epochs=1',
        '--classifier_accuracy=0', '--batch_size=16', '--latent=2')


@pytest.fixture(scope='module', autouse=True)
def few_notes(tmp_path_factory):
    """Notes of an eighth of the number, and a cache of one's own."""
    patch = pytest.MonkeyPatch()
    cache = tmp_path_factory.mktemp('cache')
    patch.setattr('experiments.judge.pooch.os_cache', lambda name: cache / name)
    splits = [Split(synthesise(drawn, 8192, 8000), drawn.label)
              for drawn in (draw_notes(120, 0), draw_notes(30, 1))]
    data = Dataset('notes', splits[0], None, splits[1], {'notes': 'few'}, rate=8000,
                   classes=tuple('abcdefghij'))
    patch.setattr(audio, 'load', lambda name, data_dir: (
        data if name == 'notes' else load(name, data_dir)))
    yield
    patch.undo()


@pytest.fixture(scope='module')
def vae_run(run):
    return run('audio', *TINY, '--order=sigma,decoder,encoder')


@pytest.fixture(scope='module')
def gan_run(run):
    return run('audio', *TINY, '--model=gan', '--r2=0.5')


GAN_RUN = partial(pytest.param, 'gan_run', marks=pytest.mark.slow)


@pytest.mark.parametrize('name, counts', [
    ('vae_run', {'samples': 10, 'reconstructions': 10, 'interpolation': 5}),
    GAN_RUN({'samples': 10, 'recordings': 5, 'interpolation': 5})])
@pytest.mark.thorough
def test_every_sound_is_there_and_is_one(name, counts, request):
    folder = request.getfixturevalue(name)
    for kind, count in counts.items():
        paths = sorted((folder / kind).glob('*.wav'))
        assert len(paths) == count
        for path in paths:
            rate, samples = wavfile.read(path)
            assert rate == 8000 and samples.dtype == np.int16
            # At a peak of 0.9: nothing is clipped, and nothing silent.
            assert abs(np.abs(samples).max() - 0.9 * 32767) <= 1
            assert np.sqrt(np.mean(np.square(samples / 32767))) > 1e-3
            assert path.with_suffix('.png').exists()


@pytest.mark.parametrize('name, players', [('vae_run', 25), GAN_RUN(20)])
@pytest.mark.thorough
def test_the_page_has_a_player_and_a_picture_of_each(name, players, request):
    page = (request.getfixturevalue(name) / 'report.html').read_text()
    assert page.count('<audio controls') == players
    assert len(re.findall(r'<img [^>]*data:image/png', page)) == players
    assert len(page.encode()) <= 3e6
    assert 'classifier_sha256' in page and not re.search(r'(src|href)="http', page)


@pytest.mark.parametrize('name, rows', [('vae_run', 10), GAN_RUN(6)])
@pytest.mark.thorough
def test_scores_are_recorded(name, rows, request):
    folder = request.getfixturevalue(name)
    scores = json.loads((folder / 'scores.json').read_text())
    assert len(scores['rows']) == rows
    assert re.fullmatch('[0-9a-f]{64}', scores['facts']['classifier_sha256'])
    for name, row in scores['rows'].items():
        assert {'accuracy', 'inception_score', 'frechet', 'precision', 'recall',
                'density', 'coverage', 'nearest_median'} <= set(row), name
    real = scores['rows']['real, test split']
    assert real['samples'] == 30 and real['nearest_low'] > 0


@pytest.mark.thorough
def test_rows_of_metrics(vae_run):
    test = read_rows(vae_run)[-1]['test']
    pixels = 64 * 64 * np.log(2)
    np.testing.assert_allclose(test['bits_per_pixel'][0] * pixels, test['neg_elbo'][0],
                               rtol=1e-6)
    assert 0 < test['reconstruction_db'][0] < 80


def fail(*arguments):
    values = cli.parse(audio.define_flags, [*TINY, *arguments])
    audio.EXPERIMENT.hyper(values)
    with pytest.raises(SettingError) as caught:
        audio.EXPERIMENT.task(values, audio.EXPERIMENT.load(values))
    return str(caught.value)


@pytest.mark.thorough
def test_bad_settings_are_one_line(tmp_path):
    assert '--dataset=digits holds no sound' in fail('--dataset=digits')
    assert re.search(r'--mels: 100 mels .* filters 0 \(', fail('--mels=100'))
    learnt = fail('--classifier_accuracy=1')
    assert 'the classifier knows' in learnt and '--classifier_epochs' in learnt
    for index in range(20):
        wavfile.write(tmp_path / f'{index}.wav', 8000,
                      np.random.RandomState(index).normal(size=500))
    assert '--noconditional' in fail('--dataset=folder', f'--data_dir={tmp_path}')
    assert 'give --noconditional' in fail('--model=gan', '--packing=2')
    assert 'packs of --packing=3' in fail('--model=gan', '--noconditional',
                                          '--packing=3')
    assert '--lazy=2' in fail('--model=gan', '--r1=0', '--lazy=2')


def test_sounds_have_their_pictures_in_a_gallery(tmp_path):
    for name in ('b', 'a'):
        (tmp_path / f'{name}.wav').write_bytes(name.encode())
    (tmp_path / 'a.png').write_bytes(b'picture')
    first, second = artifacts.show(tmp_path, '*.wav', 'Samples', 'joint')
    assert 'joint, a' in first and 'data:audio/wav;base64,YQ==' in first
    assert 'cGljdHVyZQ==' in first and '<img' not in second
    assert artifacts.show(tmp_path, 'c*.wav', 'Samples') == []
    assert artifacts.show(tmp_path, 'c.wav', 'Samples') == []
