"""A DCGAN of flax linen with batch normalisation: its statistics are the model state.

Each loss says what a frozen net's normalisation does: here both nets normalise by the
minibatch, and a loss returns new statistics of its own net alone. Prints how far the
mean image of samples is from that of the data, before and after.
"""

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

import cdgm
from cdgm import data, losses, models


class Generator(nn.Module):
    @nn.compact
    def __call__(self, z, train):
        x = nn.Dense(4 * 4 * 32)(z).reshape(-1, 4, 4, 32).repeat(2, 1).repeat(2, 2)
        x = nn.relu(nn.BatchNorm(not train, momentum=0.9)(x))
        x = nn.relu(nn.BatchNorm(not train, momentum=0.9)(models.Conv(16)(x)))
        return nn.sigmoid(models.Conv(1)(x))


class Discriminator(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.leaky_relu(models.Conv(16, strides=2)(x))
        x = nn.BatchNorm(not train, momentum=0.9)(models.Conv(32, strides=2)(x))
        return nn.Dense(1)(nn.leaky_relu(x).reshape(len(x), -1))[:, 0]


images = jnp.asarray(data.load('digits').train.examples)
nets = {'generator': Generator(), 'discriminator': Discriminator()}
one = {'generator': jnp.zeros((1, 16)), 'discriminator': images[:1]}
variables = {k: nets[k].init(jax.random.key(0), one[k], train=True) for k in nets}


def apply(name, params, stats, x, train=True):
    """Run a net: (output, statistics with its own renewed if it is trained)."""
    out, new = nets[name].apply({'params': params[name], 'batch_stats': stats[name]}, x,
                                train, mutable=['batch_stats'])
    return out, {**stats, name: new['batch_stats']}


def d_loss(params, stats, batch, key):
    latent = jax.random.normal(key, (64, 16))
    fake, _ = apply('generator', params, stats, latent)  # frozen: drop its statistics
    real_logits, stats = apply('discriminator', params, stats, batch)
    fake_logits, stats = apply('discriminator', params, stats, fake)
    return losses.non_saturating.discriminator(real_logits, fake_logits), (None, stats)


def g_loss(params, stats, batch, key):
    fake, stats = apply('generator', params, stats, jax.random.normal(key, (64, 16)))
    logits, _ = apply('discriminator', params, stats, fake)
    return losses.non_saturating.generator(logits, logits), (None, stats)


descent = cdgm.block_descent({
    'discriminator': cdgm.Block('discriminator', d_loss, optax.adam(4e-4, b1=0.5)),
    'generator': cdgm.Block('generator', g_loss, optax.adam(1e-3, b1=0.5))})
state = descent.init({k: variables[k]['params'] for k in nets},
                     {k: variables[k]['batch_stats'] for k in nets})


@jax.jit
def cycle(state, key):
    batch = jax.random.choice(key, images, (64,))
    return descent.cycle(state, batch, key, ('discriminator', 'generator'))


for step in range(201):
    if step % 200 == 0:
        latent = jax.random.normal(jax.random.key(1), (1024, 16))
        fake, _ = apply('generator', state.params, state.model_state, latent, False)
        distance = jnp.sqrt(jnp.mean((fake.mean(0) - images.mean(0)) ** 2))
        print(f'{"after" if step else "before"}: {distance:.3f}')
    state, info = cycle(state, jax.random.key(step))
