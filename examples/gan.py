"""A generative adversarial network on handwritten digits: two players, two losses.

Five updates of the discriminator, then one of the generator, on the same minibatch.
Prints how far the mean image of the samples is from that of the data, before and after:
a distance that no loss here mentions.
"""

from functools import partial

import jax
import jax.numpy as jnp
import optax

import cdgm
from cdgm import data, losses, models

STEPS, BATCH = 300, 64
ORDER = ('discriminator',) * 5 + ('generator',)

images = jnp.asarray(data.load('digits').train.examples)
model = models.gan((8, 8, 1), latent_size=16, generator_widths=(64, 128),
                   discriminator_channels=(16, 32))


def bind(loss):
    return partial(loss, generate=model.generate, discriminate=model.discriminate,
                   latent_size=model.latent_size, loss=losses.non_saturating)


descent = cdgm.block_descent({
    'discriminator': cdgm.Block(
        'discriminator', bind(losses.discriminator_loss), optax.adam(2e-4, b1=0.5)),
    'generator': cdgm.Block(
        'generator', bind(losses.generator_loss), optax.adam(1e-3, b1=0.5)),
})


@partial(jax.jit, donate_argnums=0)
def train(state, key):
    """Run `STEPS` cycles, each on a minibatch of its own."""
    def cycle(state, key):
        draw, noise = jax.random.split(key)
        batch = images[jax.random.randint(draw, (BATCH,), 0, len(images))]
        state, info = descent.cycle(state, batch, noise, ORDER)
        return state, info.loss

    return jax.lax.scan(cycle, state, jax.random.split(key, STEPS))


@jax.jit
def distance(params):
    """Root mean square between the mean image of 1024 samples and of the data."""
    latent = jax.random.normal(jax.random.key(1), (1024, model.latent_size))
    samples = model.generate(params, latent)
    return jnp.sqrt(jnp.mean((samples.mean(0) - images.mean(0)) ** 2))


state = descent.init(model.init(jax.random.key(0)))
print(f'before: {distance(state.params):.3f}')
state, loss = train(state, jax.random.key(2))
print(f'loss of the discriminator {loss[-100:, 4].mean():.3f}, '
      f'of the generator {loss[-100:, 5].mean():.3f}')
print(f'after: {distance(state.params):.3f}')
