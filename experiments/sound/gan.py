"""The generative adversarial network of log-mel images, and how it is judged and heard.

Samples come from an exponential moving average of the generator, over its own steps and
corrected for its start, which the generator's loss keeps in the model state: of the
parameters before each step.
"""

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
        penalties = {name: hyper[name] for name in ('r1', 'r2') if name in hyper}
        descended = {
            'discriminator': partial(discriminator_loss, model, loss, penalties),
            'generator': partial(generator_loss, model, loss, values.average)}
        return cdgm.block_descent({
            name: cdgm.Block(name, descended[name], optax.adam(
                hyper['rates'][name], b1=values.beta1, b2=_BETA2)) for name in BLOCKS})

    def model_state(key):
        form = jax.eval_shape(model.init, key)['generator']
        return {'average': jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), form),
                'weight': jnp.zeros(())}

    def evaluate(params, state, hyper):
        samples = draw_samples(model, bench, average(params, state))
        return bench.quick_scores(samples, bench.asked(bench.samples))

    return Task(
        init=model.init, descent=descent, order=order, examples=bench.examples,
        prepare=lambda batch, key: batch, evaluate=evaluate,
        draw=partial(draw, model, bench), batch_size=values.batch_size,
        fresh=values.fresh_minibatches, model_state=model_state)


def discriminator_loss(model, loss, penalties, params, state, batch, key):
    """Its loss with gamma/2 times R1 at the data and R2 at the samples."""
    images, labels = batch
    value, terms = losses.discriminator_loss(params, images, key, loss=loss,
                                             **_nets(model, labels))

    def discriminate(x):
        return model.discriminate(params, x, labels)

    if 'r1' in penalties:
        value += penalties['r1'] / 2 * losses.squared_gradient(discriminate, images)
    if 'r2' in penalties:
        # The latents are those of the loss, so that the samples are made once.
        latent = jax.random.normal(key, (len(images), model.latent_size), images.dtype)
        made = model.generate(params, latent, labels)
        value += penalties['r2'] / 2 * losses.squared_gradient(discriminate, made)
    return value, (terms, state)


def generator_loss(model, loss, decay, params, state, batch, key):
    """Its loss; the average takes in the generator as it is before the step."""
    images, labels = batch
    value, terms = losses.generator_loss(params, images, key, loss=loss,
                                         **_nets(model, labels))
    now = jax.lax.stop_gradient(params['generator'])
    return value, (terms, {
        'average': jax.tree.map(lambda m, x: decay * m + (1 - decay) * x,
                                state['average'], now),
        'weight': decay * state['weight'] + (1 - decay)})


def average(params, state):
    """Put the average in the generator's place, once it has taken anything in."""
    weight = jnp.where(state['weight'] > 0, state['weight'], 1)
    return {**params, 'generator': jax.tree.map(
        lambda m, x: jnp.where(state['weight'] > 0, m / weight, x),
        state['average'], params['generator'])}


def draw_samples(model, bench: Bench, params) -> jax.Array:
    """Generate of one noise, so that runs compare, the classes in turn."""
    latent = jax.random.normal(jax.random.key(1), (bench.samples, model.latent_size))
    return model.generate(params, latent, bench.asked(bench.samples))


def draw(model, bench: Bench, folder: Path, params: Any, state: Any) -> None:
    """Write the sounds, and the scores of the samples and of what they sound like."""
    averaged = average(params, state)
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


def _nets(model, labels) -> dict[str, Any]:
    return {'generate': lambda params, z: model.generate(params, z, labels),
            'discriminate': lambda params, x: model.discriminate(params, x, labels),
            'latent_size': model.latent_size}
