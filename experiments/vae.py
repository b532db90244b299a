"""Train a variational autoencoder, its blocks in any order.

    ./launch.sh vae                                   # digits, 30 seconds
    ./launch.sh vae --order=joint                     # ordinary training
    ./launch.sh vae --order=decoder,encoder --seeds=3
    ./launch.sh vae --dataset=binarized_mnist --hidden=500 --epochs=10

Both blocks, encoder and decoder, descend -ELBO, reconstruction + beta KL in nats. On
one minibatch with one noise key the decoder moves first and the encoder meets the new
decoder; the encoder's forward pass serves both.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from absl import flags

import cdgm
from cdgm import losses, metrics, models
from cdgm.data import Dataset, binarize
from experiments.harness import cli, execute, training_flags
from experiments.harness.report import figures
from experiments.harness.task import Experiment, Task, check_images

BLOCKS = ('encoder', 'decoder')


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
    flags.DEFINE_enum('likelihood', 'bernoulli', ['bernoulli', 'gaussian'],
                      'Of the pixels. Grey images are binarised anew at each visit for '
                      'bernoulli.', **own)
    flags.DEFINE_float('sigma', 0.1, 'Standard deviation of the gaussian likelihood.',
                       lower_bound=1e-6, **own)


def traced(values: flags.FlagValues) -> tuple[str, ...]:
    """Flags that only change numbers."""
    return 'seed', 'learning_rate', 'beta', 'sigma'


def hyper(values: flags.FlagValues) -> dict[str, Any]:
    """What the task is given beside the seed."""
    return {'rates': _order(values).rates, 'beta': values.beta, 'sigma': values.sigma}


def task(values: flags.FlagValues, data: Dataset) -> Task:
    """The model, its loss, and its two blocks."""
    check_images(data)
    order = _order(values)
    model = models.vae(data.train.examples.shape[1:], values.latent, values.hidden)
    bernoulli = values.likelihood == 'bernoulli'

    def loss(hyper):
        return partial(
            losses.neg_elbo, encode=model.encode, decode=model.decode,
            beta=hyper['beta'], num_samples=values.samples,
            log_likelihood=losses.bernoulli_log_likelihood if bernoulli else partial(
                losses.gaussian_log_likelihood, sigma=hyper['sigma']))

    def descent(hyper):
        shared = loss(hyper)  # one loss, not two alike: blocks that share it share work
        leaves = {'joint': ''} if order.blocks == ('joint',) else {b: b for b in BLOCKS}
        return cdgm.block_descent({
            name: cdgm.Block(selector, shared, optax.adam(hyper['rates'][name]))
            for name, selector in leaves.items()})

    test_key = jax.random.key(0)  # one noise for every run, so that runs compare
    test = jnp.asarray(data.test.examples)
    if bernoulli:
        test = binarize(test, test_key)

    def evaluate(params, hyper):
        return {'neg_elbo': metrics.dataset_neg_elbo(
            params, test, test_key, neg_elbo=loss(hyper), batch_size=500).mean}

    @jax.jit
    def pictures(params):
        """Samples from the prior, and images with their reconstructions."""
        def pixels(latent):
            decoded = model.decode(params, latent)
            return jax.nn.sigmoid(decoded) if bernoulli else decoded

        latent = jax.random.normal(jax.random.key(0), (64, model.latent_size))
        mean, _ = model.encode(params, test[:32])
        pairs = jnp.stack([test[:32], pixels(mean)], axis=1)
        return pixels(latent), pairs.reshape(-1, *test.shape[1:])

    def draw(folder, params):
        samples, pairs = pictures(params)
        figures.grid(folder / 'samples.png', samples)
        figures.grid(folder / 'reconstructions.png', pairs)

    return Task(
        init=model.init, descent=descent, order=order,
        examples=jnp.asarray(data.train.examples),
        prepare=binarize if bernoulli else lambda images, key: images,
        evaluate=evaluate, draw=draw, batch_size=values.batch_size,
        fresh=values.fresh_minibatches)


def _order(values: flags.FlagValues) -> training_flags.UpdatePlan:
    return training_flags.read_order(values, BLOCKS)


EXPERIMENT = Experiment(
    'vae', {'neg_elbo': 'lower'}, define_flags, traced, hyper, task,
    {'samples.png': 'Samples',
     'reconstructions.png': 'Test images and their reconstructions'})
main = partial(execute.main, EXPERIMENT)

if __name__ == '__main__':
    cli.run(define_flags, main, __doc__)
