"""Burda's nets with any bound, prior and order: test NLL and active units.

    ./launch.sh iwae_table                                     # digits, two minutes
    ./launch.sh iwae_table --samples=5 --estimator=dreg        # IWAE, K = 5
    ./launch.sh iwae_table --prior=vamp --order=decoder,encoder,prior
    ./launch.sh iwae_table --dataset=binarized_mnist --epochs=50 --order=joint
    ./launch.sh iwae_sweep                                     # the table on digits

The loss of every block is -log 1/K sum_k p(x, z_k) / q(z_k|x), of K = --samples; with
K = 1 that is -ELBO. A VampPrior's pseudo-inputs are a block of their own, and begin at
training images, for all alike they keep the latent nearly empty on static MNIST. Give
it a small rate (5e-4) or --max_norm there: a spike of the gradient ends its posterior
for good. Grey images are binarised anew at each visit. Protocol: batch 100, Adam (eps
1e-4) with a rate that falls to zero along a cosine; the paper's takes 3280 epochs of
batch 20.

In the course of training `nll` is taken with --nll_samples on the first --nll_images
test images, for the curves; at the end with --final_samples on --final_images, for the
table: evaluation.json and evaluation.txt, with what the doctor says.

Reference, static MNIST, one layer, K = 5000: 88.71 for K = 1, 87.63 for IWAE with 5,
87.10 with 50 (Burda et al. 2016, appendix); VampPrior with another net 85.57 (Tomczak &
Welling 2018). On digits expect 23.4 nats after 150 epochs, and 23.0 with
--samples=5 --estimator=dreg.
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
from experiments.harness.errors import SettingError
from experiments.harness.report import figures
from experiments.harness.task import Experiment, Task, check_images
from experiments.image_vae.pictures import spread
from experiments.image_vae.report import (
    ARTIFACTS, BETAS, REFINEMENT, say, write_report)

LAYERS = {'1': models.ONE_LAYER, '2': models.TWO_LAYERS}


def define_flags(values: flags.FlagValues) -> None:
    """Add the flags of this experiment."""
    training_flags.define_flags(values, order='decoder,encoder', learning_rate='1e-3',
                                batch_size=100, epochs=150, fresh_minibatches=False)
    own: dict[str, Any] = {'flag_values': values}
    flags.DEFINE_enum('layers', '1', sorted(LAYERS), 'Layers of latents.', **own)
    flags.DEFINE_integer('samples', 1, 'K of the training bound.', lower_bound=1, **own)
    flags.DEFINE_enum('estimator', 'pathwise', list(losses.importance.ESTIMATORS),
                      "Of the encoder's gradient.", **own)
    flags.DEFINE_enum('prior', 'normal', ['normal', 'vamp'], 'p(z) of the top latent; '
                      'vamp has a block of its own, prior.', **own)
    flags.DEFINE_integer('components', 100, 'Pseudo-inputs of the vamp prior.',
                         lower_bound=1, **own)
    flags.DEFINE_enum('pseudo_inputs', 'images', ['images', 'noise'], 'Where those '
                      'begin: at training images, or all alike.', **own)
    flags.DEFINE_float('max_norm', None, "Clip each block's gradient to this norm.",
                       lower_bound=1e-3, **own)
    flags.DEFINE_integer('nll_samples', 100, 'Of the NLL in the course of training.',
                         lower_bound=1, **own)
    flags.DEFINE_integer('nll_images', 500, 'Test images for it.', lower_bound=2, **own)
    flags.DEFINE_integer('final_samples', 5000, 'Of the NLL at the end.', lower_bound=1,
                         **own)
    flags.DEFINE_integer('final_images', 10_000, 'Test images for it, at most.',
                         lower_bound=2, **own)


def traced(values: flags.FlagValues) -> tuple[str, ...]:
    """Flags that only change numbers."""
    return 'seed', 'learning_rate'


def hyper(values: flags.FlagValues) -> dict[str, Any]:
    """What the task is given beside the seed."""
    return {'rates': _order(values).rates}


def _blocks(values: flags.FlagValues) -> tuple[str, ...]:
    return ('encoder', 'decoder') + (('prior',) if values.prior == 'vamp' else ())


def _order(values: flags.FlagValues) -> training_flags.UpdatePlan:
    return training_flags.read_order(values, _blocks(values))


def build(values: flags.FlagValues, data: Dataset
          ) -> tuple[models.HierarchicalVAE, losses.LatentModel]:
    """The nets, their prior's parameters among them, and how the bounds see them."""
    shape = data.train.examples.shape[1:]
    net = models.burda_vae(shape, LAYERS[values.layers],
                           data.train.examples.mean(axis=0))
    if values.prior == 'normal':
        return net, losses.LatentModel(net.encode, net.decode, between=net.between)
    if len(net.encode) > 1:
        raise SettingError('--prior=vamp mixes the posteriors of one layer; give '
                           '--layers=1.')
    images = data.train.examples[:values.components]
    begin = {'mean': images} if values.pseudo_inputs == 'images' else {}
    if begin and len(images) < values.components:
        raise SettingError(f'--components={values.components}, and there are '
                           f'{len(images)} to train on; ask for fewer or give '
                           '--pseudo_inputs=noise.')
    vamp = models.vamp_prior(net.encode[0], shape, values.components, **begin)

    def init(key):
        return {**net.init(key), 'prior': vamp.init(jax.random.fold_in(key, 0))}

    return net._replace(init=init), losses.LatentModel(
        net.encode, net.decode, log_prior=vamp.log_prior)


