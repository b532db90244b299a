"""Train a VAE-GAN: three blocks, three losses, one block descent.

    ./launch.sh vaegan                                    # digits, 2 minutes
    ./launch.sh vaegan --model=vae                        # the same nets, two of them
    ./launch.sh vaegan --model=gan
    ./launch.sh vaegan --order=simultaneous               # all three from one point
    ./launch.sh vaegan --dataset=mnist --epochs=3

The encoder descends KL and the distance of an image from its reconstruction as the
discriminator's features see it, the decoder --gamma times that distance and the GAN's
loss, the discriminator its own (Larsen et al. 2016). In place of the VAE-GAN there may
be a VAE of the same encoder and decoder, with a Bernoulli likelihood of pixels, or a
GAN of the same decoder and discriminator. All are judged by the features of a
classifier that is trained on the data.
"""

import copy
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from absl import flags

import cdgm
from cdgm import losses, models
from cdgm.data import Dataset
from experiments import gan, gan_doctor, gan_scores
from experiments.harness import cli, execute, training_flags
from experiments.harness.report import figures
from experiments.harness.task import Experiment, Task, check_images
from experiments.judge import Judge

# In the order of a cycle unless --order says otherwise.
BLOCKS = {'vaegan': ('encoder', 'decoder', 'discriminator'),
          'vae': ('encoder', 'decoder'), 'gan': ('decoder', 'discriminator')}
_SHOWN, _PART = 32, 250


def define_flags(values: flags.FlagValues) -> None:
    """Add the flags of this experiment."""
    training_flags.define_flags(
        values, order=None, learning_rate='1e-3', batch_size=64, epochs=150,
        fresh_minibatches=False)
    values.set_default('evaluations', 10)
    own: dict[str, Any] = {'flag_values': values}
    gan.define_score_flags(own)
    values.set_default('samples', 1000)
    flags.DEFINE_enum('model', 'vaegan', list(BLOCKS), 'Which of the three nets there '
                      'are.', **own)
    flags.DEFINE_float('gamma', 1., "Weight of the likeness in the VAE-GAN's decoder.",
                       lower_bound=0., **own)
    flags.DEFINE_float('beta', 0.05, 'Weight of the KL.', lower_bound=0., **own)
    gan.define_player_flags(own)
    flags.DEFINE_integer('latent', 32, 'Dimensions of the latent.', lower_bound=1,
                         **own)
    flags.DEFINE_integer('width', 128, 'Width of the features, and of the one hidden '
                         'layer of encoder and decoder.', lower_bound=1, **own)
    flags.DEFINE_multi_integer('channels', [32, 64], 'Channels of a convolution; '
                               'repeat for more.', lower_bound=1, **own)


def traced(values: flags.FlagValues) -> tuple[str, ...]:
    """Flags that only change numbers; a penalty of zero is not in the program."""
    return ('seed', 'learning_rate', 'gamma', 'beta', *(['r1'] if values.r1 else []))


def hyper(values: flags.FlagValues) -> dict[str, Any]:
    """What the task is given beside the seed."""
    return {'rates': _order(values).rates, 'gamma': values.gamma, 'beta': values.beta,
            **({'r1': values.r1} if values.r1 else {})}


def task(values: flags.FlagValues, data: Dataset) -> Task:
    """The nets, a loss for each block, and what samples are judged to be."""
    check_images(data)
    model = models.vaegan(data.train.examples.shape[1:], values.latent, values.channels,
                          values.width)
    judge = gan_scores.image_judge(data, values.samples, values.classifier_epochs,
                                   values.classifier_accuracy)
    order, test = _order(values), jnp.asarray(data.test.examples)

    def init(key):
        return {name: params for name, params in model.init(key).items()
                if name in order.blocks}

    def descent(hyper):
        made = block_losses(values.model, model, hyper)
        return cdgm.block_descent({
            name: cdgm.Block(name, made[name], optax.adam(
                hyper['rates'][name], b1=values.beta1)) for name in order.blocks})

    def evaluate(params, hyper):
        scores = judge.quick_scores(_samples(values, model, params))
        if 'encoder' in params:
            rebuilt = _rebuilt(model, params, test)
            scores['pixel_error'] = jnp.mean(jnp.sum((rebuilt - test) ** 2, (1, 2, 3)))
        return scores

    return Task(
        init=init, descent=descent, order=order,
        examples=jnp.asarray(data.train.examples), prepare=lambda images, key: images,
        evaluate=evaluate, draw=partial(_draw, values, model, judge, data, test),
        batch_size=values.batch_size, fresh=values.fresh_minibatches)


