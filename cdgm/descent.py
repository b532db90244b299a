"""Block descent: one block of the parameters moves, the rest keep their bits.

    theta_b <- theta_b - U_b(d L_b / d theta_b),    theta_c unchanged for c != b

A *step* is one update of one block. A *visit* is several steps on the same block. A
*cycle* is a sequence of updates, each from where the last one ended (Gauss-Seidel);
*simultaneous* moves all blocks from the same point (Jacobi). Each block has its own
loss and its own tx, so that a VAE's encoder and decoder share one loss while a GAN's
discriminator and generator have two.

Only the active block is differentiated and only its leaves are written. The block is an
argument of `step`. A name compiles the program of that block alone; a traced index
compiles one `lax.switch` over the blocks, which under `vmap` stays a switch as long as
the index is shared (`in_axes=None`), and otherwise runs every branch.

Nothing here calls `jit`; the caller does, once, at the outside, and donates the state.
"""

import itertools
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from cdgm import blocks as trees
from cdgm.blocks import Params, Selector
from cdgm.gradient_move import Evaluation, Move, as_move
from cdgm.transforms import sync_global_count
from cdgm.reuse import hoist_invariants
from cdgm.riders import check_riders, riding_move
from cdgm.switching import switch

# (params, batch, key) -> (scalar, aux); aux is a pytree of arrays.
LossFn = Callable[[Params, Any, jax.Array], tuple[jax.Array, Any]]


class Block(NamedTuple):
    """A subtree of the parameters, the loss that it descends, and how.

    Attributes:
      leaves: which leaves it owns, see `cdgm.blocks.selects`; '' owns all.
      loss: (params, batch, key) -> (scalar, aux), a function of *all* parameters.
      tx: an optax transformation, or a `cdgm.moves.Move`. It sees the active leaves only,
        so its clipping, decay and counts are the block's own; see `cdgm.transforms`.
      ephemeral: reset the tx's state at the start of each visit. Such a state never
        enters the carry, so it costs no memory between visits.
      riders: names of other blocks, each with a stateless optax transformation by which
        its leaves move along with this block's, see `cdgm.riders`.
    """

    leaves: Selector
    loss: LossFn
    tx: optax.GradientTransformation | Move
    ephemeral: bool = False
    riders: Mapping[str, optax.GradientTransformation] = {}


class DescentState(NamedTuple):
    """What a descent carries from step to step.

    Attributes:
      params: the whole tree.
      opt_state: block name -> state of its tx; ephemeral blocks have none.
      count: int32[], steps taken (a simultaneous step counts once).
    """

    params: Params
    opt_state: dict[str, Any]
    count: jax.Array  # type: ignore[assignment]  # hides tuple.count


class StepInfo(NamedTuple):
    """What a step reports. A visit or a cycle stacks one a step, leading axis K.

    Attributes:
      block: int32[], index of the block that moved; -1 if the index was out of range,
        in which case nothing moved and the loss is NaN.
      loss: float[], the block's loss before the move.
      grad_norm: float[], 2-norm of the active block's gradient.
      aux: block name -> what its loss returned beside the value, as floating arrays;
        NaN for the blocks that did not move, so that `jnp.nanmean` over a scan gives
        each block's own mean.
    """

    block: jax.Array
    loss: jax.Array
    grad_norm: jax.Array
    aux: dict[str, Any]


