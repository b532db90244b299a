"""Train a variational autoencoder, its blocks in any order.

    ./launch.sh vae                                   # digits, 30 seconds
    ./launch.sh vae --order=joint                     # ordinary training
    ./launch.sh vae --order=decoder,encoder --seeds=3
    ./launch.sh vae --dataset=binarized_mnist --hidden=500 --epochs=10
    ./launch.sh vae --likelihood=learned_gaussian     # grey images, one learned sigma
    ./launch.sh vae --likelihood=learned_gaussian --order=sigma,decoder,encoder
    ./launch.sh vae --net=conv --hidden=16 --hidden=32 --free_bits=0.1
    ./launch.sh vae --objective=split                 # why not: see docs/objectives.md

Both blocks, encoder and decoder, descend -ELBO, reconstruction + beta KL in nats, or
each what --objective says. On one minibatch with one noise key the decoder moves first
and the encoder meets the new decoder; the encoder's forward pass serves both.

Under a Gaussian likelihood an order may also name sigma, the likelihood's one scale,
and last_layer, the decoder's: blocks of their own then, which move to their exact
minimum over the minibatches that have been, see `cdgm.moves.least_squares`.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from absl import flags

import cdgm
from cdgm import losses, metrics, models
from cdgm.data import Dataset, binarize
from cdgm.moves import (
    LinearFit, layer_inputs, least_squares, log_scale_minimisation)
from experiments.harness import cli, execute, training_flags
from experiments.harness.errors import SettingError
from experiments.harness.report import figures
from experiments.harness.task import Experiment, Task, check_images
from experiments.vae_report import say, write_report

BLOCKS = ('encoder', 'decoder')
EXACT = ('sigma', 'last_layer')  # what an order may name beside them
LEAVES = {'sigma': 'decoder/log_scale', 'last_layer': 'decoder/logits'}
_EXACT_DECAY, _RIDGE = 0.9, 1e-4
# What the schedules that listen are told of: so many images.
_WATCHED, _CHUNK = 1000, 250
_REFINED = 100
_REFINEMENT = metrics.Refinement(steps=25, num_samples=2, final_samples=20)
_LITTLE = 0.1  # nats, below which a KL is none
SCALED = ('gaussian', 'learned_gaussian', 'logistic')  # likelihoods of grey images
LEARNED = ('learned_gaussian', 'logistic')  # of them, those that learn their scale


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
    flags.DEFINE_enum('net', None, ['mlp', 'conv'], 'Of encoder and decoder; the '
                      'hidden of conv are the channels of its convolutions.', **own)
    flags.DEFINE_enum('likelihood', 'bernoulli', ['bernoulli', *SCALED], 'Of the '
                      'pixels. Grey images are binarised anew at each visit for '
                      'bernoulli; logistic is of 256 levels; the scale of '
                      'learned_gaussian and logistic is a parameter of the decoder.',
                      **own)
    flags.DEFINE_float('sigma', 0.1, 'Standard deviation of the gaussian likelihood; '
                       'where it is learned, its start.', lower_bound=1e-6, **own)
    flags.DEFINE_float('free_bits', None, 'Nats that each dimension of the latent may '
                       'carry unpunished.', lower_bound=0., **own)
    flags.DEFINE_enum('objective', None, ['elbo', 'wake_sleep', 'split'], 'What the '
                      'blocks descend: the ELBO; the encoder -log q(z|x) of what the '
                      'decoder dreams; or the encoder the KL and the decoder the '
                      'reconstruction.', **own)
    flags.DEFINE_float('sigma_rate', None, 'Adam step size of the logarithm of the '
                       'learned scale, where it is not that of its block.',
                       lower_bound=0., **own)
    flags.DEFINE_float('exact_decay', None, 'What a minibatch weighs in the next exact '
                       'step of sigma or last_layer; 0.9 unless given.',
                       lower_bound=0., upper_bound=0.99999, **own)
    flags.DEFINE_float('ridge', None, 'Added to the mean square of the inputs of '
                       'last_layer; 1e-4 unless given.', lower_bound=0., **own)
    training_flags.define_cosine(values, default=None)
    flags.DEFINE_integer('final_samples', None, 'Importance samples of an evaluation '
                         'at the end, evaluation.txt, with what the doctor says; none '
                         'unless given.', lower_bound=0, **own)


def traced(values: flags.FlagValues) -> tuple[str, ...]:
    """Flags that only change numbers."""
    # A sigma that is learned starts in the parameters, which are made of the flags.
    given = {'sigma': values.likelihood not in LEARNED,
             'sigma_rate': values.sigma_rate is not None}
    return ('seed', 'learning_rate', 'beta', *(name for name in given if given[name]))


def hyper(values: flags.FlagValues) -> dict[str, Any]:
    """What the task is given beside the seed."""
    return {'rates': _order(values).rates,
            **{name: getattr(values, name) for name in traced(values)[2:]}}


def build(values: flags.FlagValues, shape: tuple[int, ...]) -> models.VAE:
    """The net; where the scale is learned, what it decodes is (mean, log scale)."""
    make = models.convolutional_vae if values.net == 'conv' else models.vae
    model = make(shape, values.latent, values.hidden)
    if values.likelihood not in LEARNED:
        return model

    def init(key):
        params = model.init(key)
        start = jnp.log(jnp.float32(values.sigma))
        return {**params, 'decoder': {**params['decoder'], 'log_scale': start}}

    def decode(params, latent):
        return model.decode(params, latent), params['decoder']['log_scale']

    return model._replace(init=init, decode=decode)


def log_likelihood(name: str, sigma):
    """(decoded, x) -> nats, of a likelihood by its name."""
    return {'bernoulli': losses.bernoulli_log_likelihood,
            'gaussian': partial(losses.gaussian_log_likelihood, sigma=sigma),
            'learned_gaussian': losses.learned_gaussian_log_likelihood,
            'logistic': losses.logistic_log_likelihood}[name]


def mean_pixels(name: str, decoded) -> jax.Array:
    """What is decoded, as an image in [0, 1]."""
    if name == 'bernoulli':
        return jax.nn.sigmoid(decoded)
    return decoded if name == 'gaussian' else decoded[0]


def objectives(values: flags.FlagValues, model: models.VAE, elbo) -> dict[str, Any]:
    """Block -> its loss; one loss, not two alike: blocks that share it share work."""
    if values.objective in (None, 'elbo'):
        return dict.fromkeys(('joint', *BLOCKS), elbo)
    if values.order == 'joint':
        raise SettingError(f'--objective={values.objective} gives each block a loss of '
                           'its own, and --order=joint has one block; name blocks, or '
                           'simultaneous.')
    if values.objective == 'split':
        return {'encoder': partial(losses.posterior_kl, encode=model.encode),
                'decoder': elbo}
    if values.likelihood != 'bernoulli':
        raise SettingError('--objective=wake_sleep dreams black and white pixels; give '
                           '--likelihood=bernoulli.')
    return {'decoder': elbo, 'encoder': partial(
        losses.sleep, encode=model.encode, decode=model.decode,
        latent_size=model.latent_size, sample_observation=lambda logits, key: (
            jax.random.bernoulli(key, jax.nn.sigmoid(logits)).astype(logits.dtype)))}


def fit_of_layer(values: flags.FlagValues, model: models.VAE, elbo):
    """The ELBO as a loss of `moves.least_squares`: with what the last layer fits."""
    def loss(params, batch, key):
        value, terms = elbo(params, batch, key)
        decoder = params['decoder']
        latent = losses.sample_latent(*model.encode(params, batch), key)

        def decode(layer):
            decoded = model.decode({**params, 'decoder': {**decoder, 'logits': layer}},
                                   latent)
            return mean_pixels(values.likelihood, decoded)

        return value, (LinearFit(layer_inputs(decode, **decoder['logits']), batch),
                       terms)

    return loss


def blocks(values: flags.FlagValues, pixels: int, order: training_flags.UpdatePlan,
           losses_of: dict[str, Any], model: models.VAE, adam) -> dict[str, cdgm.Block]:
    """Blocks of the order, with the loss of each and how it moves.

    Args:
      values: the flags.
      pixels: of an image.
      order: what blocks there are.
      losses_of: block -> its loss.
      model: whose parameters they are of.
      adam: block -> the optimiser of one that is not exact.
    """
    if order.blocks == ('joint',):
        return {'joint': cdgm.Block('', losses_of['joint'], adam('joint'))}
    taken = [LEAVES[name] for name in EXACT if name in order.blocks]
    elbo, decay = losses_of['decoder'], values.exact_decay
    decay = _EXACT_DECAY if decay is None else decay
    found = {}
    if 'sigma' in order.blocks:
        found['sigma'] = cdgm.Block(
            LEAVES['sigma'], elbo, log_scale_minimisation(-2, pixels, decay))
    if 'last_layer' in order.blocks:
        ridge = _RIDGE if values.ridge is None else values.ridge
        found['last_layer'] = cdgm.Block(
            LEAVES['last_layer'], fit_of_layer(values, model, elbo),
            least_squares(ridge, decay))
    for name in BLOCKS:
        found[name] = cdgm.Block(partial(_is_of, name, taken), losses_of[name],
                                 adam(name))
    return found


def _is_of(block: str, taken: Sequence[str], path: str) -> bool:
    """Whether a leaf is of the encoder or decoder, and of no block of its own."""
    return path.startswith(f'{block}/') and not path.startswith(tuple(taken))


def _check_exact(values: flags.FlagValues, order: training_flags.UpdatePlan) -> None:
    """Raise a SettingError where a block has no exact minimum, or is not there."""
    learned = values.likelihood == 'learned_gaussian'
    if 'sigma' in order.blocks and not learned:
        raise SettingError(
            f'--order={values.order} moves sigma, and --likelihood={values.likelihood} '
            'learns none in closed form; give --likelihood=learned_gaussian.')
    if 'last_layer' in order.blocks and (
            'gaussian' not in values.likelihood or values.net == 'conv'
            or values.samples > 1):
        raise SettingError(
            f'--order={values.order} moves last_layer by least squares, which takes a '
            'gaussian --likelihood, --net=mlp and --samples=1.')
    if set(EXACT) & set(order.blocks) and values.objective not in (None, 'elbo'):
        raise SettingError(f'--objective={values.objective} is of encoder and decoder; '
                           'leave sigma and last_layer out of --order.')
    if values.sigma_rate is not None and (
            values.likelihood not in LEARNED or 'sigma' in order.blocks):
        raise SettingError(f'--sigma_rate={values.sigma_rate} is of a scale that '
                           'moves by its gradient, and there is none; leave it out.')


def _scale_sigma(ratio) -> optax.GradientTransformation:
    """Multiply the update of the logarithm of the scale."""
    def multiply(path, update):
        name = jax.tree_util.keystr(path[-1:], simple=True)
        return update * ratio if name == 'log_scale' else update

    return optax.stateless(lambda updates, params: jax.tree_util.tree_map_with_path(
        multiply, updates))


def task(values: flags.FlagValues, data: Dataset) -> Task:
    """The model, its loss, and its blocks."""
    check_images(data)
    order = _order(values)
    _check_exact(values, order)
    cycles = training_flags.read_cycles(values, len(data.train.examples))
    bernoulli = values.likelihood == 'bernoulli'
    losses.check_support('gaussian' if 'gaussian' in values.likelihood else
                         values.likelihood, data.train.examples)
    model = build(values, data.train.examples.shape[1:])

    def loss(hyper, **terms):
        return partial(
            losses.neg_elbo, encode=model.encode, decode=model.decode,
            beta=hyper['beta'], num_samples=values.samples, **terms,
            log_likelihood=log_likelihood(values.likelihood, hyper.get('sigma')))

    def descent(hyper):
        losses_of = objectives(values, model, loss(
            hyper, free_bits=values.free_bits or None))

        def adam(name):
            rate = hyper['rates'][name]
            updates = cycles * max(order.updates.count(name), 1)
            tx = optax.adam(training_flags.falling(values, rate, updates))
            if values.sigma_rate is None:
                return tx
            return optax.chain(tx, _scale_sigma(hyper['sigma_rate'] / rate))

        return cdgm.block_descent(blocks(
            values, data.train.examples[0].size, order, losses_of, model, adam))

    test_key = jax.random.key(0)  # one noise for every run, so that runs compare
    test = jnp.asarray(data.test.examples)
    if bernoulli:
        test = binarize(test, test_key)

    def evaluate(params, hyper):
        return {'neg_elbo': metrics.dataset_neg_elbo(
            params, test, test_key, neg_elbo=loss(hyper), batch_size=500).mean}

    watched = jnp.asarray((data.train if data.validation is None else data.validation
                           ).examples[:_WATCHED])
    if bernoulli:
        watched = binarize(watched, test_key)

    def information(params, hyper):
        """Mutual information of image and latent, nats (He et al. 2019)."""
        return metrics.mutual_information(
            *model.encode(params, watched), test_key, batch_size=_CHUNK).mean

    def inference(params, hyper):
        """Minus the amortisation gap, as a share of the KL; of fewer images."""
        few = watched[:_REFINED]
        gap = metrics.amortisation_gap(
            params, few, test_key, encode=model.encode, decode=model.decode,
            log_likelihood=log_likelihood(values.likelihood, hyper.get('sigma')),
            batch_size=_REFINED, refinement=_REFINEMENT).mean
        kl = jnp.mean(losses.gaussian_kl(*model.encode(params, few)))
        return -gap / jnp.maximum(kl, _LITTLE)

    @jax.jit
    def pictures(params):
        """Samples from the prior, and images with their reconstructions."""
        def pixels(latent):
            return mean_pixels(values.likelihood, model.decode(params, latent))

        latent = jax.random.normal(jax.random.key(0), (64, model.latent_size))
        mean, _ = model.encode(params, test[:32])
        pairs = jnp.stack([test[:32], pixels(mean)], axis=1)
        return pixels(latent), pairs.reshape(-1, *test.shape[1:])

    def draw(folder, params):
        samples, pairs = pictures(params)
        figures.grid(folder / 'samples.png', samples)
        figures.grid(folder / 'reconstructions.png', pairs)
        if values.final_samples:
            write_report(folder, final_report(values, model, params, test))

    return Task(
        init=model.init, descent=descent, order=order,
        examples=jnp.asarray(data.train.examples),
        prepare=binarize if bernoulli else lambda images, key: images,
        evaluate=evaluate, draw=draw, batch_size=values.batch_size,
        fresh=values.fresh_minibatches,
        signals={'information': information, 'inference': inference})


def final_report(values: flags.FlagValues, model: models.VAE, params, test
                 ) -> dict[str, float]:
    """All that is known of a model at the end, on the test images."""
    standardise = {
        'bernoulli': None, 'logistic': None,
        'gaussian': lambda decoded, x: (x - decoded) / values.sigma,
        'learned_gaussian': lambda decoded, x: (x - decoded[0]) * jnp.exp(-decoded[1])}
    return metrics.evaluate_vae(
        params, test, jax.random.key(1), encode=model.encode, decode=model.decode,
        log_likelihood=log_likelihood(values.likelihood, values.sigma),
        standardise=standardise[values.likelihood], progress=say,
        num_samples=values.final_samples, chunk_size=min(values.final_samples, 250))


def _order(values: flags.FlagValues) -> training_flags.UpdatePlan:
    return training_flags.read_order(values, BLOCKS, exact=EXACT)


EXPERIMENT = Experiment(
    'vae', {'neg_elbo': 'lower'}, define_flags, traced, hyper, task,
    {'samples.png': 'Samples',
     'reconstructions.png': 'Test images and their reconstructions',
     'evaluation.txt': 'At the end, on the test images'})
main = partial(execute.main, EXPERIMENT)

if __name__ == '__main__':
    cli.run(define_flags, main, __doc__)
