"""Block descent: one block of the parameters moves, the rest keep their bits.

    theta_b <- theta_b - U_b(d L_b / d theta_b),    theta_c unchanged for c != b

A *step* is one update of one block. A *visit* is several steps on the same block. A
*cycle* is a sequence of updates, each from where the last one ended (Gauss-Seidel);
*simultaneous* moves all blocks from the same point (Jacobi). Each block has its own
loss and its own tx, so that a VAE's encoder and decoder share one loss while a GAN's
discriminator and generator have two.

What a loss changes and nobody descends, such as batch statistics, is the model state:
where there is one, a loss is

    (params, model_state, batch, key) -> (scalar, (aux, model_state)),

and what the active block's loss returns is handed to the next step's. So it is the loss
that says what the normalisation of a frozen net does: return the statistics as they
were, and they stay.

Only the active block is differentiated and only its leaves are written. The block is an
argument of `step`. A name compiles the program of that block alone; a traced index
compiles one `lax.switch` over the blocks, which under `vmap` stays a switch as long as
the index is shared (`in_axes=None`), and otherwise runs every branch.

The blocks of a family (`cdgm.layers.blocks`) are the layers of a stack: one program
moves any of them, at a place that is traced. A pair (family, int32[]) names one without
a switch over what else there is.

Nothing here calls `jit`; the caller does, once, at the outside, and donates the state.
"""

import inspect
import itertools
import operator
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol, get_args

import jax
import jax.numpy as jnp
import optax
from jax import lax

from cdgm import blocks as trees
from cdgm import families, stacks
from cdgm.blocks import BlockIndex, Params, Selector, StaticBlock
from cdgm.extras import check_extras
from cdgm.families import Layers, Place, Program
from cdgm.gradient_move import Move, apply_gradient, as_move, steepest_ascent
from cdgm.transforms import sync_global_count
from cdgm.reuse import hoist_invariants
from cdgm.riders import Moving, accompanied_move, check_riders, layer_rider
from cdgm.switching import switch

# (params, batch, key) -> (scalar, aux), or with a model state
# (params, model_state, batch, key) -> (scalar, (aux, model_state)); aux is a pytree of
# arrays.
LossFn = Callable[..., tuple[jax.Array, Any]]


class Block(NamedTuple):
    """A subtree of the parameters, the loss that it descends, and how.

    Attributes:
      leaves: which leaves it owns, see `cdgm.blocks.selects`; '' owns all.
      loss: see `LossFn`; a function of *all* parameters.
      tx: an optax transformation, or a `cdgm.moves.Move`. It sees the active leaves
        only, so its clipping, decay and counts are the block's own; see
        `cdgm.transforms`.
      ephemeral: reset the tx's state at the start of each visit. Such a state never
        enters the carry, so it costs no memory between visits.
      riders: names of other blocks, each with a stateless optax transformation by which
        its leaves move along with this block's, see `cdgm.riders`. The name of a family
        stands for its layers.
      batch: minibatch -> the part of it that the loss is given; all of it if left out.
      companions: names of other blocks that move in the same step down this block's
        loss, by their own tx and with their own state, see `cdgm.riders`.
      layers: which layers of a stack it is, see `cdgm.layers.blocks`.
    """

    leaves: Selector
    loss: LossFn
    tx: optax.GradientTransformation | Move
    ephemeral: bool = False
    riders: Mapping[str, optax.GradientTransformation] = {}
    batch: Callable[[Any], Any] | None = None
    companions: Sequence[str] = ()
    layers: Layers | None = None


class DescentState(NamedTuple):
    """What a descent carries from step to step.

    Attributes:
      params: the whole tree.
      opt_state: block name -> state of its tx; ephemeral blocks have none. A family has
        one entry, the states of its blocks on a leading axis.
      count: int32[], steps taken (a simultaneous step counts once).
      model_state: a pytree of arrays of any dtype that the losses change, or None.
    """

    params: Params
    opt_state: dict[str, Any]
    count: jax.Array  # type: ignore[assignment]  # hides tuple.count
    model_state: Any = None


class StepInfo(NamedTuple):
    """What a step reports. A visit or a cycle stacks one a step, leading axis K.

    Attributes:
      block: int32[], index of the block that moved; -1 if nothing moved, because a
        traced index was out of range (the rest is zero) or because the move could not
        be made (as by `cdgm.moves.exact_minimisation`; the rest is the block's own).
      loss: float[], the block's loss before the move.
      grad_norm: float[], 2-norm of the active block's gradient; None with
        `block_descent(..., grad_norm=False)`.
      aux: block name, or family -> what its loss returned beside the value, of the
        dtypes that it has there. A named step has the entry of the block that moved; a
        cycle those of its blocks, each stacked over the block's own updates. A traced
        step, whose branches are of one type, has all entries, with zeros for the blocks
        that did not move: `block` says which one did.
    """

    block: jax.Array
    loss: jax.Array
    grad_norm: jax.Array | None
    aux: dict[str, Any]


class InitFn(Protocol):
    """(params, model_state) -> DescentState, of arrays of its own."""

    def __call__(self, params: Params, model_state: Any = None) -> DescentState: ...


