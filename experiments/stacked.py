"""Train a generative adversarial network on stacked digits: does it forget any mode?

    ./launch.sh stacked                         # on three seeds: --seeds=3
    ./launch.sh stacked --net=reference         # the nets of `./launch.sh gan`
    ./launch.sh stacked --net=dcgan --discriminator=quarter --packing=2
    ./launch.sh stacked --dataset=stacked_mnist --net=dcgan

An image is three digits, one a channel, so there are 1000 modes, alike in probability.
A classifier of single digits says which one a sample is of: evaluated are the number of
modes that --samples samples reach and the KL of their shares to the uniform, which for
25,600 samples that are uniform is 0.0195 nats on average, not 0.

As in R3GAN: the relativistic loss, R1 and R2, no normalisation, rates that fall as a
cosine, and samples from the generator's average; here of perceptrons, unless --net says
otherwise. Every update has digits of its own, three of which, drawn at random, make a
stack: --batch_size is of digits. Other flags are those of `./launch.sh gan`.
"""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from absl import flags

import cdgm
from cdgm import metrics, models
from cdgm import data as datasets
from cdgm.data import Dataset
from experiments import gan, gan_doctor, gan_scores
from experiments.harness import cli, execute, training_flags
from experiments.harness.errors import SettingError
from experiments.harness.report import figures
from experiments.harness.task import Experiment, Task
from experiments.judge import Images, Judge, trained_judge
from experiments.scores import write_scores

_CHANNELS, _CHUNK = 3, 256

# What differs from the defaults of the experiment gan.
_DEFAULTS = {
    'dataset': 'stacked_digits', 'batch_size': 384, 'epochs': 5000., 'evaluations': 10,
    'learning_rate': '3e-3', 'beta1': 0., 'latent': 64, 'loss': 'relativistic',
    'r1': 0.1, 'r2': 0.1, 'average': 0.999, 'samples': 25_600,
    'classifier_accuracy': 0.95, 'cosine': True}

_WIDTHS = (256, 256)  # of the perceptrons, both

# Digits that the classifier is shown: scikit-learn's 60 times, MNIST's once.
_SHOWN = 90_000


def define_flags(values: flags.FlagValues) -> None:
    """Add the flags of the experiment gan, and one more."""
    gan.define_flags(values)
    for name, value in _DEFAULTS.items():
        values.set_default(name, value)
    own: dict[str, Any] = {'flag_values': values}
    flags.DEFINE_enum('discriminator', 'full', ['full', *models.SMALL_DISCRIMINATORS],
                      "Of the dcgan: those of PacGAN's table 3 are too small, on "
                      'purpose.', **own)


def hyper(values: flags.FlagValues) -> dict[str, Any]:
    """What the task is given beside the seed."""
    whole = _CHANNELS * (values.packing or 1)
    if values.batch_size % whole:
        raise SettingError(
            f'--batch_size={values.batch_size} is of single digits, three a stack, '
            f'which do not divide into packs of --packing={values.packing or 1}; give '
            f'a multiple of {whole}.')
    if values.conditional:
        raise SettingError('--conditional tells the class, and a stack has three; '
                           'leave it out.')
    return gan.hyper(values)


def load(values: flags.FlagValues) -> Dataset:
    """The single digits that the set is made of."""
    try:
        return datasets.stacked_base(values.dataset, values.data_dir)
    except datasets.DataError:
        raise
    except ValueError as error:
        raise SettingError(f'--dataset: {error}') from None


def task(values: flags.FlagValues, data: Dataset) -> Task:
    """The nets, the losses of the players, and how modes are counted."""
    gan.check_settings(values, data)
    model = nets(values, (*data.train.examples.shape[1:3], _CHANNELS))
    judge = _judge(values, data)
    order, game = _order(values), gan.play(values, model, gan.hyper(values))
    cycles = training_flags.read_cycles(values, len(data.train.examples))

    def descent(hyper, penalised=True):
        played = gan.play(values, model, hyper, penalised)
        return cdgm.block_descent({
            name: cdgm.Block(name, played.losses[name], gan.optimiser(
                values, hyper, name, order.updates_of(name, cycles)))
            for name in gan.BLOCKS})

    def sample(params, state, latent):
        return game.sample(params, state[0] if state else None, latent)

    def evaluate(params, *rest):
        *state, _ = rest
        counts = _count_samples(values, judge, partial(sample, params, state))
        return {'reverse_kl': metrics.reverse_kl(counts),
                'modes': jnp.sum(counts > 0).astype(float)}

    def snapshot(params, *state):
        images = sample(params, state, _latents(values, gan_scores.SHOWN))
        return jnp.round(255 * images).astype(jnp.uint8)

    def draw(folder, params, *state):
        _draw(values, data, judge, jax.jit(partial(sample, params, state)), folder)
        digits = jnp.asarray(data.train.examples[:values.batch_size])
        gan_doctor.write_game(folder, game, values.latent, params, *state,
                              batch=datasets.stack(digits))

    plain = Task(
        init=model.init, descent=descent, order=order,
        examples=jnp.asarray(data.train.examples),
        prepare=lambda digits, key: datasets.stack(digits), evaluate=evaluate,
        draw=draw, batch_size=values.batch_size, fresh=values.fresh_minibatches,
        model_state=gan.model_state(game, model), snapshot=snapshot)
    return gan.charge_lazily(values, model, plain, descent)