class Descent(NamedTuple):
    """The pure functions that `block_descent` returns.

    Attributes:
      blocks: name -> Block, in the order that indices count.
      init: params -> DescentState.
      step: (state, batch, key, block, **extra) -> (state, StepInfo). `block` is a name,
        a Python index (both static), or an int32[] that may be traced. `extra` goes to
        the block's tx, as optax's extra arguments do.
      visit: (state, batches, keys, block, steps=None, **extras) -> (state,
        StepInfo[K]): K steps in one scan; `batches`, `keys` and `extras` have a leading
        axis K. With steps=K one minibatch serves them all, and one key or keys[K]; what
        the active block cannot change is then computed once (see `cdgm.hoist_invariants`).
      cycle: (state, batch, key, order) -> (state, StepInfo[len(order)]): updates the
        named blocks in turn. One key serves all updates on the one minibatch (common
        random numbers), so that they can share their work; keys[len(order)] come with
        minibatches stacked in the same way, one an update. A run of one name in the
        order is one visit.
      simultaneous: (state, batch, key) -> (state, StepInfo[B]): all blocks move from
        the same point, each by its own tx; nobody rides.
    """

    blocks: dict[str, Block]
    init: Callable[[Params], DescentState]
    step: Callable[..., tuple[DescentState, StepInfo]]
    visit: Callable[..., tuple[DescentState, StepInfo]]
    cycle: Callable[..., tuple[DescentState, StepInfo]]
    simultaneous: Callable[..., tuple[DescentState, StepInfo]]


