"""A loop of optax, with the transformation exchanged: one line of it is cdgm's.

    -  tx = optax.adam(1e-2)
    +  tx = cdgm.coordinate_descent(optax.adam(1e-2), LABELS, schedule=...)

Whatever takes an optax transformation takes this one. An autoencoder of two matrices is
trained; prints its loss, before and after.
"""

import jax
import jax.numpy as jnp
import optax

import cdgm
from cdgm import data

STEPS = 400
LABELS = {'encoder': 'encoder', 'decoder': 'decoder'}  # as optax.partition takes them

images = jnp.asarray(data.load('digits').train.examples).reshape(-1, 64)
images = images - images.mean(0, keepdims=True)


def loss_fn(params, batch):
    return jnp.mean((batch @ params['encoder'] @ params['decoder'] - batch) ** 2)


# Two updates of the decoder, then one of the encoder.
tx = cdgm.coordinate_descent(
    {'decoder': optax.adam(1e-2), 'encoder': optax.adam(1e-2)}, LABELS,
    schedule=cdgm.cyclic((2, 1)))


@jax.jit
def step(params, opt_state, batch):
    loss, grads = jax.value_and_grad(loss_fn)(params, batch)
    updates, opt_state = tx.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, loss


keys = jax.random.split(jax.random.key(0))
params = {'encoder': jax.random.normal(keys[0], (64, 8)) / 8,
          'decoder': jax.random.normal(keys[1], (8, 64)) / 8}
opt_state = tx.init(params)
print(f'before: {loss_fn(params, images):.4f}')
for count in range(STEPS):
    start = 128 * count % 1280
    params, opt_state, loss = step(params, opt_state, images[start:start + 128])
print(f'after: {loss_fn(params, images):.4f}')
