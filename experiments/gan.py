"""Train a generative adversarial network, its players in any order.

    ./launch.sh gan                                   # digits, 1 minute
    ./launch.sh gan --order=simultaneous              # both from one point
    ./launch.sh gan --order=discriminator*5,generator
    ./launch.sh gan --loss=wasserstein --r1=0 --gradient_penalty=10
    ./launch.sh gan --loss=relativistic --r2=1 --average=0.999 --samples=1000
    ./launch.sh gan --dataset=mnist --epochs=5

The discriminator and the generator have opposed losses, each a block with its own Adam
of beta1 = 0.5 (Radford et al. 2016). R1 (Mescheder et al. 2018) keeps the discriminator
smooth, without which these nets, having no normalisation, collapse to one image;
--r1=0 shows it. Every update draws a minibatch and noise of its own, unless
--nofresh_minibatches; what else papers leave open is a flag, see `losses.gan_game`.
With --samples, a classifier judges so many of them, beside real images and those of a
Gaussian mixture, in scores.txt at the end; doctor.txt says what ails the game.
"""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags

import cdgm
from cdgm import losses, metrics, models
from cdgm.data import Dataset
from experiments import gan_doctor, gan_scores
from experiments.harness import cli, execute, training_flags
from experiments.harness.errors import SettingError
from experiments.harness.report import figures
from experiments.harness.task import Experiment, Task, check_images

BLOCKS = ('discriminator', 'generator')

# Enough for a standard error well below the distances between runs.
_SAMPLES = 1000

# Of --net=dcgan, the generator's and the discriminator's; and a hidden layer of the
# generator that is told the class.
DCGAN_CHANNELS = (64, 32), (32, 64)
_TOLD_WIDTHS = (256,)

_ADAM, _FORGETFUL = 0.999, 0.99  # beta2: optax's, and that of longer games

# Strengths, which are given to the program where they are not 0.
_PENALTIES = {'r1': losses.r1, 'r2': losses.r2,
              'gradient_penalty': losses.gradient_penalty}
_STRENGTHS = (*_PENALTIES, 'label_smoothing', 'instance_noise', 'clip')


def define_flags(values: flags.FlagValues) -> None:
    """Add the flags of this experiment."""
    training_flags.define_flags(
        values, order='discriminator,generator', learning_rate='2e-4',
        batch_size=64, epochs=40, fresh_minibatches=True)
    # None: a trial keeps the name that it had without the flag.
    training_flags.define_cosine(values, default=None)
    own: dict[str, Any] = {'flag_values': values}
    flags.DEFINE_enum('loss', 'non_saturating', sorted(losses.GAN_LOSSES),
                      'Of the two players.', **own)
    flags.DEFINE_multi_integer('widths', [128, 256, 512, 1024], 'Width of a hidden '
                               'layer of the generator; repeat for more.',
                               lower_bound=1, **own)
    flags.DEFINE_multi_integer('channels', [64, 128, 128], 'Channels of a convolution '
                               'of the discriminator; repeat for more.', lower_bound=1,
                               **own)
    flags.DEFINE_integer('latent', 100, 'Dimensions of the latent.', lower_bound=1,
                         **own)
    define_player_flags(own)
    _define_net_flags(own)
    define_game_flags(own)
    define_score_flags(own)


def define_player_flags(own: dict[str, Any]) -> None:
    """Add what every experiment with a discriminator has."""
    flags.DEFINE_float('r1', 1., 'Strength gamma of the penalty gamma/2 E|grad D(x)|^2 '
                       'on the discriminator at the data (Mescheder et al. 2018, R1).',
                       lower_bound=0., **own)
    flags.DEFINE_float('beta1', 0.5, "Adam's decay of the first moment.",
                       lower_bound=0., upper_bound=1., **own)


def _define_net_flags(own: dict[str, Any]) -> None:
    """What the nets are, and what they are told."""
    flags.DEFINE_enum('net', None, ['reference', 'dcgan'], 'A perceptron against '
                      'convolutions, or convolutions both (see `models.dcgan`, of its '
                      'own widths and channels).', **own)
    flags.DEFINE_enum('normalisation', None, models.NORMALISATIONS, 'Of --net=dcgan.',
                      **own)
    flags.DEFINE_enum('frozen', None, losses.FROZEN, 'What the batch normalisation of '
                      'the net that does not move does: take the statistics of the '
                      'minibatch, keep them too, or go by the running ones.', **own)
    flags.DEFINE_bool('conditional', None, 'Tell both nets the class.', **own)


