"""Train a variational autoencoder, its blocks in any order.

    ./launch.sh vae                                   # digits, 30 seconds
    ./launch.sh vae --order=joint                     # ordinary training
    ./launch.sh vae --order=decoder,encoder --seeds=3
    ./launch.sh vae --dataset=binarized_mnist --hidden=500 --epochs=10
    ./launch.sh vae --likelihood=learned_gaussian     # grey images, one learned sigma
    ./launch.sh vae --likelihood=learned_gaussian --order=sigma,decoder,encoder
    ./launch.sh vae --likelihood=learned_gaussian --order=sigma,rest*10
    ./launch.sh vae --net=conv --hidden=16 --hidden=32 --free_bits=0.1
    ./launch.sh vae --net=pixel --hidden=16 --order=joint --final_samples=100
    ./launch.sh vae --objective=split                 # why not: see docs/objectives.md

Both blocks, encoder and decoder, descend -ELBO, reconstruction + beta KL in nats, or
each what --objective says. On one minibatch with one noise key the decoder moves first
and the encoder meets the new decoder; the encoder's forward pass serves both.

Under a Gaussian likelihood an order may also name sigma, the likelihood's one scale,
and last_layer, the decoder's: blocks of their own then, which move to their exact
minimum over the minibatches that have been, see `cdgm.moves.least_squares`. `rest` is
encoder and decoder at once, but for these.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags

from cdgm import losses, metrics
from cdgm.data import Dataset, binarize
from experiments.harness import cli, execute, training_flags
from experiments.harness.task import Experiment, Task, check_images
from experiments.image_vae import blocks, pictures, report
from experiments.image_vae.nets import LEARNED, NETS, SCALED, Nets, build
from experiments.image_vae.signals import WATCHED, signals

TOLD = 2000  # test images, for what is told of the latent in the course of training


def define_flags(values: flags.FlagValues) -> None:
    """Add the flags of this experiment."""
    training_flags.define_flags(values, order='decoder,encoder', learning_rate='1e-3',
                                batch_size=128, epochs=100, fresh_minibatches=False)
    own: dict[str, Any] = {'flag_values': values}
    flags.DEFINE_multi_integer('hidden', [128], 'Width of a hidden layer of encoder '
                               'and decoder; repeat for more layers.', lower_bound=1,
                               **own)
    flags.DEFINE_integer('latent', 20, 'Dimensions of the latent.', lower_bound=1,
                         **own)
    flags.DEFINE_float('beta', 1., 'Weight of the KL.', lower_bound=0., **own)
    flags.DEFINE_integer('samples', 1, 'Samples of the latent for each image.',
                         lower_bound=1, **own)
    # None, not the default itself: a trial keeps the name that it had without the flag.
    flags.DEFINE_enum('net', None, NETS, 'Of encoder and decoder; the hidden of conv '
                      'and pixel are the channels of their convolutions, and the '
                      'decoder of pixel sees the pixels before.', **own)
    flags.DEFINE_integer('pixel_layers', None, 'Convolutions of 3 x 3 that the decoder '
                         'of --net=pixel has after its first, of 5 x 5; 1 unless '
                         'given.', lower_bound=0, **own)
    flags.DEFINE_enum('likelihood', 'bernoulli', ['bernoulli', *SCALED], 'Of the '
                      'pixels. Grey images are binarised anew at each visit for '
                      'bernoulli; logistic is of 256 levels; the scale of '
                      'learned_gaussian and logistic is a parameter of the decoder.',
                      **own)
    flags.DEFINE_float('sigma', 0.1, 'Standard deviation of the gaussian likelihood; '
                       'where it is learned, its start.', lower_bound=1e-6, **own)
    flags.DEFINE_float('free_bits', None, 'Nats that each dimension of the latent may '
                       'carry unpunished.', lower_bound=0., **own)
    blocks.define_flags(values)
    flags.DEFINE_integer('final_samples', None, 'Importance samples of an evaluation '
                         'at the end, evaluation.txt, with what the doctor says; then '
                         'the information and the active units are followed over the '
                         'training, too. None unless given.', lower_bound=0, **own)


def traced(values: flags.FlagValues) -> tuple[str, ...]:
    """Flags that only change numbers."""
    # A sigma that is learned starts in the parameters, which are made of the flags.
    given = {'sigma': values.likelihood not in LEARNED,
             'sigma_rate': values.sigma_rate is not None}
    return ('seed', 'learning_rate', 'beta', *(name for name in given if given[name]))


def hyper(values: flags.FlagValues) -> dict[str, Any]:
    """What the task is given beside the seed."""
    return {'rates': blocks.read_order(values).rates,
            **{name: getattr(values, name) for name in traced(values)[2:]}}


def task(values: flags.FlagValues, data: Dataset) -> Task:
    """The model, its loss, and its blocks."""
    check_images(data)
    order = blocks.read_order(values)
    blocks.check(values, order)
    bernoulli = values.likelihood == 'bernoulli'
    losses.check_support('gaussian' if 'gaussian' in values.likelihood else
                         values.likelihood, data.train.examples)
    nets = build(values, data.train.examples.shape[1:])
    model = nets.model

    images = jnp.asarray(data.train.examples)

    def likelihood(hyper):
        return nets.log_likelihood(hyper.get('sigma'))

    def loss(hyper, **terms):
        return partial(losses.neg_elbo, encode=model.encode, decode=model.decode,
                       beta=hyper['beta'], num_samples=values.samples,
                       log_likelihood=likelihood(hyper), **terms)

    def descent(hyper):
        elbo = loss(hyper, free_bits=values.free_bits or None)
        return blocks.descent(values, order, model, elbo, hyper, images)

    test_key = jax.random.key(0)  # one noise for every run, so that runs compare
    test = jnp.asarray(data.test.examples)
    if bernoulli:
        test = binarize(test, test_key)
    told = {}
    if order.choice is not None:  # who might listen
        watched = jnp.asarray((data.validation or data.train).examples[:WATCHED])
        told = signals(model, binarize(watched, test_key) if bernoulli else watched,
                       test_key, likelihood)

    def evaluate(params, hyper):
        neg_elbo = metrics.dataset_neg_elbo(params, test, test_key, batch_size=500,
                                            neg_elbo=loss(hyper)).mean
        if not values.final_samples:  # seconds on a large set, and nobody asks
            return {'neg_elbo': neg_elbo}
        mean, logvar = model.encode(params, test[pictures.spread(len(test), TOLD)])
        return {'neg_elbo': neg_elbo, 'mutual_information': metrics.mutual_information(
                    mean, logvar, test_key, batch_size=500).mean,
                'active_units': metrics.active_units(mean).astype(jnp.float32)}

    def draw(folder, params):
        pictures.draw(folder, nets, params, test, data.test.labels)
        if values.final_samples:
            report.write_report(folder, final_report(values, nets, params, test))

    return Task(
        init=model.init, descent=descent, order=order,
        examples=images, prepare=binarize if bernoulli else lambda images, key: images,
        evaluate=evaluate, draw=draw, batch_size=values.batch_size,
        fresh=values.fresh_minibatches,
        signals=told)


def final_report(values: flags.FlagValues, nets: Nets, params, test
                 ) -> dict[str, float]:
    """All that is known of a model at the end, on the test images."""
    standardise = {
        'bernoulli': None, 'logistic': None,
        'gaussian': lambda decoded, x: (x - decoded) / values.sigma,
        'learned_gaussian': lambda decoded, x: (x - decoded[0]) * jnp.exp(-decoded[1])}
    return metrics.evaluate_vae(
        params, test, jax.random.key(1), encode=nets.model.encode,
        decode=nets.model.decode, log_likelihood=nets.log_likelihood(values.sigma),
        standardise=standardise[values.likelihood], progress=report.say,
        betas=report.BETAS, refinement=report.REFINEMENT,
        num_samples=values.final_samples, chunk_size=min(values.final_samples, 250))


EXPERIMENT = Experiment(
    'vae', {'neg_elbo': 'lower', 'mutual_information': 'higher',
            'active_units': 'higher'}, define_flags, traced, hyper, task,
    {**pictures.ARTIFACTS, **report.ARTIFACTS})
main = partial(execute.main, EXPERIMENT)

if __name__ == '__main__':
    cli.run(define_flags, main, __doc__)
