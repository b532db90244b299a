"""The blocks of an image VAE: what each descends, and how it moves.

Encoder and decoder move by Adam, in turn or, as the block `rest`, at once. Under a
Gaussian likelihood an order may also name sigma, the likelihood's one scale, and
last_layer, the decoder's: blocks of their own then, which move to their exact minimum
over the minibatches that have been.
"""

import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import optax
from absl import flags

import cdgm
from cdgm import losses
from cdgm.moves import (
    LinearFit, layer_inputs, least_squares, log_scale_minimisation)
from experiments.harness import training_flags
from experiments.harness.errors import SettingError
from experiments.image_vae.nets import LEARNED, Model, mean_pixels

BLOCKS = ('encoder', 'decoder')
REST = 'rest'  # both of them at once, but for what is exact
EXACT = ('sigma', 'last_layer')  # what an order may name beside them
_LEAVES = {'sigma': 'decoder/log_scale', 'last_layer': 'decoder/logits'}
_DECAY, _RIDGE = 0.9, 1e-4


def define_flags(values: flags.FlagValues) -> None:
    """Add the flags of the blocks."""
    # None, not the default itself: a trial keeps the name that it had without the flag.
    own: dict[str, Any] = {'flag_values': values}
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


def read_order(values: flags.FlagValues) -> training_flags.UpdatePlan:
    """Read how the blocks take turns."""
    return training_flags.read_order(values, (REST,) if _names_rest(values) else BLOCKS,
                                     exact=EXACT)


def _names_rest(values: flags.FlagValues) -> bool:
    """Whether the order moves encoder and decoder at once, as one block."""
    return re.search(rf'\b{REST}\b', values.order) is not None


def objectives(values: flags.FlagValues, model: Model, elbo
               ) -> dict[str, cdgm.LossFn]:
    """Block -> its loss; one loss, not two alike: blocks that share it share work."""
    if values.objective in (None, 'elbo'):
        return dict.fromkeys((*BLOCKS, REST), elbo)
    if values.order == 'joint' or _names_rest(values):
        raise SettingError(f'--objective={values.objective} gives each block a loss of '
                           f'its own, and in --order={values.order} one block has '
                           'both; name encoder and decoder, or simultaneous.')
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


def _fit_of_layer(values: flags.FlagValues, model: Model, elbo):
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


def descent(values: flags.FlagValues, order: training_flags.UpdatePlan,
            model: Model, elbo: cdgm.LossFn, hyper: dict[str, Any], images
            ) -> cdgm.Descent:
    """The blocks of the order, with the loss of each and how it moves.

    Args:
      values: the flags.
      order: what blocks there are.
      model: whose parameters they are of.
      elbo: -ELBO.
      hyper: what is given, see `TracedInputs`.
      images: what is trained on, float[N, H, W, C].
    """
    objective = objectives(values, model, elbo)
    cycles = training_flags.read_cycles(values, len(images))

    def adam(name):
        rate = hyper['rates'][name]
        updates = order.updates_of(name, cycles)
        tx = optax.adam(training_flags.falling(values, rate, updates))
        if values.sigma_rate is None:
            return tx
        return optax.chain(tx, _scale_sigma(hyper['sigma_rate'] / rate))

    if order.blocks == ('joint',):
        return cdgm.block_descent({'joint': cdgm.Block('', elbo, adam('joint'))})
    decay = _DECAY if values.exact_decay is None else values.exact_decay
    exact = {}
    if 'sigma' in order.blocks:
        exact['sigma'] = elbo, log_scale_minimisation(-2, images[0].size, decay)
    if 'last_layer' in order.blocks:
        ridge = _RIDGE if values.ridge is None else values.ridge
        exact['last_layer'] = (_fit_of_layer(values, model, elbo),
                               least_squares(ridge, decay))
    taken = [_LEAVES[name] for name in exact]
    return cdgm.block_descent({
        **{name: cdgm.Block(partial(_is_of, name, taken), objective[name], adam(name))
           for name in order.blocks if name not in exact},
        **{name: cdgm.Block(_LEAVES[name], *each) for name, each in exact.items()}})


def _is_of(block: str, taken: Sequence[str], path: str) -> bool:
    """Whether a leaf is of the encoder, the decoder or both, and of no exact block."""
    return path.startswith(f'{block}/' if block in BLOCKS else '') and (
        not path.startswith(tuple(taken)))


def check(values: flags.FlagValues, order: training_flags.UpdatePlan) -> None:
    """Raise a SettingError where a block has no exact minimum, or is not there."""
    learned = values.likelihood == 'learned_gaussian'
    if 'sigma' in order.blocks and not learned:
        raise SettingError(
            f'--order={values.order} moves sigma, and --likelihood={values.likelihood} '
            'learns none in closed form; give --likelihood=learned_gaussian.')
    if 'last_layer' in order.blocks and (
            'gaussian' not in values.likelihood or values.net not in (None, 'mlp')
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
