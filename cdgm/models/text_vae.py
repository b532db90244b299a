"""A recurrent variational autoencoder of sequences of tokens.

    encoder   w -> embedding -> GRU over the valid tokens -> mean, logvar of z
    decoder   p(w_t|w_<t, z): the embedding of w_{t-1} and z enter a GRU whose first
              state is tanh of a linear map of z; its state, and z once more where
              there is a skip, give the logits

Without z it is a language model: `language_model` is the same decoder with no latent.
Word dropout replaces inputs of the decoder by a symbol of its own, so that it must ask
the latent (Bowman et al.).

Shapes   B batch, T tokens, V vocabulary, Z latent. Tokens int32[B, T]; lengths
         int32[B], tokens that count, an end mark among them. An example is a pair
         (tokens, lengths), or tokens alone where all count.
Units    nats a sequence.
Sources  Bowman et al. 2016 (arXiv:1511.06349); z at every step and in the first state:
         He et al. 2019 (arXiv:1901.05534), their decoder; the skip from z to the
         logits, a remedy against collapse: Dieng et al. 2019 (arXiv:1807.04863).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn


class TextVAE(NamedTuple):
    """A sequence model as pure functions of all its parameters.

    Attributes:
      init: key -> {'encoder': ..., 'decoder': ...}, dicts of float32 arrays.
      encode: (params, x) -> (mean, logvar), float32[B, Z] each.
      log_likelihood: (params, latent, x, dropout_key=None) -> log p(x|z), float32[B],
        nats; with a key some inputs of the decoder are dropped.
      sample: (params, latent, key) -> int32[B, T] of tokens, drawn one after another.
      latent_size: Z.
    """

    init: Callable[[jax.Array], dict[str, Any]]
    encode: Callable[[Any, Any], tuple[jax.Array, jax.Array]]
    log_likelihood: Callable[..., jax.Array]
    sample: Callable[[Any, jax.Array, jax.Array], jax.Array]
    latent_size: int


class Encoder(nn.Module):
    """Tokens to the mean and log variance of the latent."""

    vocabulary: int
    embedding: int
    hidden: int
    latent_size: int

    @nn.compact
    def __call__(self, tokens, lengths):
        x = nn.Embed(self.vocabulary, self.embedding)(tokens)
        cell = nn.GRUCell(self.hidden)

        def step(cell, state, inputs):
            x, counts = inputs
            return jnp.where(counts, cell(state, x)[0], state), None

        counts = jnp.arange(tokens.shape[1])[None] < lengths[:, None]
        scan = nn.scan(step, variable_broadcast='params', split_rngs={'params': False},
                       in_axes=1)
        last, _ = scan(cell, jnp.zeros((len(tokens), self.hidden)),
                       (x, counts[..., None]))
        return (nn.Dense(self.latent_size, name='mean')(last),
                nn.Dense(self.latent_size, name='logvar')(last))


class Decoder(nn.Module):
    """Latents and the tokens before to the logits of every token."""

    vocabulary: int
    embedding: int
    hidden: int
    skip: bool

    def setup(self):
        """Make the parts that every step shares."""
        # Two symbols more: the start, and what a dropped token is replaced by.
        self.embed = nn.Embed(self.vocabulary + 2, self.embedding)
        self.first = nn.Dense(self.hidden, use_bias=False)
        self.cell = nn.GRUCell(self.hidden)
        self.logits = nn.Dense(self.vocabulary)

    def start(self, latent):
        """Return the state before the first token, float[B, hidden]."""
        if not latent.shape[-1]:  # a language model
            return jnp.zeros((len(latent), self.hidden))
        return jnp.tanh(self.first(latent))

    def step(self, state, token, latent):
        """Take one token; (state, logits of the next)."""
        state, out = self.cell(
            state, jnp.concatenate([self.embed(token), latent], axis=-1))
        return state, self.logits(
            jnp.concatenate([out, latent], axis=-1) if self.skip else out)

    def __call__(self, latent, inputs):
        scan = nn.scan(lambda module, state, token: module.step(state, token, latent),
                       variable_broadcast='params', split_rngs={'params': False},
                       in_axes=1, out_axes=1)
        return scan(self, self.start(latent), inputs)[1]


def text_vae(vocabulary: int, length: int, latent_size: int, hidden: int = 128,
             embedding: int = 32, word_dropout: float = 0.,
             skip: bool = True) -> TextVAE:
    """Build a recurrent variational autoencoder.

    Args:
      vocabulary: V, tokens are 0 ... V - 1.
      length: T, of every row of tokens.
      latent_size: Z; 0 gives a language model, which has no encoder to speak of.
      hidden: units of both GRUs.
      embedding: of both.
      word_dropout: share of the decoder's inputs that are dropped, where it is given a
        key.
      skip: let the latent enter the logits, too; without, the decoder of He et al.

    Raises:
      ValueError: a size is not positive, or the share is not in [0, 1).

    >>> model = text_vae(5, 4, latent_size=2, hidden=3, embedding=2)
    >>> params = jax.eval_shape(model.init, jax.random.key(0))
    >>> x = jnp.zeros((6, 4), jnp.int32), jnp.full(6, 4)
    >>> jax.eval_shape(model.log_likelihood, params, jnp.zeros((6, 2)), x).shape
    (6,)
    """
    if min(vocabulary, length, hidden, embedding, latent_size + 1) < 1:
        raise ValueError(f'vocabulary, length, hidden, embedding and latent_size are '
                         f'{vocabulary}, {length}, {hidden}, {embedding}, '
                         f'{latent_size}; give whole numbers > 0 (a latent of 0 is a '
                         'language model).')
    if not 0 <= word_dropout < 1:
        raise ValueError(f'word_dropout is {word_dropout}; give a share from 0 to 1.')
    start, dropped = vocabulary, vocabulary + 1
    encoder = Encoder(vocabulary, embedding, hidden, latent_size)
    decoder = Decoder(vocabulary, embedding, hidden, skip)

    def init(key):
        encoder_key, decoder_key = jax.random.split(key)
        tokens = jnp.zeros((1, length), jnp.int32)
        latent = jnp.zeros((1, latent_size), jnp.float32)
        params = {'decoder': decoder.init(decoder_key, latent, tokens)['params']}
        if latent_size:
            params['encoder'] = encoder.init(
                encoder_key, tokens, jnp.full(1, length))['params']
        return params

    def encode(params, x):
        tokens, lengths = _split(x)
        return encoder.apply({'params': params['encoder']}, tokens, lengths)

    def log_likelihood(params, latent, x, dropout_key=None):
        tokens, lengths = _split(x)
        shifted = jnp.concatenate(
            [jnp.full((len(tokens), 1), start, tokens.dtype), tokens[:, :-1]], axis=1)
        if dropout_key is not None and word_dropout:
            drop = jax.random.bernoulli(dropout_key, word_dropout, shifted.shape)
            shifted = jnp.where(drop & (shifted != start), dropped, shifted)
        logits: Any = decoder.apply({'params': params['decoder']}, latent, shifted)
        log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[..., None],
                                    axis=-1)[..., 0]
        counts = jnp.arange(tokens.shape[1])[None] < lengths[:, None]
        return jnp.sum(jnp.where(counts, log_p, 0), axis=1)

    def sample(params, latent, key):
        bound = {'params': params['decoder']}

        def step(carry, step_key):
            state, token = carry
            out: Any = decoder.apply(bound, state, token, latent, method=Decoder.step)
            state, logits = out
            token = jax.random.categorical(step_key, logits).astype(jnp.int32)
            return (state, token), token

        first = decoder.apply(bound, latent, method=Decoder.start)
        tokens = jnp.full(len(latent), start, jnp.int32)
        return jax.lax.scan(step, (first, tokens), jax.random.split(key, length))[1].T

    return TextVAE(init, encode, log_likelihood, sample, latent_size)


def _split(x):
    """(tokens, lengths), where all tokens count if there are no lengths."""
    if isinstance(x, tuple):
        return x
    return x, jnp.full(len(x), x.shape[1])