def define_game_flags(own: dict[str, Any]) -> None:
    """Add what `losses.gan_game` takes beside the nets and the loss."""
    # None, not the default itself: a trial keeps the name that it had without the flag.
    positive = {'lower_bound': 0., **own}
    flags.DEFINE_float('r2', None, 'Strength of the penalty as of --r1 at the '
                       'samples.', **positive)
    flags.DEFINE_float('gradient_penalty', None, 'Weight of WGAN-GP\'s penalty E(|grad '
                       'D| - 1)^2 between data and samples.', **positive)
    flags.DEFINE_integer('lazy', None, 'Compute the penalties at every so many steps '
                         'of the discriminator, with as many times the weight.',
                         lower_bound=1, **own)
    flags.DEFINE_float('clip', None, 'Half-width of the box that the discriminator\'s '
                       'weights are kept in.', **positive)
    flags.DEFINE_integer('spectral_norm', None, 'Power iterations a step by which the '
                         'discriminator\'s kernels are normalised.', lower_bound=1,
                         **own)
    flags.DEFINE_integer('packing', None, 'Images that the discriminator is shown at '
                         'once (PacGAN).', lower_bound=1, **own)
    flags.DEFINE_float('label_smoothing', None, 'How far below 1 the label of a real '
                       'image is.', upper_bound=1., **positive)
    flags.DEFINE_float('instance_noise', None, 'Standard deviation of noise on all '
                       'that the discriminator is shown.', **positive)
    flags.DEFINE_float('average', None, 'Decay of the average of the generator, from '
                       'which samples then come.', upper_bound=0.99999, **positive)
    flags.DEFINE_bool('shared_noise', None, 'The generator\'s steps take the noise of '
                      'the discriminator\'s last one; with no-, each step has its own '
                      'even on a shared minibatch.', **own)


def define_score_flags(own: dict[str, Any]) -> None:
    """Add the flags of the classifier that judges samples."""
    flags.DEFINE_integer('samples', None, 'Samples that a classifier judges; none '
                         'unless given.', lower_bound=10, **own)
    flags.DEFINE_integer('classifier_epochs', None, 'Training of the classifier.',
                         lower_bound=1, **own)
    flags.DEFINE_float('classifier_accuracy', None, 'What it must know of the test '
                       'split, 0.9 unless given, or nothing is trained.',
                       lower_bound=0., upper_bound=1., **own)


def traced(values: flags.FlagValues) -> tuple[str, ...]:
    """Flags that only change numbers; without a penalty there is no program for it."""
    return ('seed', 'learning_rate', *strengths(values))


def hyper(values: flags.FlagValues) -> dict[str, Any]:
    """What the task is given beside the seed."""
    return {'rates': _order(values).rates, **strengths(values)}


def task(values: flags.FlagValues, data: Dataset) -> Task:
    """The model, the losses of its players, and their blocks."""
    check_settings(values, data)
    labels = data.train.labels
    classes = int(np.max(labels)) + 1 if values.conditional and (
        labels is not None) else 0
    model = nets(values, data.train.examples.shape[1:], classes)
    game = play(values, model, strengths(values))
    order = _order(values)
    cycles = training_flags.read_cycles(values, len(data.train.examples))

    def asked(count):
        return jnp.arange(count) % classes if classes else None

    def sample(params, state, latent, average=True):
        return game.sample(params, state[0] if state else None, latent,
                           asked(len(latent)), average=average)

    evaluate, judge = _evaluation(values, data, sample, asked(_SAMPLES))
    latent = _latents(values, _SAMPLES)
    generate = jax.jit(lambda params, *state: sample(params, state, latent[:64]))

    def snapshot(params, *state):
        images = sample(params, state, latent[:gan_scores.SHOWN])
        return jnp.round(255 * images).astype(jnp.uint8)

    def draw(folder, params, *state):
        figures.grid(folder / 'samples.png', generate(params, *state))
        gan_doctor.write_game(
            folder, game, values.latent, params, *state,
            batch=jax.tree.map(lambda x: x[:values.batch_size], examples))
        gan_scores.draw_training(folder)
        if judge is not None:
            many = _latents(values, values.samples)
            made = {'samples': jax.jit(sample)(params, state, many)}
            if values.average is not None:
                made['without the average'] = jax.jit(partial(
                    sample, average=False))(params, state, many)
            gan_scores.write_judgement(folder, judge, data, made, asked(len(many)))

    images = jnp.asarray(data.train.examples)
    examples = (images, jnp.asarray(labels)) if classes else images

    def descent(hyper, penalised=True):
        descended = play(values, model, hyper, penalised).losses
        return cdgm.block_descent({name: cdgm.Block(
            name, descended[name], optimiser(
                values, hyper, name, order.updates_of(name, cycles), _ADAM))
            for name in BLOCKS})

    plain = Task(
        init=model.init, descent=descent, order=order, examples=examples,
        prepare=lambda images, key: images, evaluate=evaluate, draw=draw,
        batch_size=values.batch_size, fresh=values.fresh_minibatches,
        model_state=model_state(game, model), snapshot=snapshot)
    return charge_lazily(values, model, plain, descent)