class StepFn(Protocol):
    """One update of one block; see `Descent`."""

    def __call__(self, state: DescentState, batch: Any, key: Any, block: BlockIndex,
                 **extra: Any) -> tuple[DescentState, StepInfo]: ...


class VisitFn(Protocol):
    """Several updates of one block; see `Descent`."""

    def __call__(self, state: DescentState, batch: Any, key: Any, block: BlockIndex,
                 steps: int | None = None, fresh_keys: bool = False,
                 **extras: Any) -> tuple[DescentState, StepInfo]: ...


class CycleFn(Protocol):
    """Updates of blocks in turn; see `Descent`."""

    def __call__(self, state: DescentState, batch: Any, key: Any,
                 order: Sequence[StaticBlock], stacked: bool | None = None
                 ) -> tuple[DescentState, StepInfo]: ...


class SimultaneousFn(Protocol):
    """One update of several blocks from one point; see `Descent`."""

    def __call__(self, state: DescentState, batch: Any, key: Any,
                 blocks: Sequence[StaticBlock] | None = None
                 ) -> tuple[DescentState, StepInfo]: ...


class Descent(NamedTuple):
    """The pure functions that `block_descent` returns.

    Attributes:
      blocks: name -> Block, in the order that indices count.
      init: (params, model_state=None) -> DescentState, of arrays of its own.
      step: (state, batch, key, block, **extra) -> (state, StepInfo). `block` is a name,
        a Python index (both static), an int32[] that may be traced, or a pair (family,
        int32[]), the number of a block in its family, which is not checked where it is
        traced. `key` is what the loss takes: a key, a dict of them, or None. `extra`
        goes to the block's tx, as optax's extra arguments do.
      visit: (state, batch, key, block, steps=None, fresh_keys=False, **extras) ->
        (state, StepInfo[K]): K steps in one scan; `extras` have a leading axis K. With
        steps=K one minibatch and one key serve them all, or with `fresh_keys` keys of a
        leading axis K; what the active block cannot change is then computed once (see
        `cdgm.reuse`). Without, minibatches and keys have a leading axis K.
      cycle: (state, batch, key, order, stacked=None) -> (state,
        StepInfo[len(order)]): updates the named blocks in turn. One key serves all
        updates on the one minibatch (common random numbers), so that they can share
        their work; with stacked=True minibatches and keys have a leading axis
        len(order), one an update. A run of one name in the order is one visit.
      simultaneous: (state, batch, key, blocks=None) -> (state, StepInfo[B]): the named
        blocks, or all of them, move from the same point, each by its own tx; nobody
        rides. The model state goes from one loss to the next, in the order of the
        blocks as they are given. `aux` is not stacked.
    """

    blocks: dict[str, Block]
    init: InitFn
    step: StepFn
    visit: VisitFn
    cycle: CycleFn
    simultaneous: SimultaneousFn

    # By identity, for its blocks are a dict: so one may be a static argument of `jit`.
    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __ne__(self, other: object) -> bool:
        return self is not other


