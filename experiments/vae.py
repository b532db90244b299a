"""Train a variational autoencoder, its blocks in any order.

    python -m experiments.vae                                   # digits, 30 seconds
    python -m experiments.vae --order=joint                     # ordinary training
    python -m experiments.vae --order=decoder,encoder --seeds=3
    python -m experiments.vae --dataset=binarized_mnist --hidden=500 --epochs=10

Both blocks, encoder and decoder, descend -ELBO, reconstruction + beta KL in nats. On
one minibatch with one noise key the decoder moves first and the encoder meets the new
decoder; the encoder's forward pass serves both.
"""

from functools import partial

import jax
import jax.numpy as jnp
import optax
from absl import flags

import cdgm
from cdgm import losses, metrics, models
from cdgm.data import binarize, load
from experiments import figures, launch, run_folder, settings
from experiments.study import Study
from experiments.training import train

BLOCKS = ('encoder', 'decoder')


def define_flags(values: flags.FlagValues) -> None:
    """Add the flags of this experiment."""
    settings.define_flags(values, order='decoder,encoder', learning_rate='1e-3',
                          batch_size=128, epochs=100, fresh_minibatches=False)
    own = {'flag_values': values}
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


def main(values: flags.FlagValues) -> None:
    """Train, evaluate and draw."""
    keys = jax.vmap(jax.random.key)(values.seed + jnp.arange(values.seeds))
    order = settings.read_order(values, BLOCKS, jax.random.key(values.seed))
    data = load(values.dataset, values.data_dir)
    sweeps = settings.read_sweeps(values, len(data.train.images))
    folder = run_folder.create(f'vae-{values.dataset}-{values.order}', values,
                               {'data': data.sha256})

    model = models.vae(data.train.images.shape[1:], values.latent, values.hidden)
    bernoulli = values.likelihood == 'bernoulli'
    loss = partial(
        losses.neg_elbo, encode=model.encode, decode=model.decode, beta=values.beta,
        num_samples=values.samples, log_likelihood=losses.bernoulli_log_likelihood
        if bernoulli else partial(losses.gaussian_log_likelihood, sigma=values.sigma))
    leaves = {'joint': ''} if order.updates == ('joint',) else {b: b for b in BLOCKS}
    descent = cdgm.block_descent({
        name: cdgm.Block(selector, loss, optax.adam(order.rates[name]))
        for name, selector in leaves.items()})

    test_key = jax.random.key(0)  # one noise for every run, so that runs compare
    test = jnp.asarray(data.test.images)
    if bernoulli:
        test = binarize(test, test_key)

    def evaluate(params):
        return {'neg_elbo': jax.vmap(lambda params: metrics.dataset_neg_elbo(
            params, test, test_key, neg_elbo=loss, batch_size=500).mean)(params)}

    params = train(Study(
        init=model.init, descent=descent, order=order,
        images=jnp.asarray(data.train.images),
        prepare=binarize if bernoulli else lambda images, key: images,
        evaluate=evaluate, batch_size=values.batch_size,
        fresh=values.fresh_minibatches, keys=keys),
        sweeps, values.evaluations, folder, 'vae', values.checkpoint_every,
        values.preempt_latency)
    folder.save_params(params)
    draw(folder, model, jax.tree.map(lambda x: x[0], params), test, bernoulli)
    figures.conclude(folder)
    folder.finish()


def draw(folder: run_folder.RunFolder, model: models.VAE, params, test: jax.Array,
         bernoulli: bool) -> None:
    """Draw the first seed's samples from the prior and reconstructions."""
    def pixels(latent):
        decoded = model.decode(params, latent)
        return jax.nn.sigmoid(decoded) if bernoulli else decoded

    latent = jax.random.normal(jax.random.key(0), (64, model.latent_size))
    figures.grid(folder.path / 'samples.png', pixels(latent))
    mean, _ = model.encode(params, test[:32])
    pairs = jnp.stack([test[:32], pixels(mean)], axis=1)
    figures.grid(folder.path / 'reconstructions.png',
                 pairs.reshape(-1, *test.shape[1:]), 'image and reconstruction in turn')


if __name__ == '__main__':
    launch.run(define_flags, main, __doc__)
