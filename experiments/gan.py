"""Train a generative adversarial network, its players in any order.

    ./launch.sh gan                                   # digits, 1 minute
    ./launch.sh gan --order=simultaneous              # both from one point
    ./launch.sh gan --order=discriminator*5,generator
    ./launch.sh gan --dataset=mnist --epochs=5

The discriminator and the generator have opposed losses, each a block with its own Adam
of beta1 = 0.5 (Radford et al. 2016). R1 (Mescheder et al. 2018) keeps the discriminator
smooth, without which these nets, having no normalisation, collapse to one image;
--r1=0 shows it. Every update draws a minibatch and noise of its own, unless
--nofresh_minibatches.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from absl import flags

import cdgm
from cdgm import losses, metrics, models
from cdgm.data import Dataset
from experiments.harness import cli, execute, training_flags
from experiments.harness.report import figures
from experiments.harness.task import Experiment, Task, check_images

BLOCKS = ('discriminator', 'generator')

# Enough for a standard error well below the distances between runs.
_SAMPLES = 1000


def define_flags(values: flags.FlagValues) -> None:
    """Add the flags of this experiment."""
    training_flags.define_flags(
        values, order='discriminator,generator', learning_rate='2e-4',
        batch_size=64, epochs=40, fresh_minibatches=True)
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
    flags.DEFINE_float('r1', 1., 'Strength gamma of the penalty gamma/2 E|grad D(x)|^2 '
                       'on the discriminator at the data (Mescheder et al. 2018, R1).',
                       lower_bound=0., **own)
    flags.DEFINE_float('beta1', 0.5, "Adam's decay of the first moment.",
                       lower_bound=0., upper_bound=1., **own)


def traced(values: flags.FlagValues) -> tuple[str, ...]:
    """Flags that only change numbers; without R1 there is no program to give it to."""
    return ('seed', 'learning_rate', *(['r1'] if values.r1 else []))


def hyper(values: flags.FlagValues) -> dict[str, Any]:
    """What the task is given beside the seed."""
    return {'rates': _order(values).rates, **({'r1': values.r1} if values.r1 else {})}


def task(values: flags.FlagValues, data: Dataset) -> Task:
    """The model, the losses of its players, and their blocks."""
    check_images(data)
    model = models.gan(data.train.examples.shape[1:], values.latent, values.widths,
                       values.channels)
    nets: dict[str, Any] = {
        'generate': model.generate, 'discriminate': model.discriminate,
        'latent_size': values.latent, 'loss': losses.GAN_LOSSES[values.loss]}

    def descent(hyper):
        loss: dict[str, cdgm.LossFn] = {
            'discriminator': partial(losses.discriminator_loss, **nets),
            'generator': partial(losses.generator_loss, **nets)}
        if 'r1' in hyper:
            loss['discriminator'] = penalised(loss['discriminator'], model, hyper['r1'])
        return cdgm.block_descent({
            name: cdgm.Block(name, loss[name],
                             optax.adam(hyper['rates'][name], b1=values.beta1))
            for name in BLOCKS})

    latent = jax.random.normal(jax.random.key(0), (_SAMPLES, values.latent))
    test = jnp.asarray(data.test.examples[:_SAMPLES])
    test = test.reshape(len(test), -1)
    bandwidth = metrics.median_bandwidth(test[::2], test[1::2])

    def evaluate(params, hyper):
        samples = model.generate(params, latent).reshape(_SAMPLES, -1)
        return {'mmd2': metrics.mmd2(samples, test, bandwidth)}

    generate = jax.jit(model.generate)

    def draw(folder, params):
        figures.grid(folder / 'samples.png', generate(params, latent[:64]))

    return Task(
        init=model.init, descent=descent, order=_order(values),
        examples=jnp.asarray(data.train.examples), prepare=lambda images, key: images,
        evaluate=evaluate, draw=draw, batch_size=values.batch_size,
        fresh=values.fresh_minibatches)


def penalised(loss: cdgm.LossFn, model: models.GAN, strength) -> cdgm.LossFn:
    """Add R1, gamma/2 E|grad D(x)|^2 over the batch, to a discriminator's loss."""
    def with_r1(params, batch, key):
        value, terms = loss(params, batch, key)
        steepness = losses.squared_gradient(partial(model.discriminate, params), batch)
        return value + strength / 2 * steepness, terms

    return with_r1


def _order(values: flags.FlagValues) -> training_flags.UpdatePlan:
    return training_flags.read_order(values, BLOCKS, whole=('simultaneous',))


EXPERIMENT = Experiment(
    'gan', {'mmd2': 'lower'}, define_flags, traced, hyper, task,
    {'samples.png': 'Samples'})
main = partial(execute.main, EXPERIMENT)

if __name__ == '__main__':
    cli.run(define_flags, main, __doc__)