def block_descent(blocks: Mapping[str, Block]) -> Descent:
    """Descend one block at a time.

    Args:
      blocks: name -> Block. Every leaf of the parameters belongs to exactly one; a
        block that no schedule visits is frozen.

    Returns:
      A `Descent` of pure functions.

    Raises:
      ValueError: at `init`, if blocks overlap, miss a leaf or own none, or a rider
        cannot ride; at the first trace, if a block is unknown or a loss is not a
        scalar.
      TypeError: a leaf is not a floating array, or a loss returns no (scalar, aux).

    >>> def loss(params, batch, key):
    ...     return (params['x'] - params['y']) ** 2 + params['x'] ** 2, None
    >>> descent = block_descent({'x': Block('x', loss, optax.sgd(0.25)),
    ...                          'y': Block('y', loss, optax.sgd(0.5))})
    >>> state = descent.init({'x': jnp.array(1.0), 'y': jnp.array(3.0)})
    >>> state, info = descent.step(state, None, jax.random.key(0), 'x')
    >>> float(state.params['x']), float(state.params['y']), float(info.loss)
    (1.5, 3.0, 5.0)
    """
    blocks = dict(blocks)
    names = tuple(blocks)
    selectors = {name: block.leaves for name, block in blocks.items()}
    moves = {name: riding_move(block.tx, name, block.riders, selectors)
             if block.riders else as_move(block.tx) for name, block in blocks.items()}

    def label(params):
        return trees.label(params, selectors)

    def init(params):
        labels = label(params)
        for name, block in blocks.items():
            check_riders(block.tx, name, block.riders, params, labels)
        # A dtype makes the type strong: a weak one would change after the first step.
        params = jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(x)), params)
        opt_state = {name: moves[name].init(trees.split(params, labels, name)[0])
                     for name in names if not blocks[name].ephemeral}
        return DescentState(params, opt_state, jnp.zeros((), jnp.int32))

    def enter(state, labels, name):
        """Take a block out of the state: (active, its tx's state, the rest)."""
        riders = blocks[name].riders  # active as well, for they move
        active, frozen = trees.split(state.params, jax.tree.map(
            lambda own: name if own in riders else own, labels), name)
        if blocks[name].ephemeral:
            return active, moves[name].init(active), frozen
        return active, sync_global_count(state.opt_state[name], state.count), frozen

    def kept(opt_state, name, own):
        """The states of all txs, with that of a block put back."""
        return opt_state if blocks[name].ephemeral else {**opt_state, name: own}

    def leave(state, name, active, own, frozen, steps):
        """Put a block back."""
        return DescentState(trees.merge(active, frozen),
                            kept(state.opt_state, name, own), state.count + steps)

    def value(name, active, frozen, batch, key):
        """A block's loss, checked: (scalar, aux)."""
        params = trees.merge(active, frozen)
        return _checked(name, blocks[name].loss(params, batch, key))

    def move(name, objective, active, own, frozen, batch, key, extra):
        """Move one block: (active, its tx's state, StepInfo)."""
        moved, own, seen = moves[name].apply(objective, active, own, **extra)
        aux = _aux_of_all(blocks, name, seen.aux, trees.merge(active, frozen), batch,
                          key)
        return moved, own, _info(names.index(name), seen, aux)

    def step_from(name, active, own, frozen, batch, key, extra):
        return move(name, lambda active: value(name, active, frozen, batch, key),
                    active, own, frozen, batch, key, extra)

    def step_named(name, labels, state, batch, key, extra):
        active, own, frozen = enter(state, labels, name)
        active, own, info = step_from(name, active, own, frozen, batch, key, extra)
        return leave(state, name, active, own, frozen, 1), info

    def visit_named(name, labels, state, batches, keys, extras):
        active, own, frozen = enter(state, labels, name)

        # The frozen leaves are closed over, not carried: a carry is copied.
        def body(carry, data):
            active, own = carry
            batch, key, extra = data
            active, own, info = step_from(name, active, own, frozen, batch, key, extra)
            return (active, own), info

        (active, own), infos = _scan(body, (active, own), (batches, keys, extras),
                                     len(keys))
        return leave(state, name, active, own, frozen, len(keys)), infos

    def visit_shared(steps, name, labels, state, batch, key, extras):
        active, own, frozen = enter(state, labels, name)
        keys = None if _is_one(key) else key

        def objective(active, fresh):
            return value(name, active, frozen, batch, key if keys is None else fresh)

        # The loop would compute anew at each step what is the same at all of them.
        objective = hoist_invariants(objective, active, None if keys is None else keys[0])

        def body(carry, data):
            active, own = carry
            fresh, extra = data
            active, own, info = move(
                name, lambda active: objective(active, fresh), active, own, frozen,
                batch, key if keys is None else fresh, extra)
            return (active, own), info

        (active, own), infos = _scan(body, (active, own), (keys, extras), steps)
        return leave(state, name, active, own, frozen, steps), infos

    def dispatch(function, state, batch, key, block, extra):
        """Run the program of a static block, or switch on a traced one."""
        labels = label(state.params)
        if isinstance(block, trees.StaticBlock):
            name = trees.block_name(block, names)
            return function(name, labels, state, batch, key, extra)

        branches = [partial(function, name, labels) for name in names]

        # `lax.switch` clamps a bad index, which would train the wrong block silently.
        def nothing(state, *args):
            _, info = jax.eval_shape(branches[0], state, *args)
            bad = jnp.full(info.block.shape, -1, jnp.int32)
            return state, jax.tree.map(_not_a_number, info)._replace(block=bad)

        def changes(name):
            """Which leaves of the state a branch may change."""
            own = {name, *blocks[name].riders}
            return DescentState(
                jax.tree.map(lambda owner: owner in own, labels),
                {other: jax.tree.map(lambda _: other == name, inner)
                 for other, inner in state.opt_state.items()},
                jax.tree.map(lambda _: True, state.count))

        each = [changes(name) for name in names]
        none = jax.tree.map(lambda _: False, state)
        valid = (block >= 0) & (block < len(names))
        return switch(jnp.where(valid, block, len(names)), [*branches, nothing],
                      [*each, none], state, batch, key, extra)

    def step(state, batch, key, block, **extra):
        return dispatch(step_named, state, batch, key, block, extra)

    def visit(state, batches, keys, block, steps=None, **extras):
        run = visit_named if steps is None else partial(visit_shared, steps)
        return dispatch(run, state, batches, keys, block, extras)

    def cycle(state, batch, key, order):
        order = [trees.block_name(block, names) for block in order]
        one = _check_data(batch, key, len(order))
        infos, start = [], 0
        for name, run in itertools.groupby(order):
            stop = start + len(list(run))
            if one:
                state, info = visit(state, batch, key, name, steps=stop - start)
            else:
                batches, keys = jax.tree.map(lambda x: x[start:stop], (batch, key))
                state, info = visit(state, batches, keys, name)
            infos.append(info)
            start = stop
        return state, jax.tree.map(lambda *xs: jnp.concatenate(xs), *infos)

    def simultaneous(state, batch, key):
        if any(block.riders for block in blocks.values()):
            # A rider would move twice: by its own tx, and along with another block.
            alone = {name: block._replace(riders={}) for name, block in blocks.items()}
            return block_descent(alone).simultaneous(state, batch, key)
        labels = label(state.params)
        params, opt_state, infos = state.params, state.opt_state, []
        for name in names:
            active, own, frozen = enter(state, labels, name)
            active, own, info = step_from(name, active, own, frozen, batch, key, {})
            params = trees.merge(active, trees.split(params, labels, name)[1])
            opt_state = kept(opt_state, name, own)
            infos.append(info)
        return (DescentState(params, opt_state, state.count + 1),
                jax.tree.map(lambda *xs: jnp.stack(xs), *infos))

    return Descent(blocks, init, step, visit, cycle, simultaneous)


