"""A decoder-only transformer on a stack of layers.

    x = token[t] + position
    x = x + attention(norm(x)),  x = x + mlp(norm(x))        for each layer, pre-norm
    logits = norm(x) token^T                                 (tied), or norm(x) kernel

Attention is causal; the norm is a layer norm with a scale and no shift, no matrix has a
bias, and the MLP is Dense of 4 D, GELU, Dense. The parameters are
{'embedding', 'layers', 'head'}, and each leaf of 'layers' has a leading axis L, so that
`cdgm.layers.blocks` makes blocks of them; `cdgm.layers.apply` runs them.

Shapes   B batch, T tokens, D width, L depth, H heads, V vocabulary.
Sources  Vaswani et al. 2017 (arXiv:1706.03762); Radford et al. 2019 for pre-norm, GELU,
         the tied head and the initialisation: N(0, 0.02^2), divided by sqrt(2 L) where
         a layer adds to x. Adapters: Hu et al. 2021 (arXiv:2106.09685).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from cdgm import stacks

_STDDEV = 0.02
_MATRICES = (('attention', 'qkv'), ('attention', 'out'), ('mlp', 'up'), ('mlp', 'down'))
_ADAPTER_SCALE = 2.


class Transformer(NamedTuple):
    """A language model as pure functions of its parameters.

    Attributes:
      init: key -> {'embedding': {'token': [V, D], 'position': [T, D]}, 'layers': a
        stack, 'head': {'norm': [D]} and, if it is not tied, 'kernel' [D, V]}, float32.
      hidden: (params, int32[B, T]) -> float32[B, T, D], what the head is given.
      unembedding: params -> float32[D, V].
      logits: (params, int32[B, T]) -> float32[B, T, V], of the next token at each.
      context: the longest T.
    """

    init: Callable[[jax.Array], dict[str, Any]]
    hidden: Callable[[Any, jax.Array], jax.Array]
    unembedding: Callable[[Any], jax.Array]
    logits: Callable[[Any, jax.Array], jax.Array]
    context: int


def transformer(vocabulary: int, *, width: int = 128, depth: int = 4, heads: int = 4,
                context: int = 64, tied: bool = True, rank: int = 0, policy=None
                ) -> Transformer:
    """Build a decoder-only transformer.

    Args:
      vocabulary: V.
      width: D, a multiple of `heads`.
      depth: L.
      heads: H.
      context: the longest sequence, tokens.
      tied: whether the head's matrix is the embedding's. Then the embedding's gradient
        needs both ends of the model.
      rank: r of low-rank adapters beside the matrices of the layers (LoRA): a matrix W
        is W + 2 a b, with a [L, in, r] and b [L, r, out], which starts at 0. They are
        params['layers']['low_rank'], to be moved while the rest stays. 0 for none.
      policy: what a layer keeps for the backward pass beside what it was given, see
        `jax.checkpoint_policies`.

    Raises:
      ValueError: heads does not divide width.

    >>> model = transformer(65, width=16, depth=2, heads=2, context=8)
    >>> params = model.init(jax.random.key(0))
    >>> model.logits(params, jnp.zeros((3, 8), jnp.int32)).shape
    (3, 8, 65)
    """
    if width % heads:
        raise ValueError(f'{heads} heads do not divide a width of {width}; give a '
                         'width that is a multiple of the heads.')

    def init(key):
        keys = iter(jax.random.split(key, 4))
        params = {
            'embedding': {'token': _normal(next(keys), vocabulary, width),
                          'position': _normal(next(keys), context, width)},
            'layers': jax.vmap(partial(_init_layer, width=width, depth=depth,
                                       rank=rank))(jax.random.split(next(keys), depth)),
            'head': {'norm': jnp.ones(width)}}
        if not tied:
            params['head']['kernel'] = _normal(next(keys), width, vocabulary)
        return params

    def hidden(params, tokens):
        embedding = params['embedding']
        x = embedding['token'][tokens] + embedding['position'][
            None, :tokens.shape[1]]
        x = stacks.apply(partial(_layer, heads=heads), params['layers'], x,
                         policy=policy)
        return _norm(x, params['head']['norm'])

    def unembedding(params):
        return params['embedding']['token'].T if tied else params['head']['kernel']

    return Transformer(init, hidden, unembedding,
                       lambda params, tokens: hidden(params, tokens) @ unembedding(
                           params), context)


def _init_layer(key: jax.Array, width: int, depth: int, rank: int) -> dict[str, Any]:
    keys = iter(jax.random.split(key, 5))
    added = (2 * depth) ** -0.5
    params = {
        'attention': {'norm': jnp.ones(width),
                      'qkv': _normal(next(keys), width, 3 * width),
                      'out': added * _normal(next(keys), width, width)},
        'mlp': {'norm': jnp.ones(width), 'up': _normal(next(keys), width, 4 * width),
                'down': added * _normal(next(keys), 4 * width, width)}}
    if rank:
        params['low_rank'] = {
            f'{part}_{name}': {
                'a': jax.random.normal(next(adapter), (len(matrix), rank)) / len(
                    matrix) ** 0.5,
                'b': jnp.zeros((rank, matrix.shape[1]))}
            for adapter in [iter(jax.random.split(next(keys), len(_MATRICES)))]
            for part, name in _MATRICES for matrix in [params[part][name]]}
    return params


def _adapted(params: dict[str, Any]) -> dict[str, Any]:
    """The layer with its low-rank adapters worked in, if it has any."""
    if 'low_rank' not in params:
        return params
    adapted = {part: dict(params[part]) for part in ('attention', 'mlp')}
    for part, name in _MATRICES:
        pair = params['low_rank'][f'{part}_{name}']
        adapted[part][name] += _ADAPTER_SCALE * pair['a'] @ pair['b']
    return adapted


def _layer(params: dict[str, Any], x: jax.Array, heads: int) -> jax.Array:
    params = _adapted(params)
    batch, length, width = x.shape
    attention, mlp = params['attention'], params['mlp']
    qkv = _norm(x, attention['norm']) @ attention['qkv']
    query, key, value = (part.reshape(batch, length, heads, width // heads)
                         for part in jnp.split(qkv, 3, axis=-1))
    mixed = jax.nn.dot_product_attention(query, key, value, is_causal=True)
    x = x + mixed.reshape(x.shape) @ attention['out']
    return x + jax.nn.gelu(_norm(x, mlp['norm']) @ mlp['up']) @ mlp['down']


def _norm(x: jax.Array, scale: jax.Array) -> jax.Array:
    x = x - jnp.mean(x, -1, keepdims=True)
    return x * lax.rsqrt(jnp.mean(jnp.square(x), -1, keepdims=True) + 1e-5
                         ) * scale[None, None]


def _normal(key: jax.Array, *shape: int) -> jax.Array:
    return _STDDEV * jax.random.normal(key, shape)
