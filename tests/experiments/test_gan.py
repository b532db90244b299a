"""A run of the GAN: what its folder holds, and that its numbers are its parameters'."""

import jax
import numpy as np
import pytest

from cdgm import metrics, models
from cdgm.data import load
from experiments import gan
from experiments.harness.runs.run_folder import load_params, read_rows

TINY = ('--widths=8', '--channels=4', '--latent=2', '--cycles=4', '--evaluations=2',
        '--r1=0')


@pytest.fixture(scope='module')
def alternating(run):
    return run('gan', *TINY, '--seeds=2', '--order=discriminator*2,generator')


def test_folder(alternating):
    assert {path.name for path in alternating.iterdir()} - {'uncommitted.diff'} == {
        'flags.txt', 'manifest.json', 'attempts.jsonl', 'lock', 'metrics.jsonl',
        'checkpoints',
        'params.npz', 'samples.png', 'loss.png'}


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


def test_r1_is_added_to_the_discriminators_loss_at_the_data():
    # D(x) = w sum x^2 has the slope 2 w x, whose square sums to 4 w^2 |x|^2.
    model = models.GAN(None, None, lambda w, x: w * (x ** 2).sum((1, 2, 3)), 0)
    images = np.random.RandomState(0).rand(3, 2, 2, 1)
    loss = gan.penalised(lambda params, batch, key: (5., 'terms'), model, strength=3.)
    value, terms = loss(0.5, images, None)
    slope = 4 * 0.5 ** 2 * (images ** 2).sum((1, 2, 3)).mean()
    assert float(value) == pytest.approx(5 + 3 / 2 * slope, rel=1e-12)
    assert terms == 'terms'


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
