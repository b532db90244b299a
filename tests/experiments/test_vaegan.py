"""The VAE-GAN's runs: its blocks, and that numbers and pictures are its parameters'."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdgm import losses, models
from cdgm.data import load
from experiments import vaegan
from experiments.harness import cli
from experiments.harness.runs.run_folder import load_params, read_rows

TINY = ('--channels=3', '--width=4', '--latent=2', '--cycles=2', '--evaluations=1',
        '--samples=360', '--classifier_epochs=8', '--classifier_accuracy=0.8')


@pytest.fixture(scope='module')
def folder(run):
    return run('vaegan', *TINY)


def parsed(*arguments):
    return cli.parse(vaegan.define_flags, arguments)


@pytest.mark.thorough
def test_three_blocks_descend_three_losses(folder):
    rows = read_rows(folder)
    # The three share the minibatch of a cycle: 1437 images hold 22 of 64.
    np.testing.assert_allclose([row['epoch'] for row in rows], [0, 1 / 22, 2 / 22])
    assert set(rows[-1]['loss']) == {'encoder', 'decoder', 'discriminator'}
    assert rows[-1]['aux'].keys() == rows[-1]['loss'].keys()
    terms = {name: np.asarray(x) for name, x in rows[-1]['aux']['encoder'].items()}
    beta = parsed().beta
    np.testing.assert_allclose(rows[-1]['loss']['encoder'],
                               beta * terms['kl'] + terms['likeness'], rtol=1e-5)


@pytest.mark.thorough
def test_scores_are_of_the_last_parameters(folder):
    scores = json.loads((folder / 'scores.json').read_text())['rows']
    assert set(scores) == {'real, test split', 'Gaussian mixture', 'samples',
                           'reconstructions, test split'}
    test = read_rows(folder)[-1]['test']
    assert set(test) == set(vaegan.EXPERIMENT.metrics)
    for name in ('density', 'coverage', 'inception_score', 'frechet'):
        np.testing.assert_allclose(test[name], scores['samples'][name], rtol=1e-3)
    params = jax.tree.map(lambda x: x[0], load_params(folder))
    model = models.vaegan((8, 8, 1), 2, (3,), 4)
    images = load('digits').test.examples
    with jax.enable_x64(False):
        rebuilt = jax.jit(lambda params, x: model.decode(
            params, model.encode(params, x)[0]))(params, images)
    error = ((rebuilt - images) ** 2).sum((1, 2, 3)).mean()
    np.testing.assert_allclose(test['pixel_error'], error, rtol=1e-5)
    assert {path.name for path in folder.iterdir()} >= {*vaegan.EXPERIMENT.artifacts}


@pytest.mark.parametrize('name, flags, order', [
    ('vaegan', (), ('encoder', 'decoder', 'discriminator')),
    ('vae', (), ('encoder', 'decoder')), ('gan', (), ('decoder', 'discriminator')),
    ('gan', ('--order=discriminator*2,decoder',),
     ('discriminator', 'discriminator', 'decoder')),
    ('vaegan', ('--order=simultaneous',), ('simultaneous',))])
@pytest.mark.sample(2)
def test_blocks_of_each_model(name, flags, order):
    values = parsed(f'--model={name}', *flags)
    plan = vaegan._order(values)
    assert (plan.updates, plan.blocks) == (order, vaegan.BLOCKS[name])
    model = models.vaegan((8, 8, 1), 2, (3,), 4)
    made = vaegan.block_losses(name, model, vaegan.hyper(values))
    assert set(made) == set(plan.blocks)

    def play(key):
        params = {block: mine for block, mine in model.init(key).items()
                  if block in plan.blocks}
        return [loss(params, jnp.zeros((4, 8, 8, 1)), key)[0] for loss in made.values()]

    shapes = jax.eval_shape(play, jax.random.key(0))
    assert [x.shape for x in shapes] == [()] * len(made)


@pytest.mark.thorough
def test_the_vae_is_that_of_its_decoders_logits():
    model = models.vaegan((4, 4, 1), 2, (3,), 4)
    images = jax.random.uniform(jax.random.key(1), (5, 4, 4, 1))
    loss = vaegan.block_losses('vae', model, {'beta': 0.5, 'gamma': 1.})['encoder']

    @jax.jit
    def both(key):
        params = model.init(key)
        mean, logvar = model.encode(params, images)
        made = model.decode(params, losses.sample_latent(mean, logvar, key))
        log_p = images * jnp.log(made) + (1 - images) * jnp.log1p(-made)
        return loss(params, images, key), -log_p.sum((1, 2, 3)).mean()

    (value, terms), expected = both(jax.random.key(0))
    np.testing.assert_allclose(terms.reconstruction, expected, rtol=1e-6)
    np.testing.assert_allclose(value, expected + 0.5 * terms.kl, rtol=1e-6)


def test_rows_of_reconstructions_are_below_their_images():
    above, below = jnp.arange(4), 10 + jnp.arange(4)
    assert vaegan._in_turns(above, below, 2).tolist() == [0, 1, 10, 11, 2, 3, 12, 13]