def model_state(game: losses.GanGame, model: Any):
    """What `Task.model_state` is of a game: key -> model state, or None."""
    return (lambda key: game.model_state(jax.eval_shape(model.init, key), key)
            ) if game.stateful else None


def charge_lazily(values: flags.FlagValues, model: Any, plain: Task,
                  descent: Callable[..., cdgm.Descent]) -> Task:
    """Charge for the penalties as often as --lazy has them computed.

    Args:
      values: the flags.
      model: the nets.
      plain: with the penalties.
      descent: its own, which may be told penalised=False, as `play`.
    """
    if not values.lazy:
        return plain
    unpaid = play(values, model, strengths(values), penalised=False)
    free = plain._replace(descent=partial(descent, penalised=False),
                          model_state=model_state(unpaid, model))
    return plain._replace(costs=[(1 / values.lazy, plain), (1 - 1 / values.lazy, free)])


def check_settings(values: flags.FlagValues, data: Dataset) -> None:
    """Raise a SettingError where flags do not go together, or with the data."""
    check_images(data)
    try:
        losses.check_output_range(data.train.examples, 0, 1)
    except ValueError as error:
        raise SettingError(f'--dataset={data.name}: {error}') from None
    check_game(values)
    if values.conditional and data.train.labels is None:
        raise SettingError(f'--conditional tells the class, and --dataset={data.name} '
                           'has none; give --noconditional.')
    if values.conditional and values.normalisation:
        raise SettingError(f'--normalisation={values.normalisation} is of nets that '
                           'are told no class; leave it or --conditional out.')
    if values.normalisation and values.net != 'dcgan':
        raise SettingError(f'--normalisation={values.normalisation} is of --net=dcgan, '
                           'and the other nets have none; leave it out.')


def check_game(values: flags.FlagValues) -> None:
    """Raise a SettingError where what `define_game_flags` adds does not go together."""
    if values.batch_size % (values.packing or 1):
        raise SettingError(f'--batch_size={values.batch_size} does not divide into '
                           f'packs of --packing={values.packing}; give a multiple.')
    if values.conditional and (values.packing or 1) > 1:
        raise SettingError(f'--packing={values.packing} shows examples of several '
                           'classes at once, and --conditional tells one; give '
                           '--noconditional.')
    if values.lazy and not any(map(strengths(values).get, _PENALTIES)):
        raise SettingError(f'--lazy={values.lazy} is how often a penalty is computed, '
                           'and there is none; give one, as --r1=1.')


def nets(values: flags.FlagValues, image_shape: tuple[int, ...], classes: int) -> Any:
    """The two nets, which are told one of so many classes."""
    packing = values.packing or 1
    if classes:
        sizes = (_TOLD_WIDTHS, *DCGAN_CHANNELS) if values.net == 'dcgan' else (
            values.widths, (), values.channels)
        return models.conditional_gan(image_shape, classes, values.latent, *sizes)
    if values.net == 'dcgan':
        return models.dcgan(image_shape, values.latent, *DCGAN_CHANNELS,
                            normalisation=values.normalisation or 'none',
                            packing=packing)
    return models.gan(image_shape, values.latent, values.widths, values.channels,
                      packing)


