"""What is trained: an arm of the table, for all its seeds in one program.

An iteration is what the order says: `5:1` is five steps of the discriminator and one of
the generator, each on points and latents of its own; where the players move at once
they see the same ones, as in the papers' programs.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import cdgm
from cdgm import games, losses, metrics, models
from cdgm.data import mixtures
from experiments.harness.train.flops import flops_of_program

D, G = ('discriminator',), ('generator',)
IN_TURN = {'1:1': D + G, '5:1': 5 * D + G, '1:2': D + 2 * G}
AT_ONCE: dict[str, Callable[[cdgm.Descent], Any]] = {
    'simultaneous': lambda descent: descent.simultaneous,
    'extragradient': games.extragradient,
    'optimistic': lambda descent: descent.simultaneous}
ORDERS = ('simultaneous', *IN_TURN, 'extragradient', 'optimistic')
PENALTIES = ('none', 'r1', 'r1+r2', 'gp', 'clip')
NETS = ('relu', 'unrolled', 'pacgan')

_CLIP = 0.1  # bound of the weights under the penalty 'clip'
_FAR = 100.  # where a sample is put that is not finite


class Arm(NamedTuple):
    """One line of the table."""

    loss: str
    penalty: str
    packing: int
    order: str

    @property
    def name(self) -> str:
        """As in file names and messages."""
        pack = f'_pack{self.packing}' if self.packing > 1 else ''
        return f'{self.loss}_{self.penalty}{pack}_{self.order.replace(":", "to")}'


class Setting(NamedTuple):
    """What all arms have in common.

    Attributes:
      nets: 'relu', of `width` and `latent`; or a paper's, of its own sizes.
      width: of the hidden layers of either net.
      depth: their number.
      latent: size of z.
      batch_size: points that a step sees.
      learning_rate: Adam's, until it falls.
      cooling: share of a training at whose end it falls to zero, in a line.
      beta1: Adam's.
      beta2: Adam's.
      gamma: of R1 and R2; of the gradient penalty it is half of the weight.
      average: decay of the generator's average.
      samples: that are drawn to be judged.
    """

    nets: str = 'relu'
    width: int = 64
    depth: int = 3
    latent: int = 2
    batch_size: int = 64
    learning_rate: float = 2e-3
    cooling: float = 0.3
    beta1: float = 0.
    beta2: float = 0.99
    gamma: float = 0.1
    average: float = 0.999
    samples: int = 2500


class Programs(NamedTuple):
    """Compiled once for an arm; S seeds, N samples.

    Attributes:
      init: keys[S] -> states.
      advance: (states, keys[S], start, stop, end) -> states after iteration `stop` of a
        training of `end` iterations; of one without an end if that is infinite.
      sample: states -> float32[2, S, N, 2], by the generator and by its average.
      logits: (states, float32[M, 2]) -> float32[M], of the first seed's discriminator.
    """

    init: Callable[..., Any]
    advance: Callable[..., Any]
    sample: Callable[..., jax.Array]
    logits: Callable[..., jax.Array]


class Judgement(NamedTuple):
    """What samples are worth; see `cdgm.metrics.modes` for the first five."""

    modes: jax.Array
    high_quality: jax.Array
    high_quality_error: jax.Array
    reverse_kl: jax.Array
    reverse_kl_error: jax.Array
    sliced_wasserstein: jax.Array


def build_nets(setting: Setting, packing: int) -> models.GAN:
    """The two nets."""
    if setting.nets == 'unrolled':
        return models.planar_gan(packing=packing)
    if setting.nets == 'pacgan':
        return models.pac_gan(packing=packing)
    return models.planar_gan(
        latent_size=setting.latent, widths=(setting.width,) * setting.depth,
        activation=jax.nn.relu, kernel_init=jax.nn.initializers.he_normal(),
        packing=packing)


def build_game(arm: Arm, setting: Setting) -> tuple[models.GAN, losses.GanGame]:
    """The nets and the losses of the two blocks."""
    nets = build_nets(setting, arm.packing)
    gamma = setting.gamma
    penalties = {'r1': [losses.r1(gamma)],
                 'r1+r2': [losses.r1(gamma), losses.r2(gamma)],
                 'gp': [losses.gradient_penalty(gamma / 2)]}.get(arm.penalty, [])
    return nets, losses.gan_game(
        nets.generate, nets.discriminate, nets.latent_size,
        losses.GAN_LOSSES[arm.loss], penalties=penalties, packing=arm.packing,
        average=setting.average, clipped=arm.penalty == 'clip')


def build_descent(arm: Arm, setting: Setting, game: losses.GanGame, rate: Any
                  ) -> cdgm.Descent:
    """The blocks, which follow Adam with a rate that may be traced."""
    optimism = [optax.scale_by_optimistic_gradient()] * (arm.order == 'optimistic')
    clip = [losses.weight_clipping(_CLIP)] * (arm.penalty == 'clip')
    rule = optax.chain(optax.scale_by_adam(setting.beta1, setting.beta2), *optimism,
                       optax.scale_by_learning_rate(rate))
    return cdgm.block_descent(
        {'discriminator': cdgm.Block('discriminator', game.losses['discriminator'],
                                     optax.chain(rule, *clip)),
         'generator': cdgm.Block('generator', game.losses['generator'], rule)},
        grad_norm=False)


def rate_at(setting: Setting, iteration: Any, end: Any) -> jax.Array:
    """The learning rate of an iteration of a training of `end` iterations."""
    left = (end - iteration) / (setting.cooling * end)
    return setting.learning_rate * jnp.minimum(
        1., jnp.where(jnp.isinf(end) | (setting.cooling == 0), 1., left))


def iterate(arm: Arm, setting: Setting, mixture: mixtures.Mixture,
            game: losses.GanGame) -> Callable[..., cdgm.DescentState]:
    """One iteration of one seed: (state, key, rate) -> state."""
    order = IN_TURN.get(arm.order, ())

    def draw(key):
        return mixtures.draw(mixture, key, setting.batch_size)[0]

    def in_turn(state, key, rate):
        descent = build_descent(arm, setting, game, rate)
        keys = jax.random.split(key, (2, len(order)))
        return descent.cycle(state, jax.vmap(draw)(keys[0]), keys[1], order,
                             stacked=True)[0]

    def at_once(state, key, rate):
        descent = build_descent(arm, setting, game, rate)
        data_key, noise_key = jax.random.split(key)
        return AT_ONCE[arm.order](descent)(state, draw(data_key), noise_key)[0]

    return in_turn if order else at_once


def begin(arm: Arm, setting: Setting, key: jax.Array) -> cdgm.DescentState:
    """The state of one seed before the first iteration."""
    nets, game = build_game(arm, setting)
    params, descent = nets.init(key), build_descent(arm, setting, game, 0.)
    return descent.init(params, game.model_state(params, key))


def flops(arm: Arm, setting: Setting, mixture: mixtures.Mixture) -> float:
    """FLOPs of an iteration of one seed."""
    _, game = build_game(arm, setting)
    key = jax.random.key(0)
    state = jax.eval_shape(partial(begin, arm, setting), key)
    return flops_of_program(iterate(arm, setting, mixture, game), state, key, 1.)


def programs(arm: Arm, setting: Setting, mixture: mixtures.Mixture) -> Programs:
    """The programs of an arm."""
    nets, game = build_game(arm, setting)
    one_iteration = iterate(arm, setting, mixture, game)

    def advance(state, key, start, stop, end):
        return jax.lax.fori_loop(start, stop, lambda index, state: one_iteration(
            state, jax.random.fold_in(key, index), rate_at(setting, index, end)), state)

    def sample(states):
        latent = jax.random.normal(jax.random.key(1),
                                   (setting.samples, nets.latent_size))

        def both(state):
            averaged = game.averaged(state.params, state.model_state)
            return jnp.stack([nets.generate(params, latent)
                              for params in (state.params, averaged)])

        return jax.vmap(both, out_axes=1)(states)

    def logits(states, points):
        params = jax.tree.map(lambda leaf: leaf[0], states.params)
        return nets.discriminate(params, jnp.tile(points, (1, arm.packing)))

    return Programs(
        jax.jit(jax.vmap(partial(begin, arm, setting))),
        jax.jit(jax.vmap(advance, in_axes=(0, 0, None, None, None))),
        jax.jit(sample), jax.jit(logits))


@jax.jit
def judge(points: jax.Array, centres: jax.Array, std: float) -> Judgement:
    """Compare samples with a mixture, each seed's alone.

    Args:
      points: float32[S, N, 2].
      centres: float32[K, 2].
      std: of a mode.

    Returns:
      Judgement of float32[S] each.
    """
    data, _ = mixtures.draw(mixtures.Mixture(centres, std), jax.random.key(2),
                            points.shape[1])

    def one(points):
        scores = metrics.mode_scores(points, centres, std, jax.random.key(3),
                                     resamples=50)
        # Samples that are not finite have no distance; far away is what they are.
        points = jnp.nan_to_num(points, nan=_FAR, posinf=_FAR, neginf=-_FAR)
        distance = metrics.sliced_wasserstein(
            jnp.clip(points, -_FAR, _FAR), data, jax.random.key(4), projections=32)
        return Judgement(scores.captured.mean, *scores.high_quality, *scores.reverse_kl,
                         distance.mean)

    return jax.lax.map(one, points)