def block_descent(blocks: Mapping[str, Block], *, grad_norm: bool = True) -> Descent:
    """Descend one block at a time.

    Args:
      blocks: name -> Block. Every leaf of the parameters belongs to exactly one; a
        block that no schedule visits is frozen.
      grad_norm: whether steps report the norm of the gradient, 4 to 8 % of a small one.

    Returns:
      A `Descent` of pure functions.

    Raises:
      ValueError: at `init`, if blocks overlap, miss a leaf or own none, if a rider
        cannot ride, or if batch statistics are among the parameters; at the first
        trace, if a block is unknown, data do not fit, or a loss is not a scalar.
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
    kernel = _kernel(blocks, grad_norm)
    return Descent(kernel.blocks, partial(_init, kernel), partial(_step, kernel),
                   partial(_visit, kernel), partial(_cycle, kernel),
                   partial(_simultaneous, kernel))


class _Kernel(NamedTuple):
    """Blocks, and what follows from them alone."""

    blocks: dict[str, Block]
    programs: dict[str, Program]
    moves: dict[str, Move]
    grad_norm: bool

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.blocks)

    def label(self, params: Params):
        return families.label(params, self.programs)


class _Active(NamedTuple):
    """A block taken out of the state, to move.

    Attributes:
      active: its leaves, or a `Moving` if others move along.
      own: the state of its tx, or of each of those that move by a state.
      model_state: as in `DescentState`.
    """

    active: Any
    own: Any
    model_state: Any


class _Data(NamedTuple):
    """What a visit is to do: how often, and which of its data are stacked."""

    steps: int
    stacked: bool
    fresh_keys: bool


def _kernel(blocks: Mapping[str, Block], grad_norm: bool) -> _Kernel:
    _check_blocks(blocks)
    blocks = dict(blocks)
    programs = families.programs(blocks)
    return _Kernel(blocks, programs, {
        name: _block_move(name, program.block, programs)
        for name, program in programs.items()}, grad_norm)


def _block_move(name: str, block: Block, programs: Mapping[str, Program]) -> Move:
    if not (block.riders or block.companions):
        return as_move(block.tx, name)
    return accompanied_move(
        block.tx, name,
        {other: tx for other, tx in block.riders.items()
         if other not in programs or not programs[other].block.layers},
        {other: programs[other].block.tx for other in block.companions
         if other in programs})


def _check_blocks(blocks) -> None:
    if not isinstance(blocks, Mapping):
        raise TypeError(f'the blocks are a {type(blocks).__name__}; give a mapping of '
                        'names to cdgm.Block(leaves, loss, tx).')
    for name, block in blocks.items():
        if not isinstance(name, str):
            raise TypeError(f'the name of a block is {name!r}; give a string, for an '
                            'integer is an index.')
        if not isinstance(block, Block):
            raise TypeError(f'block {name!r} is a {type(block).__name__}; give '
                            'cdgm.Block(leaves, loss, tx).')
        if not callable(block.loss):
            raise TypeError(f'the loss of block {name!r} is {block.loss!r}; give a '
                            'function (params, batch, key) -> (scalar, aux).')
        if not isinstance(block.riders, Mapping):
            raise TypeError(f'the riders of block {name!r} are {block.riders!r}; give '
                            'a mapping of blocks to stateless optax transformations.')


def _init(kernel: _Kernel, params: Params, model_state: Any = None) -> DescentState:
    _check_no_statistics(params)
    labels = kernel.label(params)
    families.check(params, labels, kernel.programs)
    for name, program in kernel.programs.items():
        check_riders(name, program.block, params, labels, kernel.programs)
    params = trees.owned_arrays(params)
    opt_state = {name: trees.owned_arrays(_init_state(program, params, labels))
                 for name, program in kernel.programs.items()
                 if not program.block.ephemeral}
    return DescentState(params, opt_state, jnp.zeros((), jnp.int32),
                        trees.owned_arrays(model_state))


def _init_state(program: Program, params: Params, labels) -> Any:
    """State of the tx of a block; of the blocks of a family on a leading axis."""
    init = as_move(program.block.tx, program.name).init
    own = trees.split(params, labels, program.name)[0]
    layers = program.block.layers
    if layers is None:
        return init(own)

    def of_block(number):
        return init(stacks.decode(families.take_block(own, number, layers)))

    numbers = jnp.arange(program.count)
    if stacks.on_host(own):
        return lax.map(of_block, numbers)  # one block at a time on the device
    return jax.vmap(of_block)(numbers)


def _check_no_statistics(params: Params) -> None:
    """Refuse batch statistics, which a loss computes and no gradient does."""
    def is_statistics(x):
        return type(x).__name__ == 'BatchStat'  # of flax.nnx

    for path, leaf in jax.tree_util.tree_leaves_with_path(params,
                                                          is_leaf=is_statistics):
        name = trees.leaf_path(path)
        *_, module, variable = ['', *name.split('/')]
        of_linen = 'batch_stats' in name.split('/') or (
            module.startswith('BatchNorm') and variable in ('mean', 'var'))
        if is_statistics(leaf) or of_linen:
            raise ValueError(
                f'{name!r} is a batch statistic, which is not descended; split it off '
                'and hand it to init(params, model_state) (linen: variables["params"] '
                'and variables["batch_stats"]; nnx: nnx.split(model, nnx.Param, ...)).')


def call_loss(name: str, block: Block, params: Params, model_state: Any, batch: Any,
              key: Any) -> tuple[jax.Array, tuple[Any, Any]]:
    """Evaluate the loss of a block and check what it returns, while tracing.

    Returns:
      (scalar, (aux, model_state)), with or without a model state.

    Raises:
      TypeError: it is no such tuple.
      ValueError: it is no scalar, or the model state has another structure.
    """
    if block.batch is not None:
        batch = block.batch(batch)
    given = (params,) if model_state is None else (params, model_state)
    _check_arguments(name, block.loss, *given, batch, key)
    try:
        returned = block.loss(*given, batch, key)
    except TypeError as error:
        if jax.tree.leaves(key):
            raise
        raise TypeError(f'loss of block {name!r} was given no key and failed: {error}. '
                        'Give a key if it draws.') from error
    if model_state is None:
        loss, aux = _checked(name, returned, '(scalar, aux)')
        return loss, (_checked_aux(name, aux), None)
    form = '(scalar, (aux, model_state))'
    loss, both = _checked(name, returned, form)
    if not isinstance(both, tuple) or len(both) != 2:
        raise TypeError(f'loss of block {name!r} returned {type(both).__name__} beside '
                        f'the scalar; with a model state a loss returns {form}.')
    there, here = [jax.tree.map(jnp.shape, tree) for tree in (model_state, both[1])]
    if there != here:
        raise ValueError(f'loss of block {name!r} returned a model state of another '
                         f'form, of the shapes {here}; it was given {there}. Return '
                         'all of it.')
    # As the state has it: a carry, and the branches of a switch, are of one type.
    changed = jax.tree.map(_like, both[1], model_state)
    return loss, (_checked_aux(name, both[0]), changed)


def _check_arguments(name: str, loss: LossFn, *arguments: Any) -> None:
    """Raise a TypeError if a loss cannot be called so, before what is in it fails."""
    try:
        signature = inspect.signature(loss)
    except (TypeError, ValueError):  # a function without one
        return
    try:
        signature.bind(*arguments)
    except TypeError as error:
        form = ('(params, batch, key)' if len(arguments) == 3 else
                '(params, model_state, batch, key)')
        raise TypeError(
            f'the loss of block {name!r} takes {signature} and is called with {form}, '
            f'for init was given {"no" if len(arguments) == 3 else "a"} model state.'
        ) from error


def _like(new, old):
    if jnp.issubdtype(jnp.asarray(old).dtype, jax.dtypes.extended):
        return new
    return jnp.asarray(new, jnp.asarray(old).dtype)


def _checked_aux(name: str, aux: Any) -> Any:
    bad = [f'{trees.leaf_path(path)!r} ({type(leaf).__name__})'
           for path, leaf in jax.tree_util.tree_leaves_with_path(aux)
           if not isinstance(leaf, get_args(jax.typing.ArrayLike))]
    if bad:
        raise TypeError(f'loss of block {name!r} returned an aux with '
                        f'{", ".join(bad)}; an aux is a pytree of arrays. Leave out '
                        'what is none.')
    return aux


def _checked(name: str, returned, form: str) -> tuple[jax.Array, Any]:
    if not isinstance(returned, tuple) or len(returned) != 2:
        raise TypeError(f'loss of block {name!r} returned {type(returned).__name__}; '
                        f'a loss returns {form}. Return (loss, None) if there is '
                        'nothing to report.')
    loss, rest = returned
    if not isinstance(loss, get_args(jax.typing.ArrayLike)) or not jnp.issubdtype(
            jnp.result_type(loss), jnp.floating):
        seen = getattr(loss, 'dtype', None) or f'a {type(loss).__name__}'
        raise TypeError(f'loss of block {name!r} is {seen}; a loss is a real floating '
                        'scalar.')
    if jnp.shape(loss) != ():
        raise ValueError(f'loss of block {name!r} has shape {jnp.shape(loss)}; a loss '
                         'is a scalar. Take the mean over the batch.')
    return loss, rest


class _View(NamedTuple):
    """A state, with the one block of each family that is looked at beside it.

    A conditional would copy whole stacks; so a branch returns the layers that it moved,
    and they are put into the stack outside.

    Attributes:
      state: the whole of it.
      slices: family -> (its leaves of one block, at rest; the state of its tx or None).
    """

    state: DescentState
    slices: dict[str, tuple[Any, Any]]


def _look(kernel: _Kernel, state: DescentState, labels, numbers: Mapping[str, Any]
          ) -> _View:
    """Take a block of each named family, given its number there."""
    slices = {}
    for name, number in numbers.items():
        layers = kernel.programs[name].block.layers
        own = trees.split(state.params, labels, name)[0]
        slices[name] = families.take_block(own, number, layers), stacks.take(
            state.opt_state[name], number) if name in state.opt_state else None
    return _View(state, slices)


def _settle(kernel: _Kernel, view: _View, labels, numbers: Mapping[str, Any]
            ) -> DescentState:
    """Put the blocks that were looked at back into their families."""
    params, opt_state = view.state.params, view.state.opt_state
    for name, number in numbers.items():
        layers = kernel.programs[name].block.layers
        moved, own = view.slices[name]
        stack, rest = trees.split(params, labels, name)
        params = trees.merge(families.put_block(stack, moved, number, layers), rest)
        if name in opt_state:
            opt_state = {**opt_state, name: stacks.put(opt_state[name], own, number)}
    return view.state._replace(params=params, opt_state=opt_state)


def _enter(kernel: _Kernel, view: _View, labels, place: Place) -> _Active:
    """Take a block out of a view."""
    program, (state, slices) = kernel.programs[place.program], view
    block, name = program.block, place.program
    if block.layers is None:
        own, kept = trees.split(state.params, labels, name)[0], state.opt_state.get(
            name)
    else:
        own, kept = stacks.decode(slices[name][0]), slices[name][1]
    own_state = sync_global_count(as_move(block.tx, name).init(own)
                                  if block.ephemeral else kept, state.count)
    if not (block.riders or block.companions):
        return _Active(own, own_state, state.model_state)
    along = {other: trees.split(state.params, labels, other)[0]
             for other in (*block.riders, *block.companions)
             if not kernel.programs[other].block.layers}
    riding = families.roots(kernel.programs, block.riders)
    for root in riding:
        families.check_on_device(families.subtree(state.params, root),
                                 f'layers of {root!r} were to ride with {name!r}')
    return _Active(
        Moving(own, along, {root: families.subtree(state.params, root)
                            for root in riding}),
        {name: own_state, **{other: sync_global_count(
            state.opt_state[other] if other in block.companions
            else block.riders[other].init(along[other]), state.count)
            for other in along}},
        state.model_state)


def _leave(kernel: _Kernel, view: _View, labels, place: Place, moved: _Active,
           steps: int) -> _View:
    """Put a block back into a view."""
    (state, slices), name = view, place.program
    block = kernel.programs[name].block
    count = _add(state.count, steps)
    params, opt_state = state.params, state.opt_state
    own, own_state = moved.active, moved.own
    if isinstance(own, Moving):
        for other, tree in own.along.items():
            params = trees.merge(tree, params)
        params = families.replace(params, own.stacks)
        opt_state = {**opt_state, **{other: own_state[other]
                                     for other in block.companions}}
        own, own_state = own.own, own_state[name]
    if block.layers is not None:
        resting = stacks.at_rest(own, slices[name][0], families.rounding_key(count, 0))
        slices = {**slices, name: (resting, None if block.ephemeral else own_state)}
    else:
        params = trees.merge(own, params)
        if not block.ephemeral:
            opt_state = {**opt_state, name: own_state}
    return _View(DescentState(params, opt_state, count, moved.model_state), slices)


def _assemble(kernel: _Kernel, state: DescentState, labels, place: Place, active: Any,
              count: jax.Array) -> Params:
    """The parameters that a loss is given while a block moves.

    Each stack is `Opened`, so that the loss differentiates what moves and no more.
    """
    block = kernel.programs[place.program].block
    moving = active if isinstance(active, Moving) else Moving(active, {}, {})
    params = state.params
    for tree in (*moving.along.values(), *([] if block.layers else [moving.own])):
        params = trees.merge(tree, params)
    opened = {}
    for root in families.roots(kernel.programs):
        mine = block.layers if block.layers and block.layers.stack == root else None
        stack = moving.stacks.get(root, families.subtree(state.params, root))
        rider = (layer_rider(block.riders, families.subtree(labels, root), count)
                 if root in moving.stacks else None)
        opened[root] = stacks.Opened(
            stack, families.subtree(moving.own, root) if mine else None,
            place.number * mine.size if mine else jnp.zeros((), jnp.int32),
            families.rounding_key(count, 1), mine.size if mine else 0, rider,
            mine.reach if mine else 'all')
    return families.replace(params, opened)


def _add(count: jax.Array, steps: int) -> jax.Array:
    """Count on, up to the largest integer, as `optax.safe_increment` does."""
    largest = jnp.iinfo(count.dtype).max
    return jnp.where(count < largest - steps, count + steps, largest)


def _move(kernel: _Kernel, place: Place, objective, at: _Active, extra
          ) -> tuple[_Active, StepInfo]:
    """Move one block, by its objective active -> (scalar, (aux, model_state))."""
    name = place.program
    active, own, seen = kernel.moves[name].apply(objective, at.active, at.own, **extra)
    aux, model_state = seen.aux
    norm = jnp.asarray(seen.grad_norm, float) if kernel.grad_norm else None
    index = jnp.asarray(kernel.programs[name].first + place.number, jnp.int32)
    info = StepInfo(index if seen.moved is True else jnp.where(seen.moved, index, -1),
                    # All branches of a switch return the same types.
                    jnp.asarray(seen.loss, float), norm,
                    {name: jax.tree.map(jnp.asarray, aux)})
    return _Active(active, own, model_state), info


def _run_step(place: Place, kernel: _Kernel, labels, view: _View, batch, key, extra
              ) -> tuple[_View, StepInfo]:
    at, state = _enter(kernel, view, labels, place), view.state

    def objective(active):
        params = _assemble(kernel, state, labels, place, active, state.count)
        return call_loss(place.program, kernel.programs[place.program].block, params,
                         state.model_state, batch, key)

    at, info = _move(kernel, place, objective, at, extra)
    return _leave(kernel, view, labels, place, at, 1), info


def _run_visit(data: _Data, place: Place, kernel: _Kernel, labels, view: _View, batch,
               key, extras) -> tuple[_View, StepInfo]:
    at, state = _enter(kernel, view, labels, place), view.state
    stacked = batch if data.stacked else None
    keys = key if data.stacked or data.fresh_keys else None

    def objective(active, model_state, mine, its_key, count):
        params = _assemble(kernel, state, labels, place, active, count)
        return call_loss(place.program, kernel.programs[place.program].block, params,
                         model_state, mine if data.stacked else batch,
                         key if keys is None else its_key)

    if not data.stacked:
        # The loop would compute anew at each step what is the same at all of them.
        objective = hoist_invariants(objective, at.active, at.model_state, None,
                                     _first(keys), state.count)

    # The frozen leaves are closed over, not carried: a carry is copied.
    def body(at, data):
        mine, its_key, extra, count = data
        return _move(kernel, place, lambda active: objective(
            active, at.model_state, mine, its_key, count), at, extra)

    counts = state.count + jnp.arange(data.steps, dtype=state.count.dtype)
    at, infos = _scan(body, at, (stacked, keys, extras, counts), data.steps)
    return _leave(kernel, view, labels, place, at, data.steps), infos


def _first(tree):
    return jax.tree.map(lambda x: x[0], tree)


def _dispatch(kernel: _Kernel, data: _Data | None, state, batch, key, block, extra):
    """Run the program of a block whose program is known, or switch on a traced one."""
    _check_state(kernel, state)
    labels = kernel.label(state.params)
    run = _run_step if data is None else partial(_run_visit, data)
    if isinstance(block, StaticBlock | tuple):
        place = families.find(block, kernel.names, kernel.programs)
        numbers = ({place.program: place.number}
                   if kernel.programs[place.program].block.layers else {})
        view, info = run(place, kernel, labels, _look(kernel, state, labels, numbers),
                         batch, key, extra)
        return _settle(kernel, view, labels, numbers), info

    trees.check_index(block, kernel.names)
    blank = _blank(kernel, data, state, batch, key)
    # `lax.switch` clamps a bad index, which would train the wrong block silently.
    valid = (block >= 0) & (block < len(kernel.names))
    programs = list(kernel.programs.values())
    which = jnp.where(valid, jnp.searchsorted(
        jnp.array([program.first for program in programs], block.dtype), block,
        side='right') - 1, len(programs))
    numbers = {program.name: jnp.clip(block - program.first, 0, program.count - 1)
               for program in programs if program.block.layers}

    def branch(name):
        def run_one(view, batch, key, extra):
            place = Place(name, numbers.get(name, 0))
            view, info = run(place, kernel, labels, view, batch, key, extra)
            return view, info._replace(aux={**blank.aux, **info.aux})
        return run_one

    def nothing(view, *args):
        return view, blank

    view = _look(kernel, state, labels, numbers)
    view, info = switch(
        which, [*map(branch, kernel.programs), nothing],
        [*(_changes(kernel, labels, view, name) for name in kernel.programs),
         jax.tree.map(lambda _: False, view)], view, batch, key, extra)
    return _settle(kernel, view, labels, numbers), info


def _check_state(kernel: _Kernel, state) -> None:
    if not isinstance(state, DescentState):
        raise TypeError(f'the state is a {type(state).__name__}; give the DescentState '
                        'that init or a step returned (of a driven descent it is '
                        'state.descent).')
    carried = {name for name, program in kernel.programs.items()
               if not program.block.ephemeral}
    if set(state.opt_state) != carried:
        raise ValueError(f'the state was made for the blocks {sorted(state.opt_state)},'
                         f' and those that keep one are {sorted(carried)}; make it by '
                         "this descent's init.")


def _changes(kernel: _Kernel, labels, view: _View, name: str) -> _View:
    """Which leaves of a view a step of a block may change."""
    block, state = kernel.programs[name].block, view.state
    kept = {*block.companions, *([] if block.layers else [name])}
    return _View(DescentState(
        jax.tree.map(lambda owner: owner in {*kept, *block.riders}, labels),
        {other: jax.tree.map(lambda _: other in kept, inner)
         for other, inner in state.opt_state.items()},
        True,  # type: ignore[arg-type]
        jax.tree.map(lambda _: True, state.model_state)),
        {other: jax.tree.map(lambda _: other == name, each)
         for other, each in view.slices.items()})


def _blank(kernel: _Kernel, data: _Data | None, state, batch, key) -> StepInfo:
    """Say that nothing moved, with zeros of every block's form.

    Each loss is traced once for it; blocks that share one share its form.
    """
    axes = () if data is None else (data.steps,)
    # A loss is given one of what is stacked.
    batch = jax.eval_shape(_first, batch) if data and data.stacked else batch
    key = jax.eval_shape(_first, key) if data and (data.stacked or data.fresh_keys
                                                   ) else key
    forms: dict[Any, Any] = {}  # of a loss once, however many blocks share it
    aux = {}
    for name, program in kernel.programs.items():
        block, report = program.block, kernel.moves[name].report
        kind = id(block.loss), id(block.batch), id(report)
        if kind not in forms:
            forms[kind] = jax.eval_shape(lambda state, batch, key: report(call_loss(
                name, block, state.params, state.model_state, batch, key)[1][0]),
                state, batch, key)
        aux[name] = jax.tree.map(
            lambda form: lax.full((*axes, *form.shape), 0, form.dtype), forms[kind])
    return StepInfo(
        jnp.full(axes, -1, jnp.int32), jnp.zeros(axes, float),
        jnp.zeros(axes, float) if kernel.grad_norm else None, aux)


def _step(kernel: _Kernel, state: DescentState, batch: Any, key: Any, block: BlockIndex,
          **extra: Any) -> tuple[DescentState, StepInfo]:
    _check_extras(kernel, extra, 'step')
    return _dispatch(kernel, None, state, batch, key, block, extra)


def _visit(kernel: _Kernel, state: DescentState, batch: Any, key: Any,
           block: BlockIndex, steps: int | None = None, fresh_keys: bool = False,
           **extras: Any) -> tuple[DescentState, StepInfo]:
    _check_extras(kernel, extras, 'visit', 'steps', 'fresh_keys')
    stacked = steps is None
    steps = _count_steps(batch, key) if steps is None else _static_steps(steps)
    if steps < 1:
        raise ValueError(f'a visit of {steps} steps; give steps >= 1.')
    if not stacked:
        _check_one_key(key, steps if fresh_keys else None, 'fresh_keys=True')
    data = _Data(steps, stacked, fresh_keys)
    return _dispatch(kernel, data, state, batch, key, block, extras)


def _static_steps(steps) -> int:
    try:
        return operator.index(steps)
    except TypeError as error:
        raise TypeError(f'steps is {steps!r}; give a Python integer, static under jit '
                        '(static_argnames).') from error


def _check_extras(kernel: _Kernel, extra, where: str, *words: str) -> None:
    check_extras([move.apply for move in kernel.moves.values()], extra,
                 ('block', *words), where)


def _cycle(kernel: _Kernel, state: DescentState, batch: Any, key: Any,
           order: Sequence[StaticBlock], stacked: bool | None = None
           ) -> tuple[DescentState, StepInfo]:
    names = trees.block_names(order, kernel.names)
    _check_cycle(batch, key, len(names), stacked)
    infos, start = [], 0
    for name, run in itertools.groupby(names):
        stop = start + len(list(run))
        if stacked:
            batches, keys = jax.tree.map(lambda x: x[start:stop], (batch, key))
            state, info = _visit(kernel, state, batches, keys, name)
        else:
            state, info = _visit(kernel, state, batch, key, name, steps=stop - start)
        infos.append(info)
        start = stop
    return state, _joined(infos)


def _joined(infos: list[StepInfo]) -> StepInfo:
    """Put the reports of visits one after another."""
    def concatenate(*xs):
        return jnp.concatenate(xs)

    names = dict.fromkeys(name for info in infos for name in info.aux)
    aux = {name: jax.tree.map(concatenate, *(info.aux[name] for info in infos
                                             if name in info.aux)) for name in names}
    return jax.tree.map(concatenate, *(info._replace(aux={}) for info in infos)
                        )._replace(aux=aux)


def _simultaneous(kernel: _Kernel, state: DescentState, batch: Any, key: Any,
                  blocks: Sequence[StaticBlock] | None = None
                  ) -> tuple[DescentState, StepInfo]:
    names = _distinct(kernel.names, blocks)
    _check_state(kernel, state)
    if any(block.riders or block.companions for block in kernel.blocks.values()):
        # Who moves along would move twice: by its own turn as well.
        kernel = _kernel({name: block._replace(riders={}, companions=())
                          for name, block in kernel.blocks.items()}, kernel.grad_norm)
    labels, start, infos = kernel.label(state.params), state, []
    for place in _places(kernel, names):
        run = _move_family if place.number is None else _move_one
        # From where all start, but for the model state, which goes on.
        here = start._replace(model_state=state.model_state)
        state, info = run(place, kernel, labels, here, state, batch, key)
        infos.append(info)
    stacked = jax.tree.map(lambda *xs: jnp.concatenate(xs),
                           *(info._replace(aux={}) for info in infos))
    return state._replace(count=_add(start.count, 1)), stacked._replace(
        aux={name: aux for info in infos for name, aux in info.aux.items()})


def _places(kernel: _Kernel, names: Sequence[str]) -> list[Place]:
    """Where the blocks are; a whole family is one place, without a number."""
    places: list[Place] = []
    for name in names:
        place = families.find(name, kernel.names, kernel.programs)
        program = kernel.programs[place.program]
        members = kernel.names[program.first:program.first + program.count]
        # A move is given the loss of one block; a gradient is cut into theirs.
        if len(members) > 1 and set(members) <= set(names) and not isinstance(
                program.block.tx, Move):
            place = Place(program.name, None)
        if place not in places:
            places.append(place)
    return places


def _with_moved(state: DescentState, moved: DescentState, labels, name: str
                ) -> DescentState:
    """A state, with what one program moves as it is in another."""
    own = trees.split(moved.params, labels, name)[0]
    kept = {name: moved.opt_state[name]} if name in moved.opt_state else {}
    return state._replace(params=trees.merge(own, state.params),
                          opt_state={**state.opt_state, **kept},
                          model_state=moved.model_state)


def _move_one(place: Place, kernel: _Kernel, labels, here: DescentState,
              state: DescentState, batch, key) -> tuple[DescentState, StepInfo]:
    """Move one block from where `here` is, in a state where others have moved."""
    numbers = ({place.program: place.number}
               if kernel.programs[place.program].block.layers else {})
    view, info = _run_step(place, kernel, labels, _look(kernel, here, labels, numbers),
                           batch, key, {})
    if numbers:
        state = _settle(kernel, _View(state, view.slices), labels, numbers)._replace(
            model_state=view.state.model_state)
    else:
        state = _with_moved(state, view.state, labels, place.program)
    return state, jax.tree.map(lambda x: x[None], info._replace(aux={}))._replace(
        aux=info.aux)


def _move_family(place: Place, kernel: _Kernel, labels, here: DescentState,
                 state: DescentState, batch, key) -> tuple[DescentState, StepInfo]:
    """Move all blocks of a family from one point, with one gradient of them all.

    The model state is what the loss returned once.
    """
    name = place.program
    program = kernel.programs[name]
    block, layers = program.block, program.block.layers
    stack = trees.split(here.params, labels, name)[0]
    whole = Program(name, block._replace(layers=layers._replace(
        size=layers.size * program.count)), program.first, 1)
    everything = kernel._replace(programs={**kernel.programs, name: whole})

    def objective(own):
        params = _assemble(everything, here, labels, Place(name, 0), own, here.count)
        return call_loss(name, block, params, here.model_state, batch, key)

    families.check_on_device(stack, f'all layers of {name!r} were to move')
    own = stacks.decode(stack)
    (loss, (aux, model_state)), grads = steepest_ascent(objective, own)

    def divided(tree):
        return jax.tree.map(lambda x: families.divide(x, layers.size), tree)

    kept = here.opt_state.get(name)

    def move_one(own, grads, kept):
        own_state = sync_global_count(block.tx.init(own) if block.ephemeral else kept,
                                      here.count)
        own, own_state = apply_gradient(optax.with_extra_args_support(block.tx),
                                        _no_search, own, own_state, loss, grads)
        return own, own_state, optax.tree.norm(grads)

    moved, kept, norms = jax.vmap(move_one)(divided(own), divided(grads), kept)
    moved = stacks.at_rest(jax.tree.map(lambda x, like: x.reshape(like.shape), moved,
                                        stack), stack,
                           families.rounding_key(_add(here.count, 1), 0))
    numbers = jnp.arange(program.count, dtype=jnp.int32)
    info = StepInfo(program.first + numbers, jnp.full(numbers.shape, loss, float),
                    norms.astype(float) if kernel.grad_norm else None,
                    {name: jax.tree.map(jnp.asarray, aux)})
    there = here._replace(params=trees.merge(moved, here.params),
                          opt_state={} if block.ephemeral else {name: kept},
                          model_state=model_state)
    return _with_moved(state, there, labels, name), info


def _no_search(own):
    raise TypeError('the layers of a family were moved from one point with one gradient'
                    ' of them all, and the tx searches along its line by the loss; use '
                    'a tx without line search, or visit the layers in turn.')


def _distinct(names: tuple[str, ...], blocks) -> tuple[str, ...]:
    """Name the blocks that move together, each once."""
    if blocks is None:
        return names
    given = tuple(trees.block_names(blocks, names))
    if not given or len(set(given)) < len(given):
        raise ValueError(f'the blocks to move from one point are {list(given)}; name '
                         'at least one, and each of them once.')
    return given


def _scan(body, carry, data, steps: int):
    """`lax.scan`, but one step is no loop, so that updates can share their work."""
    if steps != 1:
        return lax.scan(body, carry, data, steps)
    carry, info = body(carry, _first(data))
    return carry, jax.tree.map(lambda x: x[None], info)


def _shapes(**trees_of_arrays) -> str:
    """Name the shapes of the leaves, as in batch (3, 4), key ()."""
    return ', '.join(f'{name} ' + (' and '.join(
        str(jnp.shape(x)) for x in jax.tree.leaves(tree)) or 'None')
        for name, tree in trees_of_arrays.items())


def _leading(*some) -> set[tuple[int, ...]]:
    return {jnp.shape(x)[:1] for x in jax.tree.leaves(some)}


def _count_steps(batch, key) -> int:
    """How many minibatches and keys a visit has."""
    axes = _leading(batch, key)
    if len(axes) != 1 or () in axes:
        raise ValueError('a visit without steps= takes one minibatch and one key a '
                         'step, stacked on a leading axis of one length; seen are '
                         f'{_shapes(batch=batch, key=key)}. Stack them, or give steps='
                         ' to stay on one minibatch with one key.')
    return axes.pop()[0]


def _is_key(x) -> bool:
    return jnp.issubdtype(getattr(x, 'dtype', float), jax.dtypes.prng_key)


def _check_one_key(key, length: int | None, remedy: str) -> None:
    """Check the keys of updates on one minibatch: one, or `length` of them."""
    for leaf in jax.tree.leaves(key):
        if length is not None and jnp.shape(leaf)[:1] != (length,):
            raise ValueError(f'fresh keys have a leading axis of {length}, one a step; '
                             f'seen is {_shapes(key=key)}.')
        if length is None and (leaf.ndim > 0 if _is_key(leaf) else jnp.ndim(leaf) > 1):
            raise ValueError('one key serves all updates on one minibatch, and seen is '
                             f'{_shapes(key=key)}; give one, or say {remedy}.')


def _check_cycle(batch, key, updates: int, stacked: bool | None) -> None:
    """Check that a cycle has the data that the caller says it has."""
    if not updates:
        raise ValueError('the order of a cycle is empty; name the blocks to visit.')
    seen = _shapes(batch=batch, key=key)
    if stacked:
        if _leading(batch, key) != {(updates,)}:
            raise ValueError(
                f'the cycle has {updates} updates, and its minibatches and keys are '
                f'{seen}; stacked, each has a leading axis of {updates}.')
        return
    _check_one_key(key, None, 'stacked=True')
    # Without a key nothing else tells one minibatch from a stack of them.
    if (stacked is None and updates > 1 and not jax.tree.leaves(key)
            and _leading(batch) == {(updates,)}):
        raise ValueError(
            f'the cycle has {updates} updates and no key, and {seen} may be one '
            'minibatch or one an update; say stacked=False or stacked=True.')