def _judge(values: flags.FlagValues, data: Dataset) -> Judge:
    """Train the classifier of single digits, or take it from the cache."""
    train, test = (Images(jnp.asarray(split.examples), jnp.asarray(split.labels))
                   for split in (data.train, data.test))
    return trained_judge(
        data, train, test, made_of='images', least=values.classifier_accuracy,
        epochs=values.classifier_epochs or max(_SHOWN // len(train.images), 1))


def nets(values: flags.FlagValues, shape: tuple[int, ...]) -> Any:
    """The two nets, of --net: perceptrons unless it is given."""
    if values.net != 'dcgan' and values.discriminator != 'full':
        raise SettingError(f'--discriminator={values.discriminator} is of --net=dcgan; '
                           'name that net, or leave it out.')
    if values.net == 'reference':
        return gan.nets(values, shape, classes=0)
    for name in ('widths', 'channels'):
        if values[name].value != values[name].default:
            raise SettingError(f'--{name} is of --net=reference, and the other nets '
                               'have their own; name that net, or leave it out.')
    if values.net is None:
        return models.dcgan(
            shape, values.latent, (), (), generator_widths=_WIDTHS,
            discriminator_widths=_WIDTHS, packing=values.packing or 1)
    generator, discriminator = gan.DCGAN_CHANNELS
    return models.dcgan(
        shape, values.latent, generator,
        models.SMALL_DISCRIMINATORS.get(values.discriminator, discriminator),
        normalisation=values.normalisation or 'none', packing=values.packing or 1)


def _latents(values: flags.FlagValues, count: int) -> jax.Array:
    """Latents that are one draw for every run, so that runs compare."""
    return jax.random.normal(jax.random.key(1), (count, values.latent))


def _count_samples(values: flags.FlagValues, judge: Judge, sample) -> jax.Array:
    """How many samples are of each mode, int32[1000]."""
    return _count(judge, sample, _latents(values, values.samples))


def _count(judge: Judge, image_of, of) -> jax.Array:
    """How many images are of each mode, int32[1000], some at a time."""
    def mode(one):
        return modes_of(judge, image_of(jax.tree.map(lambda x: x[None], one)))[0]

    return jnp.bincount(jax.lax.map(mode, of, batch_size=_CHUNK),
                        length=datasets.NUM_MODES)


def modes_of(judge: Judge, images: jax.Array) -> jax.Array:
    """Number of each image's mode, by the classes of its channels.

    Args:
      judge: of images of one channel.
      images: float32[B, H, W, 3].

    Returns:
      int32[B], 0 to 999.
    """
    classes = jnp.argmax(judge.apply(_channels(images))[1], axis=-1)
    return datasets.triple_number(classes.reshape(-1, _CHANNELS))


def _channels(images):
    """Channels as images of their own, [B, H, W, 3] -> [3 B, H, W, 1]."""
    return jnp.moveaxis(images, -1, 1).reshape(-1, *images.shape[1:3], 1)


def _draw(values: flags.FlagValues, data: Dataset, judge: Judge, sample, folder: Path
          ) -> None:
    """Write samples, the histogram of their modes, and their scores."""
    images = sample(_latents(values, 64))
    figures.grid(folder / 'samples.png', images)
    figures.grid(folder / 'channels.png', _channels(images[:24]), columns=12)
    gan_scores.draw_training(folder)
    test = datasets.draw_stacked(data.test, jax.random.key(3), values.samples)
    counts = {
        'samples': jax.jit(lambda: _count_samples(values, judge, sample))(),
        'test digits, stacked': jax.jit(lambda images: _count(
            judge, lambda x: x, images))(test.examples),
        'test digits, by their labels': jnp.bincount(
            jnp.asarray(test.labels), length=datasets.NUM_MODES)}
    _draw_histogram(folder / 'modes.png', counts)
    rows = {name: {'modes': float(np.sum(np.asarray(each) > 0)),
                   'reverse_kl': float(metrics.reverse_kl(each))}
            for name, each in counts.items()}
    write_scores(folder, rows, {
        **judge.facts(), 'number': values.samples,
        'reverse_kl_if_uniform': (datasets.NUM_MODES - 1) / (2 * values.samples)})


def _draw_histogram(path: Path, counts) -> None:
    """Images of each mode, from the most frequent to the rarest."""
    figure, axes = plt.subplots(figsize=(5, 3))
    for name, each in counts.items():
        axes.plot(np.sort(np.asarray(each))[::-1], label=name)
    axes.set(xlabel='modes, by their number of images', ylabel='images', ylim=(0, None))
    axes.legend()
    figure.savefig(path)
    plt.close(figure)


def _order(values: flags.FlagValues) -> training_flags.UpdatePlan:
    return training_flags.read_order(values, gan.BLOCKS, whole=('simultaneous',))


EXPERIMENT = Experiment(
    'stacked', {'reverse_kl': 'lower', 'modes': 'higher'}, define_flags, gan.traced,
    hyper, task,
    {'samples.png': 'Samples', 'channels.png': 'Channels of 24 samples',
     'modes.png': 'Images of each mode',
     'training.gif': 'Samples of one noise over the training',
     'training.png': 'The same, a row an evaluation', 'scores.txt': 'Scores',
     'doctor.txt': 'What the doctor says'}, load)
main = partial(execute.main, EXPERIMENT)

if __name__ == '__main__':
    cli.run(define_flags, main, __doc__)
