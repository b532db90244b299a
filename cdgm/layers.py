"""Layers: many alike blocks in one program, for the cost of the one that is active.

    x_{j+1} = layer(p_j, x_j),    j = 0 … L - 1,    one p_i differentiated

A `switch` over L layers compiles L programs of L layers each. Where the layers are
alike their parameters stack, and `chain` finds the active one by a *traced* index: a
loop before it, which is not differentiated, the layer itself, and a loop after it,
through which the gradient comes back. One program then serves every layer, and layer i
costs 2 L - i products of a layer, as if it had been compiled for itself, and 2 (L - i)
for each further step on one minibatch (`Descent.visit` with `steps`), for the loop
before it is run once. (Indexing the stack and differentiating all of it costs 3 L - 1
whatever i is.)

The layer that moves is a block of its own beside the stack, and goes back when it has
been visited:

    def loss(params, batch, key):
        x, y, index = batch
        x = chain(layer, params['stack'], params['own'], index, x)
        return jnp.mean((x - y) ** 2), None

    descent = block_descent({'own': Block('own', loss, optax.adam(1e-3)),
                             'frozen': Block('stack', loss, optax.set_to_zero())})
    state = descent.init({'own': take(stack, index), 'stack': stack})
    state, info = descent.visit(state, (x, y, index), key, 'own', steps=5)
    stack = put(state.params['stack'], state.params['own'], index)

Shapes   L layers; a stack is a pytree of floating arrays [L, ...].
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import jaxpr_as_fun

Layer = Callable[[Any, Any], Any]  # (params of one layer, x) -> x of the same form


def take(stack: Any, index) -> Any:
    """Take one layer out of a stack.

    >>> take({'w': jnp.arange(6.).reshape(3, 2)}, 1)['w'].tolist()
    [2.0, 3.0]
    """
    return jax.tree.map(
        lambda x: lax.dynamic_index_in_dim(x, index, keepdims=False), stack)


def put(stack: Any, own: Any, index) -> Any:
    """Put one layer into a stack; the inverse of `take`."""
    return jax.tree.map(
        lambda x, one: lax.dynamic_update_index_in_dim(x, one, index, 0), stack, own)


def chain(layer: Layer, stack: Any, own: Any, index, x: Any) -> Any:
    """Apply a stack of layers, one of them given apart.

    The derivative is that of `own` and nothing else: the stack is taken for constant,
    and so is `x` for the layers before the active one.

    Args:
      layer: (params of one layer, x) -> x, of the same shapes and dtypes.
      stack: floating arrays [L, ...]; entry `index` is not used.
      own: the active layer's parameters, arrays [...].
      index: int32[], 0 <= index < L; may be traced. It is not checked.
      x: what the first layer is given, a pytree of floating arrays.

    Returns:
      What the last layer returns.

    >>> stack = {'w': jnp.array([2., 3., 5.])}
    >>> def output(own, index):
    ...     return chain(lambda p, x: p['w'] * x, stack, own, index, jnp.array(1.))
    >>> [float(jax.grad(output)(take(stack, i), i)['w']) for i in range(3)]
    [15.0, 10.0, 6.0]
    """
    index = jnp.asarray(index, jnp.int32)
    x, stack = lax.stop_gradient((x, stack))
    x = lax.fori_loop(0, index, lambda j, x: layer(take(stack, j), x), x)
    return _after(layer)(stack, index, layer(own, x))


def _after(layer: Layer):
    """The layers after `index`: (stack, index, x) -> x, differentiable in x."""

    @jax.custom_vjp
    def run(stack, index, x):
        return lax.fori_loop(index + 1, _length(stack),
                             lambda j, x: layer(take(stack, j), x), x)

    def forward(stack, index, x):
        step = _pullback(layer, take(stack, 0), x)
        saved = [jnp.zeros((_length(stack), *form.shape), form.dtype)
                 for form in step.forms]

        def body(j, carry):
            x, saved = carry
            x, values = step.forward(take(stack, j), x)
            return x, [put(all_of, one, j) for all_of, one in zip(saved, values)]

        x, saved = lax.fori_loop(index + 1, _length(stack), body, (x, saved))
        return x, (stack, index, saved, x)

    def backward(residuals, cotangent):
        stack, index, saved, x = residuals
        step = _pullback(layer, take(stack, 0), x)
        last = _length(stack) - 1

        def body(count, cotangent):
            j = last - count
            return step.backward(take(stack, j), take(saved, j), cotangent)

        # None: the stack is constant.
        return None, None, lax.fori_loop(0, last - index, body, cotangent)

    run.defvjp(forward, backward)
    return run


class _Pullback(NamedTuple):
    """A layer and its derivative in x, with what passes between them laid open.

    Attributes:
      forms: of the arrays that backward needs beside the layer's own parameters.
      forward: (params, x) -> (x, those arrays).
      backward: (params, those arrays, cotangent) -> cotangent.
    """

    forms: list[jax.ShapeDtypeStruct]
    forward: Callable[[Any, Any], tuple[Any, list[jax.Array]]]
    backward: Callable[[Any, list[jax.Array], Any], Any]


def _pullback(layer: Layer, params: Any, x: Any) -> _Pullback:
    structures = []

    def linearised(params, x):
        out, pull = jax.vjp(lambda x: layer(params, x), x)
        residuals, structure = jax.tree.flatten(pull)
        structures.append(structure)
        return out, residuals

    closed, (out, residuals) = jax.make_jaxpr(linearised, return_shape=True)(params, x)
    program, jaxpr = jaxpr_as_fun(closed), closed.jaxpr
    inputs = jaxpr.invars[:len(jax.tree.leaves(params))]
    ends = jaxpr.outvars[len(jaxpr.outvars) - len(residuals):]
    # The parameters are in the stack already; saving them would copy all of it.
    given = [inputs.index(var) if var in inputs else None for var in ends]

    def forward(params, x):
        values = program(*jax.tree.leaves((params, x)))
        ends = values[len(values) - len(given):]
        x = jax.tree.unflatten(jax.tree.structure(out), values[:-len(given) or None])
        return x, [value for value, i in zip(ends, given) if i is None]

    def backward(params, saved, cotangent):
        leaves, rest = jax.tree.leaves(params), iter(saved)
        values = [next(rest) if i is None else leaves[i] for i in given]
        return jax.tree.unflatten(structures[0], values)(cotangent)[0]

    return _Pullback([form for form, i in zip(residuals, given) if i is None],
                     forward, backward)


def _length(stack) -> int:
    return len(jax.tree.leaves(stack)[0])