def _scan(body, carry, data, steps: int):
    """`lax.scan`, but one step is no loop, so that updates can share their work."""
    if steps != 1:
        return lax.scan(body, carry, data, steps)
    carry, info = body(carry, jax.tree.map(lambda x: x[0], data))
    return carry, jax.tree.map(lambda x: x[None], info)


def _is_one(key) -> bool:
    """Say whether a key, typed, old (uint32[2]) or None, has no leading axis."""
    if key is None:
        return True
    return key.ndim == (0 if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else 1)


def _check_data(batch, key, updates: int) -> bool:
    """Say whether a cycle has one minibatch; if not, check that each update has one."""
    if not updates:
        raise ValueError('the order of a cycle is empty; name the blocks to visit.')
    if _is_one(key):
        return True
    axes = {jnp.shape(x)[:1] for x in jax.tree.leaves((batch, key))}
    if axes != {(updates,)}:
        raise ValueError(f'the cycle has {updates} updates, and leading axes of its '
                         f'minibatches and keys are {sorted(axes)}; give one '
                         'minibatch and one key, or one of each an update.')
    return False


def _checked(name: str, returned) -> tuple[jax.Array, Any]:
    """Check what a loss returned; while tracing, so before anything compiles."""
    if not isinstance(returned, tuple) or len(returned) != 2:
        raise TypeError(f'loss of block {name!r} returned {type(returned).__name__}; '
                        'a loss returns (scalar, aux). Return (loss, None) if there is '
                        'nothing to report.')
    loss, aux = returned
    if jnp.shape(loss) != ():
        raise ValueError(f'loss of block {name!r} has shape {jnp.shape(loss)}; a loss '
                         'is a scalar. Take the mean over the batch.')
    return loss, aux


def _info(index: int, seen: Evaluation, aux) -> StepInfo:
    # All branches of a switch return the same types, whatever dtype a loss has.
    return StepInfo(jnp.asarray(index, jnp.int32), jnp.asarray(seen.loss, float),
                    jnp.asarray(seen.grad_norm, float), aux)


def _aux_of_all(blocks: dict[str, Block], name: str, aux, params, batch, key):
    """{block: aux}, the active block's as it is, the others' of NaN.

    Blocks that share a loss share the form of its aux, so nothing is traced for them.
    """
    forms = {id(blocks[name].loss): aux}
    for other, block in blocks.items():
        if id(block.loss) not in forms:
            _, forms[id(block.loss)] = jax.eval_shape(
                lambda: _checked(other, block.loss(params, batch, key)))
    return {other: jax.tree.map(_floating if other == name else _not_a_number,
                                forms[id(block.loss)])
            for other, block in blocks.items()}


def _floating(x) -> jax.Array:
    x = jnp.asarray(x)
    return x if jnp.issubdtype(x.dtype, jnp.inexact) else x.astype(float)


def _not_a_number(x) -> jax.Array:
    dtype = x.dtype if jnp.issubdtype(x.dtype, jnp.inexact) else float
    return jnp.full(x.shape, jnp.nan, dtype)