def play(values: flags.FlagValues, model: Any, hyper: dict[str, Any],
         penalised: bool = True) -> losses.GanGame:
    """The losses of the two players, given the strengths that are not 0.

    Args:
      values: the flags.
      model: the nets.
      hyper: name -> strength; others are passed over.
      penalised: otherwise the penalties are left out, and nobody is to play it: it is
        for the FLOPs of a step at which they are not due.

    Raises:
      SettingError: flags do not go together.
    """
    if not penalised:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of a game that nobody plays
            return play(values, model, {name: each for name, each in hyper.items()
                                        if name not in _PENALTIES})
    try:
        return losses.gan_game(
            model.generate, model.discriminate, values.latent,
            losses.GAN_LOSSES[values.loss],
            penalties=[penalty(hyper[name], values.lazy or 1)
                       for name, penalty in _PENALTIES.items() if name in hyper],
            packing=values.packing or 1, shared_noise=values.shared_noise,
            label_smoothing=hyper.get('label_smoothing', 0.),
            instance_noise=hyper.get('instance_noise', 0.), average=values.average,
            conditional=bool(values.conditional), clipped='clip' in hyper,
            spectral_norm=values.spectral_norm or 0, **_normalised(values, model))
    except ValueError as error:
        raise SettingError(f'--loss={values.loss}: {error}') from None


def optimiser(values: flags.FlagValues, hyper: dict[str, Any], name: str, updates: int,
              beta2: float = _FORGETFUL) -> optax.GradientTransformation:
    """Adam, whose rate may fall over so many updates of the block."""
    rate = training_flags.falling(values, hyper['rates'][name], updates)
    return clipped(optax.adam(rate, values.beta1, beta2), hyper, name)


def clipped(tx: optax.GradientTransformation, hyper: dict[str, Any], name: str
            ) -> optax.GradientTransformation:
    """Keep the discriminator's weights in the box of --clip, if it is given."""
    if name == 'generator' or 'clip' not in hyper:
        return tx
    return optax.chain(tx, losses.weight_clipping(hyper['clip']))


def _evaluation(values: flags.FlagValues, data: Dataset, sample, labels):
    """What is measured in the course of training, and the judge of it, if any."""
    latent = _latents(values, _SAMPLES)
    test = jnp.asarray(data.test.examples[:_SAMPLES])
    test = test.reshape(len(test), -1)
    bandwidth = metrics.median_bandwidth(test[::2], test[1::2])
    judge = None if values.samples is None else gan_scores.image_judge(
        data, values.samples, values.classifier_epochs, values.classifier_accuracy)

    def evaluate(params, *rest):
        *state, _ = rest
        images = sample(params, state, latent)
        measured = {'mmd2': metrics.mmd2(images.reshape(_SAMPLES, -1), test, bandwidth)}
        if judge is None:
            return measured
        return measured | judge.quick_scores(images, labels)

    return evaluate, judge


def _latents(values: flags.FlagValues, count: int) -> jax.Array:
    """Latents that are one draw for every run, so that runs compare."""
    return jax.random.normal(jax.random.key(0), (count, values.latent))


def _normalised(values: flags.FlagValues, model: Any) -> dict[str, Any]:
    """What a game is told of nets that have a state, and what their flag says."""
    state = getattr(model, 'nets_state', None)
    return {} if state is None else {'nets_state': state,
                                     'frozen': values.frozen or 'batch'}


def strengths(values: flags.FlagValues) -> dict[str, float]:
    """What is given to the program of penalties and noise: those that are not 0."""
    return {name: getattr(values, name) for name in _STRENGTHS if getattr(values, name)}


def _order(values: flags.FlagValues) -> training_flags.UpdatePlan:
    return training_flags.read_order(values, BLOCKS, whole=('simultaneous',))


EXPERIMENT = Experiment(
    'gan', {'mmd2': 'lower', 'frechet': 'lower', 'density': 'higher',
            'coverage': 'higher', 'inception_score': 'higher', 'accuracy': 'higher'},
    define_flags, traced, hyper, task,
    {'samples.png': 'Samples', 'training.gif': 'Samples of one noise over the training',
     'training.png': 'The same, a row an evaluation', 'scores.txt': 'Scores',
     'doctor.txt': 'What the doctor says'})
main = partial(execute.main, EXPERIMENT)

if __name__ == '__main__':
    cli.run(define_flags, main, __doc__)
