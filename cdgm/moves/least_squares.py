"""A linear layer's least squares solution over the data set, a minibatch at a time.

    W <- (G + ridge I)^-1 C        the minimum of tr W'(G + ridge I)W / 2 - tr W'C

with G and C the decayed averages of F'F / B and F'Y / B over the minibatches that the
block has seen: F the layer's input with a column of ones for its bias, which the ridge
leaves alone, and Y what it should have put out. So the step is exact for the last
1 / (1 - decay) minibatches or so, where `exact_minimisation` is for the last alone, and
a decay near 1 makes it that of the data set, with inputs as old as they are.

The last layer of a decoder under a Gaussian likelihood is such a block: its scale falls
out, and noise of the latent is in G as it is in the ELBO.

Shapes   B batch, K inputs, D outputs.
Sources  Young 1984, Recursive Estimation and Time-Series Analysis (recursive least
         squares with exponential forgetting); Beck & Tetruashvili 2013, SIAM J. Optim.
         23(4) (exact block minimisation).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cdgm import blocks as trees
from cdgm.gradient_move import Evaluation, Move


class LinearFit(NamedTuple):
    """What a linear layer is fitted to; a loss returns it first in its aux.

    Attributes:
      inputs: floating[B, K], the layer's input.
      outputs: floating[B, ..., D], what it should put out; ravelled but for B.
    """

    inputs: jax.Array
    outputs: jax.Array


class RunningFit(NamedTuple):
    """Attributes:
      gram: floating[K + 1, K + 1], the decayed sum of F'F / B.
      cross: floating[K + 1, D], that of F'Y / B.
      weight: floating[], the decayed number of minibatches.
    """

    gram: jax.Array
    cross: jax.Array
    weight: jax.Array


def least_squares(ridge: float = 0., decay: float = 0.) -> Move:
    """Move a linear layer to its least squares solution.

    The block is the layer, {'kernel': float[K, D], 'bias': float[D]}, as flax's `Dense`
    has it, and its loss returns (scalar, (`LinearFit`, aux)), of which `StepInfo` has
    the aux alone.

    Args:
      ridge: what is added to the mean square of each input; not to the bias.
      decay: in [0, 1), what a minibatch weighs in the next step relative to the new.

    Returns:
      A `Move` whose state is a `RunningFit`. Where G has no inverse, there being no
      ridge and fewer examples than inputs, the layer and the averages stay, and
      `StepInfo.block` is -1.

    Raises:
      ValueError: ridge is negative or decay not in [0, 1); at `init`, the block is not
        such a layer.

    >>> from cdgm import Block, block_descent
    >>> x = jnp.array([[0.], [1.], [2.]])
    >>> def loss(params, batch, key):
    ...     error = batch - x @ params['kernel'] - params['bias'][None]
    ...     return jnp.sum(error ** 2), (LinearFit(x, batch), None)
    >>> descent = block_descent({'layer': Block('', loss, least_squares())})
    >>> state = descent.init({'kernel': jnp.zeros((1, 1)), 'bias': jnp.zeros(1)})
    >>> state, _ = descent.step(state, 3 * x + 1, None, 'layer')
    >>> print(state.params['kernel'].round(4), state.params['bias'].round(4))
    [[3.]] [1.]
    """
    if ridge < 0:
        raise ValueError(f'ridge is {ridge}; give a number >= 0.')
    if not 0 <= decay < 1:
        raise ValueError(f'decay is {decay}; give a number in [0, 1), 0 for none.')

    def apply(objective, active, state, **extra):
        # Beside the aux, what a model state would be.
        loss, ((found, aux), model_state) = objective(active)
        inputs = jnp.concatenate(
            [found.inputs, jnp.ones_like(found.inputs[:, :1])], axis=1)
        count = len(inputs)
        outputs = found.outputs.reshape(count, -1)
        with jax.default_matmul_precision('highest'):  # squares double the rounding
            after = RunningFit(
                inputs.T @ inputs / count + decay * state.gram,
                inputs.T @ outputs / count + decay * state.cross,
                1 + decay * state.weight)
            gram, cross = after.gram / after.weight, after.cross / after.weight
            size = len(gram) - 1
            damped = gram + ridge * jnp.diag(jnp.arange(size + 1) < size)
            best = jax.scipy.linalg.solve(damped, cross, assume_a='pos')
            before = _stack(active)
            slope = damped @ before - cross
        exact = jnp.all(jnp.isfinite(best))
        moved = _unstack(active, jnp.where(exact, best, before))
        state = jax.tree.map(lambda new, old: jnp.where(exact, new, old), after, state)
        return moved, state, Evaluation(
            loss, (aux, model_state), jnp.linalg.norm(slope), exact)

    def init(active):
        trees.check_real(active, 'least_squares')
        layer = _layer(active)
        size, width = layer['kernel'].shape
        dtype = jnp.result_type(layer['kernel'])
        return RunningFit(jnp.zeros((size + 1, size + 1), dtype),
                          jnp.zeros((size + 1, width), dtype), jnp.zeros((), dtype))

    return Move(init, apply, report=lambda aux: aux[1])


def layer_inputs(layer: Callable[[Any], jax.Array], kernel: jax.Array,
                 bias: jax.Array) -> jax.Array:
    """The input of a net's last, linear layer, found by what it makes of unit kernels.

    Args:
      layer: {'kernel', 'bias'} of the layer -> what the net puts out, float[B, ..., D].
      kernel: floating[K, D].
      bias: floating[D].

    Returns:
      floating[B, K].

    >>> x = jnp.array([[1., 2., 3.]])
    >>> layer_inputs(lambda p: x @ p['kernel'] + p['bias'][None], jnp.ones((3, 2)),
    ...              jnp.ones(2)).tolist()
    [[1.0, 2.0, 3.0]]
    """
    size, width = kernel.shape
    found = [layer({'kernel': jnp.eye(size, width, -start, dtype=kernel.dtype),
                    'bias': jnp.zeros_like(bias)})
             for start in range(0, size, width)]
    found = [out.reshape(len(out), -1) for out in found]
    return jnp.concatenate(found, axis=1)[:, :size]


def _layer(active: Any) -> dict[str, jax.Array]:
    """The layer's kernel and bias, wherever in the parameters they are.

    Raises:
      ValueError: the block is something else.
    """
    leaves = jax.tree_util.tree_leaves_with_path(active)
    layer = {jax.tree_util.keystr(path[-1:], simple=True): leaf
             for path, leaf in leaves if path}
    shapes = {name: jnp.shape(leaf) for name, leaf in layer.items()}
    if len(leaves) != 2 or set(layer) != {'kernel', 'bias'} or (
            len(shapes['kernel']) != 2 or shapes['kernel'][1:] != shapes['bias']):
        seen = {jax.tree_util.keystr(path, simple=True, separator='/'): jnp.shape(leaf)
                for path, leaf in leaves}
        raise ValueError('least_squares moves one linear layer, kernel [K, D] and bias '
                         f'[D], and the block is {seen}; name that layer.')
    return layer


def _stack(active: Any) -> jax.Array:
    layer = _layer(active)
    return jnp.concatenate([layer['kernel'], layer['bias'][None]])


def _unstack(active: Any, stacked: jax.Array) -> Any:
    return jax.tree.map(
        lambda leaf: stacked[:-1] if jnp.ndim(leaf) == 2 else stacked[-1], active)
