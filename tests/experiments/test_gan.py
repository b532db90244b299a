"""A run of the GAN: what its folder holds, and that its numbers are its parameters'."""

import json
import re

import jax
import numpy as np
import pytest
from PIL import Image

from cdgm import metrics, models
from cdgm.data import load
from experiments import gan, gan_scores
from experiments.harness import cli
from experiments.harness.errors import SettingError
from experiments.harness.runs import snapshots
from experiments.harness.runs.run_folder import load_params, read_rows
from experiments.harness.train.flops import count_costs

TINY = ('--widths=8', '--channels=4', '--latent=2', '--cycles=4', '--evaluations=2',
        '--r1=0')


# A classifier that need not have learnt.
JUDGED = ('--samples=400', '--classifier_epochs=1', '--classifier_accuracy=0')


@pytest.fixture(scope='module', autouse=True)
def cache_of_our_own(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    cache = tmp_path_factory.mktemp('cache')
    patch.setattr('experiments.judge.pooch.os_cache', lambda name: cache / name)
    yield
    patch.undo()


@pytest.fixture(scope='module')
def alternating(run):
    return run('gan', *TINY, '--seeds=2', '--order=discriminator*2,generator')


@pytest.mark.thorough
def test_folder(alternating):
    assert {path.name for path in alternating.iterdir()} - {'uncommitted.diff'} == {
        'flags.txt', 'manifest.json', 'attempts.jsonl', 'lock', 'metrics.jsonl',
        'checkpoints', 'snapshots', 'params.npz', 'samples.png', 'training.png',
        'training.gif', 'loss.png', 'doctor.txt'}


@pytest.mark.thorough
def test_rows(alternating):
    rows = read_rows(alternating)
    assert [row['cycle'] for row in rows] == [0, 1, 2, 3, 4]
    # 1437 images hold 22 minibatches of 64, and every update has one of its own.
    np.testing.assert_allclose([row['epoch'] for row in rows], np.arange(5) * 3 / 22)
    for row in rows[1:]:
        assert set(row['loss']) == {'discriminator', 'generator'}
        assert set(row['aux']['discriminator']) == {'real_logit', 'fake_logit'}
        assert set(row['aux']['generator']) == {'fake_logit'}
        # A discriminator that cannot tell yet: log 4, and log 2 for its opponent.
        assert np.allclose(row['loss']['discriminator'], np.log(4), atol=0.2)
        assert np.allclose(row['loss']['generator'], np.log(2), atol=0.2)


@pytest.mark.thorough
def test_params_are_those_of_the_last_evaluation(alternating):
    params = load_params(alternating)
    model = models.gan((8, 8, 1), 2, (8,), (4,))
    form = jax.eval_shape(model.init, jax.random.key(0))
    assert jax.tree.map(lambda leaf: (2, *leaf.shape), form) == jax.tree.map(
        np.shape, params)
    with jax.enable_x64(False):
        # The latents of the test are one draw for every run.
        latent = jax.random.normal(jax.random.key(0), (1000, 2))
        test = load('digits').test.examples.reshape(360, -1)
        bandwidth = metrics.median_bandwidth(test[::2], test[1::2])
        samples = jax.vmap(model.generate, (0, None))(params, latent)
        expected = [metrics.mmd2(each.reshape(1000, -1), test, bandwidth)
                    for each in samples]
    np.testing.assert_allclose(read_rows(alternating)[-1]['test']['mmd2'], expected,
                               rtol=1e-4)


@pytest.mark.thorough
def test_simultaneous(run):
    folder = run('gan', *TINY, '--order=simultaneous', '--loss=least_squares')
    rows = read_rows(folder)
    # Both players share the one minibatch of a cycle.
    np.testing.assert_allclose([row['epoch'] for row in rows], np.arange(5) / 22)
    losses = rows[-1]['loss']
    # Logits near 0: (0 - 1)^2 / 2 + 0^2 / 2, and (0 - 1)^2 / 2.
    np.testing.assert_allclose(losses['discriminator'], 0.5, atol=0.2)
    np.testing.assert_allclose(losses['generator'], 0.5, atol=0.2)


@pytest.mark.thorough
def test_snapshots_are_samples_of_one_noise(alternating):
    kept = snapshots.read(alternating)
    assert list(kept) == [0, 2, 4]
    first = jax.tree.map(lambda leaf: leaf[0], load_params(alternating))
    with jax.enable_x64(False):
        latent = jax.random.normal(jax.random.key(0), (1000, 2))[:gan_scores.SHOWN]
        images = models.gan((8, 8, 1), 2, (8,), (4,)).generate(first, latent)
    assert kept[4].dtype == np.uint8
    np.testing.assert_allclose(kept[4], 255 * images, atol=0.51)
    with Image.open(alternating / 'training.gif') as picture:
        assert picture.n_frames == 3


@pytest.mark.thorough
def test_all_settings_at_once(run):
    folder = run('gan', *TINY[:-1], '--loss=relativistic', '--r1=1', '--r2=2',
                 '--lazy=2', '--spectral_norm=1', '--packing=2', '--instance_noise=0.1',
                 '--average=0.9', '--shared_noise', '--order=discriminator,generator*2')
    assert read_rows(folder)[-1]['cycle'] == 4


@pytest.mark.thorough
@pytest.mark.parametrize('order', ['discriminator,generator',
                                   'discriminator*2,generator'])
def test_a_lazy_penalty_is_charged_for_as_often_as_it_is_due(order):
    def costs(*more):
        values = cli.parse(gan.define_flags, [*TINY[:-1], f'--order={order}', *more])
        task = gan.task(values, load('digits'))
        given = jax.tree.map(lambda x: x[0], gan.EXPERIMENT.traced_inputs(values))
        counted = count_costs(task, given)
        return counted.cycle + sum(counted.step)

    always, never, lazy = costs('--r1=1'), costs('--r1=0'), costs('--r1=1', '--lazy=8')
    # In a conditional it is another program: it shares no forward pass with the loss.
    assert 0.7 < (lazy - never) / ((always - never) / 8) < 1.3


@pytest.mark.slow
def test_the_judge_and_the_scores(run):
    folder = run('gan', *TINY, *JUDGED, '--conditional', '--clip=0.5',
                 '--loss=wasserstein')
    assert set(read_rows(folder)[-1]['test']) == set(gan.EXPERIMENT.metrics)
    scores = json.loads((folder / 'scores.json').read_text())
    assert set(scores['rows']) == {'real, test split', 'Gaussian mixture', 'samples'}
    assert len(scores['facts']['classifier_sha256']) == 64
    real, mixture, samples = scores['rows'].values()
    assert [row['samples'] for row in (real, mixture, samples)] == [360, 400, 400]
    # Of any features: real images are nearer than a mixture's, and those than noise.
    assert real['frechet_equal'] < mixture['frechet_equal'] < samples['frechet_equal']
    assert 0 <= samples['accuracy'] <= 0.3  # it is hardly trained
    assert 'accuracy' not in mixture
    params = load_params(folder)['discriminator']
    assert max(abs(leaf).max() for leaf in jax.tree.leaves(params)) <= 0.5


@pytest.mark.slow
def test_dcgan_with_batch_statistics(run):
    folder = run('gan', '--net=dcgan', '--normalisation=batch', '--frozen=running',
                 '--latent=2', '--cycles=1', '--evaluations=1', '--r1=0',
                 '--batch_size=8', '--loss=least_squares', '--label_smoothing=0.1')
    # D = 0 at the start, near: ((0 - 0.9)^2 + 0^2) / 2
    assert abs(read_rows(folder)[-1]['loss']['discriminator'][0] - 0.405) < 0.2


@pytest.mark.thorough
def test_a_mixture_is_that_of_the_images():
    images = load('digits').train.examples
    drawn = gan_scores.mixture_samples(images, 2000)
    assert drawn.shape == (2000, 8, 8, 1) and drawn.min() >= 0 and drawn.max() <= 1
    error = images.std(0) * np.sqrt(1 / 2000 + 1 / len(images))
    # Clipping moves the pixels at the rim, which are mostly 0, a little upwards.
    assert np.all(abs(drawn.mean(0) - images.mean(0)) < 4 * error + 0.03)


@pytest.mark.parametrize('order, updates', [('discriminator*2,generator', (8, 4)),
                                            ('discriminator,generator', (4, 4))])
@pytest.mark.sample(1)
def test_rates_fall_over_the_updates_of_each_player(order, updates):
    values = cli.parse(gan.define_flags, [*TINY, '--cosine', '--learning_rate=1e-3',
                                          '--beta1=0', f'--order={order}'])
    descent = gan.task(values, load('digits')).descent(gan.hyper(values))
    for name, count in zip(gan.BLOCKS, updates):
        tx = descent.blocks[name].tx
        state, moves = tx.init(1.), []
        for _ in range(count + 1):
            update, state = tx.update(1., state)
            moves.append(float(-update))
        # Of a gradient that is always 1, Adam's update is the rate.
        cosine = 0.5 + 0.5 * np.cos(np.pi * np.arange(count + 1) / count)
        np.testing.assert_allclose(moves, 1e-3 * cosine, rtol=1e-5, atol=1e-9)


@pytest.mark.thorough
def test_convolutions_are_told_the_class():
    values = cli.parse(gan.define_flags, ['--net=dcgan', '--conditional',
                                          '--latent=2'])
    model = gan.nets(values, (8, 8, 1), classes=10)
    params = model.init(jax.random.key(0))
    assert {name.split('_')[0] for net in params.values() for name in net} >= {
        'Conv', 'Upsampling', 'Dense'}
    latent, classes = np.zeros((10, 2)), np.arange(10)
    images = model.generate(params, latent, classes)
    assert len(np.unique(np.asarray(images).reshape(10, -1), axis=0)) == 10
    seen = model.discriminate(params, np.repeat(images[:1], 10, 0), classes)
    assert len(np.unique(seen)) == 10


def fail(*arguments, change=lambda data: data):
    values = cli.parse(gan.define_flags, arguments)
    with pytest.raises(SettingError) as caught:
        gan.EXPERIMENT.task(values, change(load('digits')))
    assert '\n' not in str(caught.value)
    return str(caught.value)


def in_bytes(data):
    return data._replace(train=data.train._replace(examples=255 * data.train.examples))


def without_labels(data):
    return data._replace(train=data.train._replace(labels=None))


@pytest.mark.parametrize('arguments, line', [
    ('--packing=3', '--batch_size=64 does not divide into packs of --packing=3'),
    ('--packing=2 --conditional', 'of several classes'),
    ('--label_smoothing=0.1 --loss=hinge', '--loss=hinge: .* has none'),
    ('--lazy=4 --r1=0', '--lazy=4 is how often'),
    ('--normalisation=batch', 'is of --net=dcgan'),
    ('--net=dcgan --conditional --normalisation=batch', 'told no class; leave it or'),
    pytest.param('--samples=60 --classifier_epochs=1 --classifier_accuracy=0',
                 '--samples=60: .* more than 64, .*1437; give', marks=pytest.mark.slow),
    pytest.param('--samples=400 --classifier_epochs=1 --classifier_accuracy=1',
                 'knows .* Raise', marks=pytest.mark.slow)])
def test_settings_that_do_not_go_together_are_one_line(arguments, line):
    with jax.enable_x64(False):
        message = fail(*arguments.split())
    assert re.search(line, message), message


@pytest.mark.thorough
def test_data_that_do_not_go_with_the_settings_are_one_line():
    assert 'reach from 0 to 255, and the generator makes numbers from 0 to 1' in fail(
        change=in_bytes)
    assert '--conditional tells the class, and --dataset=digits has none' in fail(
        '--conditional', change=without_labels)
    assert '--dataset=digits has no classes' in fail('--samples=400',
                                                     change=without_labels)


@pytest.mark.thorough
def test_a_loss_without_what_it_needs_is_warned_of():
    values = cli.parse(gan.define_flags, ['--loss=wasserstein', '--r1=0'])
    with pytest.warns(UserWarning, match='nothing keeps the Wasserstein critic'):
        gan.EXPERIMENT.task(values, load('digits'))
