"""Stacked digits: modes are counted by channel; a run's numbers are its samples'."""

import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdgm import data, losses, models
from experiments import gan, stacked
from experiments.harness import cli
from experiments.harness.errors import SettingError
from experiments.harness.runs.run_folder import load_params, read_rows

TINY = ('--batch_size=24', '--latent=2', '--cycles=2', '--evaluations=1',
        '--samples=360', '--classifier_epochs=8', '--classifier_accuracy=0.8')


@pytest.fixture(scope='module')
def folder(run):
    return run('stacked', *TINY, '--seeds=2')


def parsed(*arguments):
    return cli.parse(stacked.define_flags, arguments)


def judge_of_means():
    """A classifier that takes an image for the class that is ten times its mean."""
    def apply(images):
        classes = jnp.round(10 * images.mean((1, 2, 3))).astype(int)
        return None, jax.nn.one_hot(classes, 10)

    return SimpleNamespace(apply=apply)


def test_a_mode_is_the_classes_of_the_channels_in_order():
    digits = jnp.array([[3, 0, 9], [9, 9, 1]])
    images = jnp.broadcast_to(digits[:, None, None] / 10, (2, 8, 8, 3))
    assert stacked.modes_of(judge_of_means(), images).tolist() == [309, 991]


@pytest.mark.thorough
def test_rows_are_of_the_generators_average(folder):
    row = read_rows(folder)[-1]['test']
    assert set(row) == {'reverse_kl', 'modes'}
    scores = json.loads((folder / 'scores.json').read_text())
    # Scores are of the first seed.
    assert scores['rows']['samples'] == pytest.approx(
        {name: values[0] for name, values in row.items()}, rel=1e-5)
    assert scores['facts']['number'] == 360
    assert scores['facts']['reverse_kl_if_uniform'] == 999 / 720
    by_label = scores['rows']['test digits, by their labels']
    drawn = data.draw_stacked(data.load('digits').test, jax.random.key(3), 360).labels
    assert by_label['modes'] == len(np.unique(drawn))
    by_classifier = scores['rows']['test digits, stacked']
    assert by_classifier['modes'] == pytest.approx(by_label['modes'], abs=15)


@pytest.mark.thorough
def test_folder(folder):
    files = {path.name for path in folder.iterdir()}
    assert files >= {*stacked.EXPERIMENT.artifacts, 'scores.json'}


@pytest.mark.thorough
def test_a_run_is_a_loop_of_cycles_over_stacks(folder):
    """What the harness trains: three digits a stack, the game of the flags."""
    params = jax.tree.map(lambda x: x[0], load_params(folder))
    model = models.dcgan((8, 8, 3), 2, (), (), generator_widths=(256, 256),
                         discriminator_widths=(256, 256))
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(
        jnp.shape, jax.eval_shape(model.init, jax.random.key(0)))
    # 1437 digits hold 59 minibatches of 24, and every update has one of its own.
    assert [row['epoch'] for row in read_rows(folder)] == pytest.approx(
        [0, 2 / 59, 4 / 59])


@pytest.mark.parametrize('name, clip', [('discriminator', 0.1), ('generator', 0.)])
def test_rates_fall_to_zero_over_a_blocks_updates(name, clip):
    given = {'rates': {name: 0.5}, **({'clip': clip} if clip else {})}
    tx = gan.optimiser(parsed(), given, name, 6)
    weight, states, sizes = jnp.zeros(1), tx.init(jnp.zeros(1)), []
    for _ in range(7):
        updates, states = tx.update(jnp.ones(1), states, weight)
        sizes.append(-float(updates[0]))
    # Adam's step on a slope that stays is the rate; the box holds no more than clip.
    expected = 0.25 * (1 + np.cos(np.pi * np.arange(7) / 6))
    np.testing.assert_allclose(sizes, np.minimum(expected, clip or 1), atol=1e-6)


def test_the_game_has_the_penalties_and_the_average_of_the_flags():
    values = parsed('--r2=0', '--r1=0.5', '--latent=2')
    assert gan.traced(values) == ('seed', 'learning_rate', 'r1')
    model = models.GAN(
        None, lambda params, z: jnp.zeros((len(z), 1, 1, 3)),
        lambda params, x: params['discriminator'] * x.sum((1, 2, 3)), 2)
    game = gan.play(values, model, stacked.hyper(values))
    params = {'discriminator': jnp.array(2.), 'generator': jnp.zeros(1)}
    state = game.model_state(params, jax.random.key(0))
    assert sorted(state) == ['average', 'weight']
    batch = jnp.ones((6, 1, 1, 3))
    value, _ = game.losses['discriminator'](params, state, batch, jax.random.key(1))
    # Logits of 2 * 3 against 0, and a slope of 2 in each of three directions.
    bare = losses.relativistic.discriminator(jnp.full(6, 6.), jnp.zeros(6))
    assert float(value) == pytest.approx(float(bare) + 0.5 / 2 * 3 * 4)


@pytest.mark.parametrize('flags, message', [
    (('--batch_size=100',), '--batch_size=100 is of single digits, .* a multiple of 3'),
    (('--batch_size=9', '--packing=2'), 'a multiple of 6'),
    (('--dataset=digits',), "--dataset: 'digits' is not a set of stacked digits"),
    (('--conditional',), '--conditional tells the class, and a stack has three'),
    (('--widths=8',), '--widths is of --net=reference, and the other nets have their'),
    (('--discriminator=half',), '--discriminator=half is of --net=dcgan; name that')])
def test_what_is_refused(flags, message):
    values = parsed(*flags)
    with pytest.raises(SettingError, match=message):
        stacked.hyper(values)
        stacked.load(values)
        stacked.nets(values, (8, 8, 3))


@pytest.mark.parametrize('flags', [
    (), ('--net=reference', '--packing=2'),
    ('--net=dcgan', '--discriminator=quarter', '--packing=2'),
    ('--net=dcgan', '--normalisation=batch')])
@pytest.mark.sample(1)
def test_nets_of_the_flags_play(flags):
    values = parsed(*flags)
    model = stacked.nets(values, (8, 8, 3))
    game = gan.play(values, model, stacked.hyper(values))

    def play(key):
        params = model.init(key)
        state = game.model_state(params, key)
        return [loss(params, state, jnp.zeros((4, 8, 8, 3)), key)[0]
                for loss in game.losses.values()]

    assert [x.shape for x in jax.eval_shape(play, jax.random.key(0))] == [(), ()]
