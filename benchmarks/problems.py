"""What is timed: a chain of dense layers, the reference VAE and GAN, a transformer.

    chain        x_{j+1} = tanh(x_j W_j + b_j), 16 layers of 512, batch 256, squared
                 error
    VAE          784-128-20, batch 128, Bernoulli pixels
    GAN          28 x 28, latent 100, batch 64, non-saturating
    transformer  pre-norm, causal, tied head, layers checkpointed, of any size

Data are random numbers: a step costs the same on any.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import cdgm
from cdgm import layers, losses, models

LAYERS, WIDTH, CHAIN_BATCH = 16, 512, 256
NAMES = tuple(f'layer{i}' for i in range(LAYERS))
VAE_BATCH, GAN_BATCH, IMAGE = 128, 64, (28, 28)


class Problem(NamedTuple):
    """A model, its losses and one minibatch.

    Attributes:
      params: a dict, one entry a block.
      losses: block name -> LossFn.
      batch: what the losses take.
      key: PRNG key.
    """

    params: dict[str, Any]
    losses: dict[str, Any]
    batch: Any
    key: jax.Array


def layer(params, x):
    """One layer of the chain."""
    return jnp.tanh(x @ params['w'] + params['b'])


def chain(length: int = LAYERS, width: int = WIDTH) -> Problem:
    """The chain; each layer is a block."""
    key = jax.random.key(0)
    keys = jax.random.split(key, length)
    scale = width ** -0.5
    params = {f'layer{i}': {'w': scale * jax.random.normal(keys[i], (width, width)),
                            'b': jnp.zeros(width)} for i in range(length)}
    x, y = jax.random.normal(key, (2, CHAIN_BATCH, width))

    def loss(params, batch, key):
        del key
        x, y = batch
        for i in range(length):
            x = layer(params[f'layer{i}'], x)
        return jnp.mean(jnp.square(x - y)), None

    return Problem(params, dict.fromkeys(params, loss), (x, y), key)


def vae() -> Problem:
    """The reference VAE."""
    key = jax.random.key(0)
    model = models.vae(IMAGE, 20, (128,))
    loss = partial(losses.neg_elbo, encode=model.encode, decode=model.decode)
    batch = jax.random.bernoulli(key, 0.3, (VAE_BATCH, *IMAGE)).astype(jnp.float32)
    return Problem(model.init(key), {'encoder': loss, 'decoder': loss}, batch, key)


def gan() -> Problem:
    """The reference GAN."""
    key = jax.random.key(0)
    model = models.gan(IMAGE, 100)
    nets: dict[str, Any] = {
        'generate': model.generate, 'discriminate': model.discriminate,
        'latent_size': 100, 'loss': losses.non_saturating}
    batch = jax.random.uniform(key, (GAN_BATCH, *IMAGE))
    return Problem(model.init(key), {
        'discriminator': partial(losses.discriminator_loss, **nets),
        'generator': partial(losses.generator_loss, **nets)}, batch, key)


def stacked_descent(tx: optax.GradientTransformation) -> cdgm.Descent:
    """The chain as a stack of layers, of which 'own' is the active one by its index."""
    def loss(params, batch, key):
        del key
        x, y, index = batch
        x = layers.chain(layer, params['stack'], params['own'], index, x)
        return jnp.mean(jnp.square(x - y)), None

    return cdgm.block_descent({
        'own': cdgm.Block('own', loss, tx, ephemeral=True),
        'frozen': cdgm.Block('stack', loss, optax.set_to_zero(), ephemeral=True)})


class Ways(NamedTuple):
    """A transformer, and two ways to train it with Adam.

    Attributes:
      model: what `cdgm.models.transformer` returns.
      by_layers: blocks 'embedding', which has the head, and 'layers/0', 'layers/1', …
      joint: all as one block, 'joint'.
    """

    model: models.Transformer
    by_layers: cdgm.Descent
    joint: cdgm.Descent


def transformer(depth: int, width: int, *, context: int, vocabulary: int,
                heads: int = 4, chunk: int | None = None) -> Ways:
    """The transformer; `chunk` is as in `cdgm.losses.next_token_loss`."""
    model = models.transformer(vocabulary, width=width, depth=depth, heads=heads,
                               context=context)
    loss = partial(losses.next_token_loss, hidden=model.hidden,
                   unembedding=model.unembedding, chunk=chunk)
    adam = optax.adam(1e-3)
    return Ways(model, cdgm.block_descent({
        'embedding': cdgm.Block(('embedding', 'head'), loss, adam, ephemeral=True),
        **layers.blocks('layers', depth, loss, adam)}), cdgm.block_descent(
            {'joint': cdgm.Block('', loss, adam)}))
