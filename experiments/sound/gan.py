"""The generative adversarial network of log-mel images, and how it is judged and heard.

Samples come from an exponential moving average of the generator, see
`cdgm.losses.gan_game`.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

import cdgm
from cdgm import losses, models
from experiments.harness.task import Task
from experiments.harness.training_flags import UpdatePlan
from experiments.sound.bench import Bench

BLOCKS = ('discriminator', 'generator')

# From the smallest image on, 8 x 8, of the generator that is of convolutions.
_CHANNELS = {'mlp': (), 'conv': (64, 32, 16)}
_WIDTHS = {'mlp': (128, 256, 512), 'conv': (128,)}
_BETA2 = 0.99
_STEPS = 5  # from one latent to another


def task(values, bench: Bench, order: UpdatePlan, loss: losses.GanLoss) -> Task:
    """The model, the losses of its players, and what is measured and shown of it."""
    model = models.conditional_gan(
        bench.image_shape, bench.classes, values.latent, _WIDTHS[values.net],
        _CHANNELS[values.net])

    def descent(hyper):
        descended = game(model, loss, values.average, {
            name: hyper[name] for name in ('r1', 'r2') if name in hyper}).losses
        return cdgm.block_descent({
            name: cdgm.Block(name, descended[name], optax.adam(
                hyper['rates'][name], b1=values.beta1, b2=_BETA2)) for name in BLOCKS})

    plain = game(model, loss, values.average, {})  # a penalty needs no state

    def model_state(key):
        return plain.model_state(jax.eval_shape(model.init, key), key)

    def evaluate(params, state, hyper):
        samples = draw_samples(model, bench, plain.averaged(params, state))
        return bench.quick_scores(samples, bench.asked(bench.samples))

    return Task(
        init=model.init, descent=descent, order=order, examples=bench.examples,
        prepare=lambda batch, key: batch, evaluate=evaluate,
        draw=partial(draw, model, plain, bench), batch_size=values.batch_size,
        fresh=values.fresh_minibatches, model_state=model_state)


def game(model: models.ConditionalGAN, loss: losses.GanLoss, decay: float,
         penalties: Mapping[str, Any]) -> losses.GanGame:
    """The losses of the players, whose model state has the generator's average."""
    makers = {'r1': losses.r1, 'r2': losses.r2}
    return losses.gan_game(
        model.generate, model.discriminate, model.latent_size, loss,
        penalties=[makers[name](gamma) for name, gamma in penalties.items()],
        average=decay, conditional=True)  # without classes the nets ignore the labels


def draw_samples(model, bench: Bench, params) -> jax.Array:
    """Generate of one noise, so that runs compare, the classes in turn."""
    latent = jax.random.normal(jax.random.key(1), (bench.samples, model.latent_size))
    return model.generate(params, latent, bench.asked(bench.samples))


def draw(model, plain: losses.GanGame, bench: Bench, folder: Path, params: Any,
         state: Any) -> None:
    """Write the sounds, and the scores of the samples and of what they sound like."""
    averaged = plain.averaged(params, state)
    generate = jax.jit(partial(draw_samples, model, bench))
    samples, asked = generate(averaged), bench.asked(bench.samples)
    shown = min(max(bench.classes, 10), len(samples), 12)
    bench.write_sounds(folder, 'samples', bench.class_names(shown), samples[:shown])
    _draw_interpolation(model, bench, folder, averaged)
    images, labels = bench.test
    bench.write_scores(folder, {
        'real, test split': (images, labels), 'samples': (samples, asked),
        'without the average': (generate(params), asked)}, {})
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
