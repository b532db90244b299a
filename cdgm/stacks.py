"""Stacks: alike layers on a leading axis, of which some are open and the rest at rest.

    x_{j+1} = layer(p_j, x_j),    j = 0 ... L - 1

A loss is written once, with `apply`, and serves whoever trains it. Given the stack as
it is, an array [L, ...] a leaf, it is a scan, and everything can be differentiated.
Given `Opened`, as `cdgm.block_descent` hands it to the losses of blocks made by
`cdgm.layers.blocks`, it differentiates the open layers alone: a loop before them, which
is not differentiated, the layers themselves, and a loop after them, through which the
gradient comes back. The place is traced, so one program serves every layer, and layer i
costs 2 L - i products of a layer (3 L - 1 to differentiate all), and 2 (L - i) for each
further step on one minibatch, for the loop before it is run once.

At rest a leaf may have 16 bits: `encode` gives bfloat16 coded as uint16, and the loops
decode one layer at a time. (Of a bfloat16 array, which is taken too, XLA:CPU converts
the whole stack in front of the loop, and even naming its bits another way copies it.)
What goes back is rounded stochastically (`round_stochastically`), for to the nearest
most small updates are lost.

A leaf may rest in the host's memory (`to_host`), which JAX has in its type. The loops
then bring one layer at a time to the device, and what is put back goes to the host.

Shapes   L layers, G of them open; a stack is a pytree of arrays [L, ...], floating or
         coded.
"""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import jaxpr_as_fun
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cdgm import blocks as trees

_HOST = 'pinned_host'  # kind of memory, as JAX calls it

Layer = Callable[[Any, Any], Any]  # (params of one layer, x) -> x of the same form
# (params of one layer, their gradient) -> params; keeps no state.
Rider = Callable[[Any, Any], Any]
Reach = Literal['deeper', 'all']


@partial(jax.tree_util.register_dataclass,
         data_fields=['stack', 'own', 'start', 'key'],
         meta_fields=['size', 'rider', 'reach'])
@dataclasses.dataclass(frozen=True)
class Opened:
    """A stack with some layers open, in the place of the stack: for `apply` alone.

    Attributes:
      stack: the stack at rest, a pytree of arrays [L, ...]; constant, unless it rides.
      own: what is open of the layers, of the structure of one layer with holes
        (`optax.MaskedNode`) for what stays at rest; arrays [...] if one layer is open,
        [G, ...] if several. None if no layer is.
      start: int32[], the first open layer; may be traced, and is not checked.
      key: PRNG key[] for the rounding of what rides; None where nothing does.
      size: G, 0 if no layer is open.
      rider: how the other layers move along, or None.
      reach: which of them: 'deeper' than the open ones, or 'all'.
    """

    stack: Any
    own: Any
    start: Any
    key: Any = None
    size: int = 1
    rider: Rider | None = None
    reach: Reach = 'deeper'

    def __getitem__(self, name):
        raise TypeError(f'a stack with open layers was asked for {name!r}; a loss reads'
                        ' a stack by cdgm.layers.apply(layer, stack, x) alone.')


def apply(layer: Layer, stack: Any, x: Any, *, remat: bool = True, policy=None) -> Any:
    """Apply the layers of a stack, one after another.

    Args:
      layer: (params of one layer, x) -> x, of the same shapes and dtypes. Parameters
        of 16 bits reach it as float32.
      stack: a pytree of arrays [L, ...], or an `Opened`.
      x: what the first layer is given, a pytree of arrays.
      remat: whether the backward pass computes the inside of a layer anew
        (`jax.checkpoint`) and keeps only what each layer was given. Without, what the
        layers keep soon drowns what an optimiser saves.
      policy: what to keep all the same, see `jax.checkpoint_policies`.

    Returns:
      What the last layer returns.

    >>> stack = {'w': jnp.array([2., 3., 5.])}
    >>> float(apply(lambda p, x: p['w'] * x, stack, jnp.array(1.)))
    30.0
    """
    def decoded(params, x):
        return layer(jax.tree.map(_decode, params), x)

    if remat:
        # Nothing to prevent: in loops the two computations cannot be merged.
        decoded = jax.checkpoint(decoded, policy=policy, prevent_cse=False)
    if isinstance(stack, Opened):
        return _apply_opened(decoded, stack, x)
    return lax.scan(lambda x, params: (decoded(params, x), None), x, stack)[0]


