"""The synthetic sentences of the study of lagging inference, from their definition.

    z ~ 1/4 sum N((+-2, +-2), I)                 a point of the plane
    w_1 uniform;  c_t, h_t = LSTM(w_t; c_{t-1}, h_{t-1}), 100 units, embeddings of 100
    w_{t+1} ~ softmax(W h_t + V z)               ten words of a vocabulary of 1000

All weights are U(-1, 1), V is U(-5, 5); none is learned. So the truth is known: the
latent of each sentence, log p(w|z), and by sampling z its likelihood. There is no end
mark: all sentences have ten words.

Shapes   N sentences of T words, vocabulary of V words, H hidden units.
Units    nats a sentence.
Source   He et al. 2019 (arXiv:1901.05534) appendix, their synthetic set: 20,000
         sentences, 16,000 to train on, 2000 each to choose and to test on.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cdgm.data.dataset import Dataset, Split


class Generator(NamedTuple):
    """The weights that draw the sentences, float32.

    Attributes:
      embedding: [V, H].
      inputs: [H, 4 H], of the LSTM's gates, in the order input, forget, cell, output.
      recurrent: [H, 4 H].
      bias: [4 H].
      words: [H, V], W.
      latent: [2, V], V.
    """

    embedding: jax.Array
    inputs: jax.Array
    recurrent: jax.Array
    bias: jax.Array
    words: jax.Array
    latent: jax.Array


def make_generator(key: jax.Array, vocabulary: int = 1000, hidden: int = 100
                   ) -> Generator:
    """Draw the weights.

    >>> make_generator(jax.random.key(0), 7, 3).latent.shape
    (2, 7)
    """
    shapes = ((vocabulary, hidden), (hidden, 4 * hidden), (hidden, 4 * hidden),
              (4 * hidden,), (hidden, vocabulary), (2, vocabulary))
    keys = jax.random.split(key, len(shapes))
    drawn = [jax.random.uniform(k, shape, jnp.float32, -1, 1)
             for k, shape in zip(keys, shapes)]
    return Generator._make([*drawn[:-1], 5 * drawn[-1]])


def draw_latents(key: jax.Array, count: int) -> jax.Array:
    """z of the mixture of four, float32[count, 2]."""
    corner_key, noise_key = jax.random.split(key)
    corner = 2. * jax.random.rademacher(corner_key, (count, 2), jnp.float32)
    return corner + jax.random.normal(noise_key, (count, 2))


def _step(generator: Generator, carry, word):
    """One step of the LSTM: (cell, hidden) and the logits of the next word but V z."""
    cell, hidden = carry
    gates = (generator.embedding[word] @ generator.inputs
             + hidden @ generator.recurrent + generator.bias.reshape(1, -1))
    into, forget, new, out = jnp.split(gates, 4, axis=-1)
    cell = jax.nn.sigmoid(forget) * cell + jax.nn.sigmoid(into) * jnp.tanh(new)
    hidden = jax.nn.sigmoid(out) * jnp.tanh(cell)
    return (cell, hidden), hidden @ generator.words


def draw_sentences(generator: Generator, latent: jax.Array, key: jax.Array,
                   length: int = 10) -> jax.Array:
    """Sentences of given latents.

    Args:
      generator: its weights.
      latent: float32[N, 2].
      key: PRNG key of the words.
      length: T.

    Returns:
      int32[N, T].
    """
    shift = latent @ generator.latent
    first_key, key = jax.random.split(key)
    first = jax.random.randint(first_key, (len(latent),), 0, len(generator.embedding))
    zeros = jnp.zeros((len(latent), len(generator.recurrent)))

    def body(carry, step_key):
        state, word = carry
        state, logits = _step(generator, state, word)
        following = jax.random.categorical(step_key, logits + shift)
        return (state, following.astype(jnp.int32)), word

    carry = ((zeros, zeros), first.astype(jnp.int32))
    return jax.lax.scan(body, carry, jax.random.split(key, length))[1].T


def log_likelihood(generator: Generator, sentences: jax.Array, latent: jax.Array
                   ) -> jax.Array:
    """log p(w|z) of each sentence, the first word's -log V included; float32[N], nats.

    Args:
      generator: its weights.
      sentences: int32[N, T].
      latent: float32[N, 2].
    """
    shift = latent @ generator.latent
    zeros = jnp.zeros((len(sentences), len(generator.recurrent)))

    def body(state, pair):
        word, following = pair
        state, logits = _step(generator, state, word)
        log_p = jax.nn.log_softmax(logits + shift)
        return state, jnp.take_along_axis(log_p, following[:, None], 1)[:, 0]

    words = sentences.T
    _, terms = jax.lax.scan(body, (zeros, zeros), (words[:-1], words[1:]))
    return terms.sum(axis=0) - jnp.log(float(len(generator.embedding)))


def synthetic_text(sentences: int = 20_000, seed: int = 0, vocabulary: int = 1000,
                   length: int = 10) -> tuple[Dataset, Generator]:
    """Draw the set: four fifths to train on, a tenth each to choose and to test on.

    Args:
      sentences: N, in all.
      seed: of the weights and of the sentences.
      vocabulary: V.
      length: T.

    Returns:
      The data set, whose examples are int32[N, T], and what generated it.

    Raises:
      ValueError: there are fewer than ten sentences.
    """
    if sentences < 10:
        raise ValueError(f'sentences is {sentences}; draw at least ten, so that each '
                         'split has one.')
    keys = jax.random.split(jax.random.key(seed), 3)
    generator = make_generator(keys[0], vocabulary)
    latent = draw_latents(keys[1], sentences)
    drawn = np.asarray(jax.lax.map(
        lambda pair: draw_sentences(generator, pair[0][None], pair[1], length)[0],
        (latent, jax.random.split(keys[2], sentences)), batch_size=1000))
    tenth = sentences // 10
    train, validation, test = np.split(drawn, [sentences - 2 * tenth,
                                               sentences - tenth])
    return Dataset('synthetic_text', Split(train, None), Split(validation, None),
                   Split(test, None), {}), generator
