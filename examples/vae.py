"""A variational autoencoder on handwritten digits, trained block by block.

Encoder and decoder descend one loss, -ELBO, in turns: on each minibatch first the
decoder, then the encoder. Prints the test -ELBO in nats, before and after.
"""

from functools import partial

import jax
import optax

import cdgm
from cdgm import data, losses, models

EPOCHS, BATCH = 10, 64
ORDER = ('decoder', 'encoder')

digits = data.load('digits')
model = models.vae(image_shape=(8, 8, 1), latent_size=10)
neg_elbo = partial(losses.neg_elbo, encode=model.encode, decode=model.decode)

descent = cdgm.block_descent({
    'encoder': cdgm.Block('encoder', neg_elbo, optax.adam(2e-3)),
    'decoder': cdgm.Block('decoder', neg_elbo, optax.adam(2e-3)),
})


@partial(jax.jit, donate_argnums=0)
def epoch(state, images, key):
    """One pass over the images in a fresh order."""
    shuffle, noise = jax.random.split(key)
    count = len(images) // BATCH
    rows = jax.random.permutation(shuffle, len(images))[:count * BATCH]

    def train(state, inputs):
        batch, key = inputs
        state, info = descent.cycle(state, batch, key, ORDER)
        return state, info.loss

    batches = images[rows].reshape(count, BATCH, *images.shape[1:])
    return jax.lax.scan(train, state, (batches, jax.random.split(noise, count)))


@jax.jit
def evaluate(params, images):
    loss, terms = neg_elbo(params, images, jax.random.key(1), num_samples=16)
    return loss


state = descent.init(model.init(jax.random.key(0)))
print(f'before: {evaluate(state.params, digits.test.examples):.2f}')
for number in range(EPOCHS):
    key = jax.random.fold_in(jax.random.key(2), number)
    state, train_loss = epoch(state, jax.numpy.asarray(digits.train.examples), key)
    if number % 5 == 4:
        print(f'epoch {number + 1}: train {train_loss.mean():.2f}')
print(f'after: {evaluate(state.params, digits.test.examples):.2f}')
