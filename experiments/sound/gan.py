"""The generative adversarial network of log-mel images, and how it is judged and heard.

Samples come from an exponential moving average of the generator, see
`cdgm.losses.gan_game`.
"""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import cdgm
from cdgm import losses, models
from experiments import gan_doctor
from experiments.gan import (
    BLOCKS, charge_lazily, check_game, model_state, optimiser, play, strengths)
from experiments.harness.task import Task
from experiments.harness.training_flags import UpdatePlan
from experiments.sound.bench import Bench

# From the smallest image on, 8 x 8, of the generator that is of convolutions.
_CHANNELS = {'mlp': (), 'conv': (64, 32, 16)}
_WIDTHS = {'mlp': (128, 256, 512), 'conv': (128,)}
_ASKED = 64  # examples that the doctor looks at
_STEPS = 5  # from one latent to another


def task(values, bench: Bench, order: UpdatePlan, cycles: int) -> Task:
    """The model, the losses of its players, and what is measured and shown of it.

    Args:
      values: the flags, see `experiments.gan.define_game_flags`.
      bench: the data, and the judge.
      order: how the players take turns.
      cycles: length of training.
    """
    check_game(values)
    model = models.conditional_gan(
        bench.image_shape, bench.classes, values.latent, _WIDTHS[values.net],
        _CHANNELS[values.net], packing=values.packing or 1)
    game = play(values, model, strengths(values))

    def descent(hyper, penalised=True):
        descended = play(values, model, hyper, penalised).losses
        return cdgm.block_descent({
            name: cdgm.Block(name, descended[name], optimiser(
                values, hyper, name, order.updates_of(name, cycles)))
            for name in BLOCKS})

    def evaluate(params, state, hyper):
        samples = draw_samples(model, bench, game.averaged(params, state))
        return bench.quick_scores(samples, bench.asked(bench.samples))

    plain = Task(
        init=model.init, descent=descent, order=order,
        examples=_examples(bench), prepare=lambda batch, key: batch,
        evaluate=evaluate, draw=partial(draw, model, game, bench),
        batch_size=values.batch_size, fresh=values.fresh_minibatches,
        model_state=model_state(game, model))
    return charge_lazily(values, model, plain, descent)


def _examples(bench: Bench):
    """What the players are given: with classes, images and labels."""
    return bench.examples if bench.classes else bench.train.images


def draw_samples(model, bench: Bench, params) -> jax.Array:
    """Generate of one noise, so that runs compare, the classes in turn."""
    latent = jax.random.normal(jax.random.key(1), (bench.samples, model.latent_size))
    return model.generate(params, latent, bench.asked(bench.samples))


def draw(model, game: losses.GanGame, bench: Bench, folder: Path, params: Any,
         state: Any) -> None:
    """Write the sounds, and the scores of the samples and of what they sound like."""
    averaged = game.averaged(params, state)
    generate = jax.jit(partial(draw_samples, model, bench))
    samples, asked = generate(averaged), bench.asked(bench.samples)
    shown = min(max(bench.classes, 10), len(samples), 12)
    bench.write_sounds(folder, 'samples', bench.class_names(shown), samples[:shown])
    images, labels = bench.test
    chosen = bench.shown_recordings
    bench.write_sounds(folder, 'recordings', list(map(str, range(len(chosen)))),
                       images[chosen])
    _draw_interpolation(model, bench, folder, averaged)
    bench.write_scores(folder, {
        'real, test split': (images, labels), 'samples': (samples, asked),
        'without the average': (generate(params), asked)}, {})
    gan_doctor.write_game(
        folder, game, model.latent_size, params, state,
        batch=jax.tree.map(lambda x: x[:_ASKED], _examples(bench)))
    bench.write_page(folder)


def _draw_interpolation(model, bench: Bench, folder: Path, params) -> None:
    """From one latent to another, of one class."""
    ends = jax.random.normal(jax.random.key(2), (2, model.latent_size))
    part = jnp.linspace(0, 1, _STEPS)[:, None]
    # Along the sphere, near which all latents lie.
    latent = (jnp.cos(part * jnp.pi / 2) * ends[:1]
              + jnp.sin(part * jnp.pi / 2) * ends[1:])
    told = jnp.zeros(_STEPS, jnp.int32) if bench.classes else None
    bench.write_sounds(folder, 'interpolation',
                       [f'{index} of {_STEPS - 1}' for index in range(_STEPS)],
                       model.generate(params, latent, told))