def block_losses(name: str, model: models.VAEGAN, hyper: dict[str, Any]
                 ) -> dict[str, cdgm.LossFn]:
    """What each block descends.

    Args:
      name: a key of `BLOCKS`.
      model: the nets.
      hyper: 'gamma', 'beta' and, if there is to be such a penalty, 'r1'.
    """
    penalties = [losses.r1(hyper['r1'])] if 'r1' in hyper else []
    if name == 'vae':
        loss = partial(losses.neg_elbo, encode=model.encode,
                       decode=model.decode_logits, beta=hyper['beta'])
        return {'encoder': loss, 'decoder': loss}
    if name == 'gan':
        game = losses.gan_game(
            model.decode, lambda params, x: model.discriminate(params, x)[0],
            model.latent_size, losses.non_saturating, penalties=penalties)
        return {'decoder': game.losses['generator'],
                'discriminator': game.losses['discriminator']}
    return losses.vae_gan(
        losses.VaeGanNets(model.encode, model.decode, model.discriminate),
        gamma=hyper['gamma'], beta=hyper['beta'], penalties=penalties)


def _samples(values: flags.FlagValues, model: models.VAEGAN, params) -> jax.Array:
    """Of one noise, so that runs compare."""
    latent = jax.random.normal(jax.random.key(1), (values.samples, model.latent_size))
    return _by_parts(partial(model.decode, params), latent)


def _rebuilt(model: models.VAEGAN, params, images: jax.Array) -> jax.Array:
    """Images from the means of their posteriors."""
    return _by_parts(lambda x: model.decode(params, model.encode(params, x)[0]), images)


def _by_parts(function, examples: jax.Array) -> jax.Array:
    """Apply a function of a batch, some examples at a time."""
    return jax.lax.map(lambda x: function(x[None])[0], examples, batch_size=_PART)


def _draw(values: flags.FlagValues, model: models.VAEGAN, judge: Judge, data: Dataset,
          test: jax.Array, folder: Path, params: Any) -> None:
    """Write samples, reconstructions below their images, and scores."""
    samples = jax.jit(partial(_samples, values, model))(params)
    figures.grid(folder / 'samples.png', samples[:64])
    images = {'samples': samples}
    if 'encoder' in params:
        rebuilt = jax.jit(partial(_rebuilt, model))(params, test)
        figures.grid(folder / 'reconstructions.png', _in_turns(
            test[:_SHOWN], rebuilt[:_SHOWN], 16), columns=16)
        images['reconstructions, test split'] = rebuilt
    gan_scores.write_judgement(folder, judge, data, images, None)
    if 'discriminator' in params:
        _diagnose(values, model, folder, params,
                  jnp.asarray(data.train.examples[:values.batch_size]))


def _diagnose(values: flags.FlagValues, model: models.VAEGAN, folder: Path, params: Any,
              batch: jax.Array) -> None:
    """Write doctor.txt."""
    def points(params, batch, key):
        latent = jax.random.normal(key, (len(batch), model.latent_size))
        return batch, model.decode(params, latent)

    def logits(params, batch, key):
        real, fake = (model.discriminate(params, x)[0]
                      for x in points(params, batch, key))
        return real, fake

    gan_doctor.write(folder, block_losses(values.model, model, hyper(values)), params,
                     batch=batch, logits=logits, points=points)


def _in_turns(above, below, columns: int):
    """Rows of one and of the other, in turns."""
    rows = [part for at in range(0, len(above), columns)
            for part in (above[at:at + columns], below[at:at + columns])]
    return jnp.concatenate(rows)


def _order(values: flags.FlagValues) -> training_flags.UpdatePlan:
    blocks = BLOCKS[values.model]
    if values.order is None:
        values = copy.deepcopy(values)
        values['order'].value = ','.join(blocks)
    return training_flags.read_order(values, blocks, whole=('simultaneous',))


EXPERIMENT = Experiment(
    'vaegan', {'frechet': 'lower', 'density': 'higher', 'coverage': 'higher',
               'inception_score': 'higher', 'pixel_error': 'lower'},
    define_flags, traced, hyper, task,
    {'samples.png': 'Samples', 'reconstructions.png': 'Test images, and below them '
     'their reconstructions', 'scores.txt': 'Scores',
     'doctor.txt': 'What the doctor says'})
main = partial(execute.main, EXPERIMENT)

if __name__ == '__main__':
    cli.run(define_flags, main, __doc__)
