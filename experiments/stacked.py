"""Train a generative adversarial network on stacked digits: does it forget any mode?

    ./launch.sh stacked                         # three seeds: --seeds=3
    ./launch.sh stacked --net=reference         # the nets of `./launch.sh gan`
    ./launch.sh stacked --net=dcgan --discriminator=quarter --packing=2
    ./launch.sh stacked --dataset=stacked_mnist --net=dcgan

An image is three digits, one a channel, so there are 1000 modes, alike in probability.
A classifier of single digits says which one a sample is of: evaluated are the number of
modes that --samples samples reach and the KL of their shares to the uniform, which for
25,600 samples that are uniform is 0.0195 nats on average, not 0.

As in R3GAN: the relativistic loss, R1 and R2, no normalisation, rates that fall as a
cosine, and samples from the generator's average. Every update has digits of its own,
three of which, drawn at random, make a stack.
"""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from absl import flags

import cdgm
from cdgm import losses, metrics, models
from cdgm import data as datasets
from cdgm.data import Dataset
from experiments import image_judge
from experiments.harness import cli, execute, training_flags
from experiments.harness.errors import SettingError
from experiments.harness.report import figures
from experiments.harness.task import Experiment, Task
from experiments.judge import Judge
from experiments.scores import write_scores

BLOCKS = ('discriminator', 'generator')
_CHANNELS, _BETA2, _CHUNK = 3, 0.99, 256
_PENALTIES = {'r1': losses.r1, 'r2': losses.r2}

# Without channels, what an image is made of or looked at by: widths of hidden layers.
_WIDTHS = (256, 256)
_GENERATOR, _DISCRIMINATOR = (64, 32), (32, 64)


def define_flags(values: flags.FlagValues) -> None:
    """Add the flags of this experiment."""
    training_flags.define_flags(
        values, dataset='stacked_digits', order='discriminator,generator',
        learning_rate='3e-3', batch_size=384, epochs=5000, fresh_minibatches=True)
    values.set_default('evaluations', 10)
    image_judge.define_flags(values)
    own: dict[str, Any] = {'flag_values': values}
    flags.DEFINE_enum('net', 'perceptron', ['perceptron', 'dcgan', 'reference'],
                      'Both nets: hidden layers alone, convolutions, or those of the '
                      'experiment gan.', **own)
    flags.DEFINE_enum('discriminator', 'full', ['full', *models.SMALL_DISCRIMINATORS],
                      "Size of the dcgan's discriminator: a half or a quarter of that "
                      "which PacGAN's table 3 began with, too small on purpose.", **own)
    flags.DEFINE_enum('normalisation', 'none', models.NORMALISATIONS,
                      'Of the dcgan.', **own)
    flags.DEFINE_integer('packing', 1, 'Samples that the discriminator is shown at '
                         'once (PacGAN).', lower_bound=1, **own)
    flags.DEFINE_enum('loss', 'relativistic', sorted(losses.GAN_LOSSES),
                      'Of the two players.', **own)
    for name, place in (('r1', 'data'), ('r2', 'samples')):
        flags.DEFINE_float(name, 0.1, 'Strength gamma of the penalty gamma/2 '
                           f'E|grad D(x)|^2 at the {place}; 0 for none.',
                           lower_bound=0., **own)
    flags.DEFINE_float('average', 0.999, 'Decay of the average of the generator, in '
                       'its own steps; 0 for none.', lower_bound=0., upper_bound=1.,
                       **own)
    flags.DEFINE_bool('cosine', True, 'Let the rates fall to zero along a cosine.',
                      **own)
    flags.DEFINE_float('beta1', 0., "Adam's decay of the first moment.",
                       lower_bound=0., upper_bound=1., **own)
    flags.DEFINE_integer('latent', 64, 'Dimensions of the latent.', lower_bound=1,
                         **own)
    flags.DEFINE_integer('samples', 25_600, 'Samples whose modes are counted.',
                         lower_bound=1, **own)


def traced(values: flags.FlagValues) -> tuple[str, ...]:
    """Flags that only change numbers; a penalty of zero is not in the program."""
    return ('seed', 'learning_rate', *_penalties(values))