def take(stack: Any, index, size: int = 1) -> Any:
    """Take one layer out of a stack, or with `size` > 1 so many, on a leading axis.

    >>> take({'w': jnp.arange(6.).reshape(3, 2)}, 1)['w'].tolist()
    [2.0, 3.0]
    """
    def one(x):
        coded = _alone(x) if on_host(x) else _code(x)
        part = (lax.dynamic_index_in_dim(coded, index, keepdims=False) if size == 1
                else lax.dynamic_slice_in_dim(coded, index, size))
        return lax.bitcast_convert_type(_near(part), x.dtype)

    return jax.tree.map(one, stack)


def put(stack: Any, own: Any, index, size: int = 1) -> Any:
    """Put one layer, or `size` of them, into a stack; the inverse of `take`."""
    update = (lax.dynamic_update_index_in_dim if size == 1
              else lax.dynamic_update_slice_in_dim)

    def one(x, part):
        if on_host(x):
            return update(_alone(x), jax.device_put(part, jax.memory.Space.Host),
                          index, 0)
        return lax.bitcast_convert_type(update(_code(x), _code(part), index, 0),
                                        x.dtype)

    return jax.tree.map(one, stack, own)


def at_rest(params: Any, like: Any, key: jax.Array) -> Any:
    """Give parameters the dtypes that they have at rest; the inverse of `decode`.

    Args:
      params: a pytree of arrays; float32 where `like` is bfloat16.
      like: of the same structure, with the dtypes at rest, coded or not.
      key: PRNG key[] of the rounding.
    """
    leaves, structure = jax.tree.flatten(params)
    forms = jax.tree.leaves(like)
    resting = [round_stochastically(leaf, jax.random.fold_in(key, i))
               if is_half(form.dtype) else leaf
               for i, (leaf, form) in enumerate(zip(leaves, forms))]
    return jax.tree.unflatten(structure, [
        _code(leaf) if form.dtype == jnp.uint16 else leaf
        for leaf, form in zip(resting, forms)])


def round_stochastically(x: jax.Array, key: jax.Array) -> jax.Array:
    """Round float32 to bfloat16, up or down at random, without bias.

    P(up) = (x - down) / (up - down), so E[result] = x, for finite x.

    Args:
      x: float32[...].
      key: PRNG key[].

    Returns:
      bfloat16[...]; what is not finite stays what it is.
    """
    bits = lax.bitcast_convert_type(x.astype(jnp.float32), jnp.uint32)
    noise = _hashed(jax.random.bits(key, (2,), jnp.uint32), jnp.shape(x)) >> 16
    rounded = lax.bitcast_convert_type(
        ((bits + noise) >> 16).astype(jnp.uint16), jnp.bfloat16)
    return jnp.where(jnp.isfinite(x), rounded, x.astype(jnp.bfloat16))