def log_weight(model: losses.LatentModel, params, x, key) -> jax.Array:
    """log p(x, z) / q(z|x) of one z, for `cdgm.metrics.importance_nll`."""
    samples = losses.sample_posterior(model, params, x, key)
    return losses.log_weights(model, params, x, samples).total


def task(values: flags.FlagValues, data: Dataset) -> Task:
    """The model, its bound, and its blocks."""
    check_images(data)
    order = _order(values)
    net, model = build(values, data)
    loss = partial(losses.neg_iwae, model=model, num_samples=values.samples,
                   estimator=values.estimator)
    examples = jnp.asarray(data.train.examples)
    cycles = training_flags.read_cycles(values, len(examples))

    def descent(hyper):
        def tx(rate):
            fall = optax.cosine_decay_schedule(1., cycles)
            adam = optax.adam(lambda count: rate * fall(count), eps=1e-4)
            return adam if values.max_norm is None else optax.chain(
                optax.clip_by_global_norm(values.max_norm), adam)
        leaves = {'joint': ''} if order.blocks == ('joint',) else {
            name: name for name in order.blocks}
        return cdgm.block_descent({
            name: cdgm.Block(selector, loss, tx(hyper['rates'][name]))
            for name, selector in leaves.items()})

    test_key = jax.random.key(0)  # one noise for every run, so that runs compare
    test = binarize(data.test.examples, test_key)
    losses.check_support('binary', test)
    some = test[spread(len(test), values.nll_images)]

    def evaluate(params, hyper):
        def mean_nll(samples):
            return jnp.mean(metrics.importance_nll(
                params, some, test_key, log_weight=partial(log_weight, model),
                num_samples=samples, chunk_size=min(samples, 50), batch_size=100))
        mean, _ = metrics.encode_all(params, some, encode=net.encode[0],
                                     batch_size=500)
        return {'nll': mean_nll(values.nll_samples), 'neg_elbo': mean_nll(1),
                'active_units': metrics.active_units(mean).astype(jnp.float32)}

    def draw(folder, params):
        latent = jax.random.normal(jax.random.key(0), (64, net.latent_sizes[-1]))
        if values.prior == 'vamp':
            vamp = models.vamp_prior(net.encode[0], test.shape[1:], values.components)
            latent = vamp.sample(params, jax.random.key(0), 64)
        latent = losses.sample_prior(model, params, latent, jax.random.key(1))
        figures.grid(folder / 'samples.png',
                     jax.nn.sigmoid(jax.jit(net.decode)(params, latent)))
        report = final_report(values, net, model, params, test)
        write_report(folder, report)

    return Task(
        init=net.init, descent=descent, order=order, examples=examples,
        prepare=binarize, evaluate=evaluate, draw=draw, batch_size=values.batch_size,
        fresh=values.fresh_minibatches)


def final_report(values: flags.FlagValues, net: models.HierarchicalVAE,
                 model: losses.LatentModel, params, test) -> dict[str, float]:
    """All that is known of a model at the end; of two layers the NLL and the units."""
    images = test[spread(len(test), values.final_images)]
    sizes: dict[str, Any] = {'num_samples': values.final_samples,
                             'chunk_size': min(values.final_samples, 250)}
    if len(net.encode) == 1:
        vamp = values.prior == 'vamp'
        return metrics.evaluate_vae(
            params, images, jax.random.key(1), encode=net.encode[0], decode=net.decode,
            log_likelihood=model.log_likelihood, progress=say, **sizes,
            log_prior=model.log_prior if vamp else None, betas=() if vamp else BETAS,
            refinement=REFINEMENT)
    nll = metrics.mean_and_error(metrics.importance_nll(
        params, images, jax.random.key(1), log_weight=partial(log_weight, model),
        batch_size=100, progress=partial(say, 'nll'), **sizes))
    mean, _ = metrics.encode_all(params, images, encode=net.encode[0], batch_size=500)
    return {'nll': float(nll.mean), 'nll_error': float(nll.error),
            'nll_samples': float(values.final_samples), 'examples': float(len(images)),
            'active_units': float(metrics.active_units(mean)),
            'latent_size': float(mean.shape[-1])}


EXPERIMENT = Experiment(
    'iwae_table', {'nll': 'lower', 'neg_elbo': 'lower', 'active_units': 'higher'},
    define_flags, traced, hyper, task,
    {'samples.png': 'Samples', **ARTIFACTS})
main = partial(execute.main, EXPERIMENT)

if __name__ == '__main__':
    cli.run(define_flags, main, __doc__)