def hyper(values: flags.FlagValues) -> dict[str, Any]:
    """What the task is given beside the seed."""
    if values.batch_size % (_CHANNELS * values.packing):
        raise SettingError(
            f'--batch_size={values.batch_size} is of single digits, and three a stack '
            f'and --packing={values.packing} stacks a pack do not divide it; give a '
            f'multiple of {_CHANNELS * values.packing}.')
    return {'rates': _order(values).rates, **_penalties(values)}


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
    height, width = data.train.examples.shape[1:3]
    model = _model(values, (height, width, _CHANNELS))
    judge = image_judge.image_judge(values, data)
    game = _game(values, model, _penalties(values))
    cycles = training_flags.read_cycles(values, len(data.train.examples))

    def descent(hyper):
        played = _game(values, model, hyper)
        return cdgm.block_descent({
            name: cdgm.Block(name, played.losses[name],
                             _optimiser(values, hyper['rates'][name], cycles, name))
            for name in BLOCKS})

    def model_state(key):
        return game.model_state(jax.eval_shape(model.init, key), key)

    def evaluate(params, *state_and_hyper):
        state = state_and_hyper[0] if game.stateful else None
        counts = _count_samples(values, model, judge, partial(
            game.sample, params, state))
        return {'reverse_kl': metrics.reverse_kl(counts),
                'modes': jnp.sum(counts > 0).astype(float)}

    return Task(
        init=model.init, descent=descent, order=_order(values),
        examples=jnp.asarray(data.train.examples),
        prepare=lambda digits, key: datasets.stack(digits), evaluate=evaluate,
        draw=partial(_draw, values, data, model, judge, game),
        batch_size=values.batch_size, fresh=values.fresh_minibatches,
        model_state=model_state if game.stateful else None)


def _model(values: flags.FlagValues, shape: tuple[int, ...]):
    """The two nets, by --net."""
    if values.net == 'reference':
        changed = [name for name in ('discriminator', 'normalisation', 'packing')
                   if values[name].value != values[name].default]
        if changed:
            raise SettingError(f'--{changed[0]}={values[changed[0]].value} does not go '
                               'with --net=reference, which is as it is; take '
                               '--net=dcgan.')
        return models.gan(shape, values.latent)
    if values.net == 'perceptron':
        if values.discriminator != 'full' or values.normalisation != 'none':
            raise SettingError('--discriminator and --normalisation are of '
                               'convolutions, and --net=perceptron has none; take '
                               '--net=dcgan.')
        return models.dcgan(
            shape, values.latent, (), (), generator_widths=_WIDTHS,
            discriminator_widths=_WIDTHS, packing=values.packing)
    return models.dcgan(
        shape, values.latent, _GENERATOR,
        models.SMALL_DISCRIMINATORS.get(values.discriminator, _DISCRIMINATOR),
        normalisation=values.normalisation, packing=values.packing)


def _game(values: flags.FlagValues, model, hyper) -> losses.GanGame:
    """What the players minimise, with penalties of the strengths that are given."""
    return losses.gan_game(
        model.generate, model.discriminate, values.latent,
        losses.GAN_LOSSES[values.loss],
        penalties=[penalty(hyper[name]) for name, penalty in _PENALTIES.items()
                   if name in hyper],
        packing=values.packing, average=values.average or None,
        nets_state=getattr(model, 'nets_state', None))


def _optimiser(values: flags.FlagValues, rate, cycles: int, name: str
               ) -> optax.GradientTransformation:
    """Adam, whose rate falls over the block's own updates."""
    visits = cycles * max(_order(values).updates.count(name), 1)
    fall = optax.cosine_decay_schedule(1., visits) if values.cosine else (
        lambda count: 1.)
    return optax.chain(
        optax.scale_by_adam(values.beta1, _BETA2),
        optax.scale_by_learning_rate(lambda count: rate * fall(count)))


def _count_samples(values: flags.FlagValues, model, judge: Judge, sample
                   ) -> jax.Array:
    """Modes of samples of one noise, so that runs compare, int32[1000]."""
    latent = jax.random.normal(jax.random.key(1), (values.samples, model.latent_size))
    return _count(judge, sample, latent)


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


def _draw(values: flags.FlagValues, data: Dataset, model, judge: Judge,
          game: losses.GanGame, folder: Path, params: Any, state: Any = None) -> None:
    """Write samples, the histogram of their modes, and scores.json."""
    latent = jax.random.normal(jax.random.key(2), (64, model.latent_size))
    images = jax.jit(game.sample)(params, state, latent)
    figures.grid(folder / 'samples.png', images)
    figures.grid(folder / 'channels.png', _channels(images[:24]), columns=12)
    count = jax.jit(lambda params, state: _count_samples(
        values, model, judge, partial(game.sample, params, state)))
    test = datasets.draw_stacked(data.test, jax.random.key(3), values.samples)
    counts = {
        'samples': count(params, state),
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


def _penalties(values: flags.FlagValues) -> dict[str, float]:
    return {name: getattr(values, name) for name in _PENALTIES
            if getattr(values, name)}


def _order(values: flags.FlagValues) -> training_flags.UpdatePlan:
    return training_flags.read_order(values, BLOCKS, whole=('simultaneous',))


EXPERIMENT = Experiment(
    'stacked', {'reverse_kl': 'lower', 'modes': 'higher'}, define_flags, traced, hyper,
    task, {'samples.png': 'Samples', 'channels.png': 'Channels of 24 samples',
           'modes.png': 'Images of each mode', 'scores.txt': 'Scores'}, load)
main = partial(execute.main, EXPERIMENT)

if __name__ == '__main__':
    cli.run(define_flags, main, __doc__)
