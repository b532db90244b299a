"""A variational autoencoder of equinox: `eqx.partition`, and the module is the params.

Its arrays are the parameters, a module like the whole; selectors name its fields.
Prints the test -ELBO in nats, before and after.
"""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import cdgm
from cdgm import data, losses

STEPS, BATCH, LATENT = 300, 64, 8
ORDER = ('decoder', 'encoder')


class VAE(eqx.Module):
    encoder: eqx.nn.MLP
    decoder: eqx.nn.MLP

    def __init__(self, key):
        encoder_key, decoder_key = jax.random.split(key)
        self.encoder = eqx.nn.MLP(64, 2 * LATENT, 128, 1, key=encoder_key)
        self.decoder = eqx.nn.MLP(LATENT, 64, 128, 1, key=decoder_key)


# Activation functions are leaves of an equinox module as well, and not descended.
params, static = eqx.partition(VAE(jax.random.key(0)), eqx.is_inexact_array)


def encode(params, x):
    out = jax.vmap(eqx.combine(params, static).encoder)(x)
    return out[:, :LATENT], out[:, LATENT:]


def decode(params, latent):
    return jax.vmap(eqx.combine(params, static).decoder)(latent)


neg_elbo = partial(losses.neg_elbo, encode=encode, decode=decode)
descent = cdgm.block_descent({
    'encoder': cdgm.Block('encoder', neg_elbo, optax.adam(2e-3)),
    'decoder': cdgm.Block('decoder', neg_elbo, optax.adam(2e-3)),
})
digits = data.load('digits')
train, test = (jnp.asarray(split.examples).reshape(-1, 64)
               for split in (digits.train, digits.test))


@jax.jit
def step(state, key):
    draw, noise = jax.random.split(key)
    batch = train[jax.random.randint(draw, (BATCH,), 0, len(train))]
    return descent.cycle(state, batch, noise, ORDER)


@jax.jit
def evaluate(params):
    loss, terms = neg_elbo(params, test, jax.random.key(1), num_samples=16)
    return loss


state = descent.init(params)
print(f'before: {evaluate(state.params):.2f}')
for key in jax.random.split(jax.random.key(2), STEPS):
    state, info = step(state, key)
print(f'after: {evaluate(state.params):.2f}')
model = eqx.combine(state.params, static)  # a VAE again
