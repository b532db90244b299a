"""A GAN of flax nnx with BatchNorm and Dropout: what is no Param is the model state.

`nnx.split(gan, nnx.Param, ...)` gives the graph, the parameters, and the rest: batch
statistics and the streams of random numbers, with their typed keys and counters. A loss
merges them into a fresh model (`copy=True`), calls it, and returns the rest as the call
left it; so a frozen net's statistics go on too here. Prints how far the mean image of
the samples is from that of the data, before and after.
"""

from functools import partial

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import cdgm
from cdgm import data, losses

CYCLES, BATCH, LATENT = 600, 64, 16
ORDER = ('discriminator', 'generator')


class GAN(nnx.Module):
    def __init__(self, rngs):
        self.generator = nnx.Sequential(
            nnx.Linear(LATENT, 128, rngs=rngs), nnx.BatchNorm(128, rngs=rngs), nnx.relu,
            nnx.Linear(128, 64, rngs=rngs), nnx.sigmoid)
        self.discriminator = nnx.Sequential(
            nnx.Linear(64, 128, rngs=rngs), nnx.leaky_relu,
            nnx.Dropout(0.3, rngs=rngs), nnx.Linear(128, 1, rngs=rngs))


graph, *(params, rest) = nnx.split(GAN(nnx.Rngs(0)), nnx.Param, ...)
images = jnp.asarray(data.load('digits').train.examples).reshape(-1, 64)


def discriminator_loss(params, rest, batch, key):
    gan = nnx.merge(graph, params, rest, copy=True)
    fake = gan.generator(jax.random.normal(key, (len(batch), LATENT)))
    real_logits, fake_logits = gan.discriminator(batch), gan.discriminator(fake)
    loss = losses.non_saturating.discriminator(real_logits, fake_logits)
    return loss, (None, nnx.state(gan, nnx.Not(nnx.Param)))


def generator_loss(params, rest, batch, key):
    gan = nnx.merge(graph, params, rest, copy=True)
    fake = gan.generator(jax.random.normal(key, (len(batch), LATENT)))
    logits = gan.discriminator(fake)
    loss = losses.non_saturating.generator(logits, logits)
    return loss, (None, nnx.state(gan, nnx.Not(nnx.Param)))


descent = cdgm.block_descent({
    'discriminator': cdgm.Block(
        'discriminator', discriminator_loss, optax.adam(4e-4, b1=0.5)),
    'generator': cdgm.Block('generator', generator_loss, optax.adam(1e-3, b1=0.5)),
})


@partial(jax.jit, donate_argnums=0)
def cycle(state, key):
    draw, noise = jax.random.split(key)
    batch = images[jax.random.randint(draw, (BATCH,), 0, len(images))]
    return descent.cycle(state, batch, noise, ORDER)


@jax.jit
def distance(state):
    gan = nnx.merge(graph, state.params, state.model_state)
    gan.eval()  # running statistics, no dropout
    fake = gan.generator(jax.random.normal(jax.random.key(1), (1024, LATENT)))
    return jnp.sqrt(jnp.mean((fake.mean(0) - images.mean(0)) ** 2))


state = descent.init(params, rest)
print(f'before: {distance(state):.3f}')
for key in jax.random.split(jax.random.key(2), CYCLES):
    state, info = cycle(state, key)
print(f'after: {distance(state):.3f}')