def _hashed(seed: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Random bits uint32[shape], a hash of each place: nothing of that size is held.

    `jax.random.bits` of a layer would take more room than all else that a step of it
    computes. The hash is lowbias32 (C. Wellons, github.com/skeeto/hash-prospector).
    """
    place = seed[0] + jnp.arange(math.prod(shape), dtype=jnp.uint32).reshape(shape)
    place = (place ^ place >> 16) * jnp.uint32(0x7feb352d)
    place = (place ^ place >> 15) * jnp.uint32(0x846ca68b)
    place = (place ^ place >> 16 ^ seed[1]) * jnp.uint32(0x7feb352d)
    return place ^ place >> 16


def depth(stack: Any) -> int:
    """Return L, the length of the leading axis."""
    return len(jax.tree.leaves(stack)[0])


def encode(stack: Any) -> Any:
    """Give a stack 16 bits at rest: bfloat16, to the nearest, coded as uint16.

    >>> stack = encode({'w': jnp.array([[1., 2.5]])})
    >>> stack['w'].dtype.name, decode(stack)['w'].tolist()
    ('uint16', [[1.0, 2.5]])
    """
    return jax.tree.map(lambda leaf: leaf if leaf.dtype == jnp.uint16 else _code(
        leaf.astype(jnp.bfloat16)), stack)


def decode(tree: Any) -> Any:
    """Give what rests as it moves: on the device, in float32 where it has 16 bits."""
    return jax.tree.map(_decode, tree)


def uncode(tree: Any) -> Any:
    """Give what is coded as bfloat16, of which there are derivatives."""
    return jax.tree.map(lambda leaf: lax.bitcast_convert_type(leaf, jnp.bfloat16)
                        if leaf.dtype == jnp.uint16 else leaf, tree)


def recode(tree: Any, like: Any) -> Any:
    """Code what was coded; the inverse of `uncode`."""
    return jax.tree.map(lambda leaf, form: _code(leaf) if form.dtype == jnp.uint16
                        else leaf, tree, like)


def is_half(dtype) -> bool:
    """Return whether a dtype is one that a stack may have at rest and not move in."""
    return dtype in (jnp.bfloat16, jnp.uint16)


def to_host(stack: Any) -> Any:
    """Lay the matrices of a stack into the host's memory, to be read layer by layer.

    Vectors, such as biases, stay: they are small, and of 16 bits the compiler for TPUs
    cannot slice one out. `jax.device_put(stack, jax.memory.Space.Device)` brings all
    back.

    Args:
      stack: a pytree of arrays [L, ...], of NumPy or on a device, or of
        `jax.ShapeDtypeStruct` in their place. NumPy's do not pass through the device.

    Returns:
      The same, with what has three axes or more in pinned host memory, sharded over the
      devices as before.

    Raises:
      ValueError: the platform has no such memory.

    >>> stack = to_host({'w': jnp.ones((3, 2, 2)), 'b': jnp.ones((3, 2))})
    >>> [stack[name].sharding.memory_kind for name in 'wb']
    ['pinned_host', 'device']
    >>> x = apply(lambda p, x: x @ p['w'] + p['b'], stack, jnp.ones(2))
    >>> x.tolist(), x.sharding.memory_kind
    ([15.0, 15.0], 'device')
    """
    return jax.tree.map(lambda leaf: _to_host(leaf) if leaf.ndim > 2 else leaf, stack)


def _to_host(leaf):
    concrete = isinstance(leaf, jax.Array) and not isinstance(leaf, jax.core.Tracer)
    device = next(iter(leaf.devices())) if concrete else jax.devices()[0]
    kinds = sorted(memory.kind for memory in device.addressable_memories())
    if _HOST not in kinds:
        raise ValueError(f'the platform {device.platform!r} has no {_HOST} memory, '
                         f'only {kinds}; leave the stack on the device.')
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return host_form(leaf)
    return jax.device_put(leaf, leaf.sharding.with_memory_kind(_HOST) if concrete
                          else jax.memory.Space.Host)


def host_form(leaf: Any) -> jax.ShapeDtypeStruct:
    """The form of an array in the host's memory, of any other's shape and sharding."""
    sharding = leaf.sharding
    if not isinstance(sharding, NamedSharding):
        # JAX takes the memory from a struct's sharding into its type if it has names.
        devices = np.array(jax.devices()[:1])
        sharding = NamedSharding(Mesh(devices, ('device',)), PartitionSpec())
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype,
                                sharding=sharding.with_memory_kind(_HOST))


def on_host(tree: Any) -> bool:
    """Return whether any array of a tree, traced or a struct too, is on the host."""
    return any(map(_is_on_host, jax.tree.leaves(tree)))


def _is_on_host(leaf) -> bool:
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf.sharding is not None and leaf.sharding.memory_kind == _HOST
    return jax.typeof(leaf).memory_space == jax.memory.Space.Host


@jax.custom_batching.custom_vmap
def _alone(leaf):
    """Refuse `vmap`, which would gather: on the host one can slice, and no more."""
    return leaf


@_alone.def_vmap
def _refuse_vmap(axis_size, in_batched, leaf):
    raise ValueError('a stack in host memory is under vmap, and is read there one layer'
                     ' at a time; loop over the seeds, or keep the stack on the device.'
                     )


def _near(leaf):
    """Bring to the device what is in the host's memory, where nothing is computed."""
    return jax.device_put(leaf, jax.memory.Space.Device) if on_host(leaf) else leaf


def _decode(leaf):
    leaf = uncode(_near(leaf))
    return leaf.astype(jnp.float32) if is_half(leaf.dtype) else leaf


def _code(leaf):
    """Hide from the compiler that it is a number, so that it converts one layer.

    Without, XLA:CPU, which has no bfloat16, reads, slices and updates the float32 of
    the whole stack. On the host nothing is computed, this neither.
    """
    return (lax.bitcast_convert_type(leaf, jnp.uint16)
            if leaf.dtype == jnp.bfloat16 and not on_host(leaf) else leaf)


def _apply_opened(layer: Layer, opened: Opened, x: Any) -> Any:
    """Apply the layers before the open ones, these, and those after them."""
    own, start, size = opened.own, opened.start, opened.size
    stack, length = opened.stack, depth(opened.stack)
    if opened.rider is None:
        stack = lax.stop_gradient(stack)
    before, after = _pass(layer), _pass(layer)
    if opened.rider is not None:
        after = _riding_pass(layer, opened.rider, opened.key, last=True)
        if opened.reach == 'all':
            before = _riding_pass(layer, opened.rider, opened.key, last=not size)
    if not size:
        return (before if opened.reach == 'all' else after)(stack, 0, length, x)[0]
    start = jnp.asarray(start, jnp.int32)
    x, stack = before(stack, 0, start, x)
    coded = lax.stop_gradient(jax.tree.map(_code, stack))
    x = _apply_own(layer, coded, own, start, size, x)
    return after(stack, start + size, length, x)[0]


def _apply_own(layer: Layer, coded: Any, own: Any, start, size: int, x: Any) -> Any:
    """Apply the open layers; what of them stays at rest is read from the stack."""
    def one(own, j, x):
        return layer(trees.merge(own, take(coded, j)), x)

    if size == 1:
        return one(own, start, x)
    return lax.scan(lambda x, at: (one(*at, x), None), x,
                    (own, start + jnp.arange(size)))[0]


def _pass(layer: Layer):
    """(stack, start, stop, x) -> (x, stack), layers start ... stop - 1 at rest.

    Differentiable in x, at the cost of a product a layer; where x does not depend on
    what is differentiated, nothing is kept.
    """
    @jax.custom_vjp
    def run(coded, start, stop, x):
        return lax.fori_loop(start, stop, lambda j, x: layer(take(coded, j), x), x)

    def forward(coded, start, stop, x):
        step = _pullback(layer, take(coded, 0), x)
        saved = [jnp.zeros((depth(coded), *form.shape), form.dtype)
                 for form in step.forms]

        def body(j, carry):
            x, saved = carry
            x, values = step.forward(take(coded, j), x)
            return x, [lax.dynamic_update_index_in_dim(all_of, one, j, 0)
                       for all_of, one in zip(saved, values)]

        x, saved = lax.fori_loop(start, stop, body, (x, saved))
        return x, (coded, start, stop, saved, x)

    def backward(residuals, cotangent):
        coded, start, stop, saved, x = residuals
        step = _pullback(layer, take(coded, 0), x)

        def body(count, cotangent):
            j = stop - 1 - count
            return step.backward(take(coded, j), take(saved, j), cotangent)

        # None: the stack is constant.
        return None, None, None, lax.fori_loop(0, stop - start, body, cotangent)

    run.defvjp(forward, backward)

    def through(stack, start, stop, x):
        coded = lax.stop_gradient(jax.tree.map(_code, stack))
        return run(coded, jnp.asarray(start), jnp.asarray(stop), x), stack

    return through


def _riding_pass(layer: Layer, rider: Rider, key, last: bool):
    """The same, but the layers move along: the stack's "gradient" is where they get to.

    The backward loop knows each layer's gradient for one product more. To keep it until
    the end would take as much room as the stack; so the loop moves the layer there and
    then, in place, and hands the moved stack out in the place of its gradient. A pass
    in front, which comes later in the backward pass, goes on from the stack that the
    one behind it hands out; the `last` one starts from the stack itself.
    """
    @jax.custom_vjp
    def run(stack, start, stop, key, x):
        coded = jax.tree.map(_code, stack)
        return lax.fori_loop(start, stop, lambda j, x: layer(take(coded, j), x),
                             x), stack

    def forward(stack, start, stop, key, x):
        coded = jax.tree.map(_code, stack)
        saved = jax.tree.map(lambda x: jnp.zeros((depth(stack), *x.shape), x.dtype), x)

        def body(j, carry):
            x, saved = carry
            return layer(take(coded, j), x), put(saved, x, j)

        x, saved = lax.fori_loop(start, stop, body, (x, saved))
        # Kept is the coded stack alone: with the other there would be two.
        return (x, stack), (coded, start, stop, key, saved)

    def backward(residuals, cotangents):
        coded, start, stop, key, saved = residuals
        cotangent, moved = cotangents
        coded = coded if last else jax.tree.map(_code, moved)

        # Each layer is written when the next one begins: were it written when it has
        # moved, the compiler could not tell that all have read it, and would copy.
        def body(count, carry):
            coded, behind, cotangent = carry
            j = stop - 1 - count
            coded = put(coded, behind, j + 1)
            params = decode(take(coded, j))
            _, pull = jax.vjp(layer, params, take(saved, j))
            grads, cotangent = pull(cotangent)
            return coded, at_rest(rider(params, grads), coded,
                                  jax.random.fold_in(key, j)), cotangent

        # What is first behind is not in the loop, and goes back to where it was.
        coded, behind, cotangent = lax.fori_loop(
            0, stop - start, body, (coded, take(coded, stop), cotangent))
        coded = put(coded, behind, start)
        moved = jax.tree.map(lambda leaf, like: lax.bitcast_convert_type(
            leaf, like.dtype), coded, moved)
        return moved, None, None, None, cotangent

    run.defvjp(forward, backward)

    def through(stack, start, stop, x):
        return run(stack, jnp.asarray(start), jnp.asarray(stop), key, x)

    return through


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
