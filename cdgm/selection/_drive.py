"""Drive: one way to train by a schedule or by a rule, for one seed or for many.

    b       = select(rule state)
    theta_b <- theta_b - U_b(d L_b / d theta_b)          `descent.step`
    rule state <- observe(rule state, what the step did)

With a seeds axis the rule keeps one state, sees the means over the seeds, and chooses
one block for all of them: the index is not batched, so the program under `vmap` holds
one conditional and not every branch. (Mapping a driven step without seeds gives every
seed its own choice, and runs every branch.)

Every step is a visit of its own, in which an ephemeral block starts anew; `visit` stays
on the block for K of them.

Shapes   S seeds, B blocks. With seeds: params and optimiser states [S, …], keys [S],
         minibatches [S, …] or shared, StepInfo [S]; without, no S.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from jax import lax

from cdgm import blocks as trees
from cdgm import families, stacks
from cdgm.blocks import Params
from cdgm.descent import Descent, DescentState, StepInfo, call_loss
from cdgm.families import Program
from cdgm.schedules import Schedule, check_num_blocks
from cdgm.selection.rule import SelectionRule, StepStats, from_schedule


class SelectedDescentState(NamedTuple):
    """What a driven descent carries, and what a checkpoint holds.

    Attributes:
      descent: params, optimiser states and count; with a seeds axis, one a seed.
      rule: the rule's state, shared by all seeds.
    """

    descent: DescentState
    rule: Any


class DrivenInitFn(Protocol):
    """(params, model_state) -> SelectedDescentState."""

    def __call__(self, params: Params, model_state: Any = None
                 ) -> SelectedDescentState: ...


class DrivenStepFn(Protocol):
    """One update of the block that the rule chooses; see `SelectedDescent`."""

    def __call__(self, state: SelectedDescentState, batch: Any, key: Any,
                 signal: Any = None, **extra: Any
                 ) -> tuple[SelectedDescentState, StepInfo]: ...


class DrivenVisitFn(Protocol):
    """Several updates of the block that the rule chooses; see `SelectedDescent`."""

    def __call__(self, state: SelectedDescentState, batches: Any, keys: Any,
                 signal: Any = None, **extras: Any
                 ) -> tuple[SelectedDescentState, StepInfo]: ...


class SelectedDescent(NamedTuple):
    """The pure functions that `drive` returns.

    Attributes:
      init: (params, model_state=None) -> SelectedDescentState.
      step: (state, batch, key, signal=None, **extra) -> (state, StepInfo). `signal` is
        for rules that watch held-out data (larger is better), float[] or float[S];
        `None` or what is not finite is no signal. The rule hears it after this step.
        `extra` goes to the block's own rule, the same for all seeds.
      visit: (state, batches, keys, signal=None, **extras) -> (state, StepInfo[K]): one
        choice, and K steps of the block, each with a minibatch and a key of its own: a
        leading axis K, after that of the seeds. The rule chooses by the first minibatch
        and hears of the last step; a secant is that of the whole visit.
    """

    init: DrivenInitFn
    step: DrivenStepFn
    visit: DrivenVisitFn


def drive(descent: Descent, rule: SelectionRule | Schedule, *, seeds: bool = False,
          batch_axis: int | None = None) -> SelectedDescent:
    """Let a rule or a schedule choose the block of every step.

    Args:
      descent: what `block_descent` returns.
      rule: a `SelectionRule`, or a `Schedule`, which is one.
      seeds: whether params and keys have a leading axis of seeds.
      batch_axis: axis of the seeds in the minibatches; `None` if all seeds share them.

    Raises:
      ValueError: the rule is written for another number of blocks.
      TypeError: it is neither a rule nor a schedule.

    >>> import cdgm
    >>> def loss(params, batch, key):
    ...     return (params['x'] - 1) ** 2 + (params['y'] + 2) ** 2, None
    >>> descent = cdgm.block_descent({name: cdgm.Block(name, loss, optax.sgd(0.5))
    ...                               for name in ('x', 'y')})
    >>> driven = drive(descent, cdgm.cyclic((1, 1)))
    >>> state = driven.init({'x': jnp.array(0.0), 'y': jnp.array(0.0)})
    >>> state, info = driven.step(state, None, jax.random.key(0))
    >>> state, info = driven.step(state, None, jax.random.key(0))
    >>> {name: float(leaf) for name, leaf in state.descent.params.items()}
    {'x': 1.0, 'y': -2.0}
    """
    if isinstance(rule, Schedule):
        rule = from_schedule(rule)
    _check(rule, tuple(descent.blocks))

    def mapped(function, *axes):
        return jax.vmap(function, axes) if seeds else function

    shared = partial(_shared, seeds)

    def init(params: Params, model_state: Any = None) -> SelectedDescentState:
        return SelectedDescentState(mapped(descent.init, 0, 0)(params, model_state),
                                    trees.owned_arrays(rule.init()))

    def choose(state, batch, key):
        """The block, and the rule's state; the minibatch is for rules that measure."""
        return rule.select(state.rule, lambda: shared(
            mapped(partial(block_grad_norms, descent), 0, batch_axis, 0, 0)(
                state.descent.params, batch, key, state.descent.model_state)))

    def tell(before, after, rule_state, block, info, batch, key, signal):
        """What the rule knows after a step, or after the last one of a visit."""
        def probe(function, start):
            return shared(mapped(function, 0, 0, 0, batch_axis, 0, None)(
                start, after.params, before.model_state, batch, key, block))

        seen = StepStats(block, shared(info.loss), shared(info.grad_norm),
                         *_mean_signal(signal),
                         decrease=lambda: probe(partial(_decrease, descent), info.loss),
                         secant=lambda: probe(partial(_secant, descent), before.params))
        return SelectedDescentState(after, rule.observe(rule_state, seen))

    def step(state: SelectedDescentState, batch: Any, key: Any, signal: Any = None,
             **extra: Any) -> tuple[SelectedDescentState, StepInfo]:
        block, rule_state = choose(state, batch, key)
        after, info = mapped(partial(descent.step, **extra), 0, batch_axis, 0, None)(
            state.descent, batch, key, block)
        return tell(state.descent, after, rule_state, block, info, batch, key,
                    signal), info

    def visit(state: SelectedDescentState, batches: Any, keys: Any, signal: Any = None,
              **extras: Any) -> tuple[SelectedDescentState, StepInfo]:
        in_batch, in_key = (0 if axis is None or not seeds else 1
                            for axis in (batch_axis, 0))
        first, last = ((_at(batches, in_batch, place), _at(keys, in_key, place))
                       for place in (0, -1))
        block, rule_state = choose(state, *first)
        after, infos = mapped(partial(descent.visit, **extras), 0, batch_axis, 0, None)(
            state.descent, batches, keys, block)
        info = _at(infos._replace(aux={}), int(seeds), -1)
        return tell(state.descent, after, rule_state, block, info, *last, signal), infos

    return SelectedDescent(init, step, visit)


def block_grad_norms(descent: Descent, params: Params, batch: Any, key: Any,
                     model_state: Any = None) -> jax.Array:
    """Measure the gradients of all blocks, each of its own loss, at one point.

    Blocks that share a loss, as one and the same function, share one backward pass: for
    B equal layers in a chain 3B - 1 products of a layer, and only B numbers leave it.

    Args:
      descent: what `block_descent` returns.
      params: the whole tree.
      batch: the minibatch.
      key: PRNG key.
      model_state: what the losses are given of it, where there is one.

    Returns:
      float[B], the 2-norm of each block's gradient, in the order of the blocks.
    """
    programs = families.programs(descent.blocks)
    labels, norms = families.label(params, programs), {}
    for names in _by_loss(programs):
        # The blocks of one loss, taken together, are one block.
        group = jax.tree.map(
            lambda name, names=names: 'own' if name in names else 'rest', labels)
        grads = _grad(programs[names[0]], params, group, 'own', model_state, batch, key)
        for name in names:
            norms[name] = _norms(trees.split(grads, labels, name)[0], programs[name])
    return jnp.concatenate([norms[name] for name in programs])


def _shared(seeds: bool, values) -> jax.Array:
    """Mean over the seeds; one that has diverged does not choose for the rest."""
    values = jnp.asarray(values, float)
    return _mean_of_finite(values) if seeds else values


def _at(tree: Any, axis: int, place: int) -> Any:
    return jax.tree.map(lambda x: lax.index_in_dim(x, place, axis, False), tree)


def _check(rule, names) -> None:
    if not isinstance(rule, SelectionRule):
        raise TypeError(f'the rule is a {type(rule).__name__}; give a SelectionRule or '
                        'a Schedule.')
    check_num_blocks(rule, names)


def _mean_signal(signal) -> tuple[jax.Array, jax.Array]:
    """The mean of the finite signals, 0 if there is none, and whether there is one."""
    if signal is None:
        return jnp.zeros((), float), jnp.array(False)
    values = jnp.asarray(signal, float)
    finite = jnp.isfinite(values)
    total = jnp.sum(values, where=finite)
    return total / jnp.maximum(jnp.sum(finite), 1), finite.any()


def _mean_of_finite(values) -> jax.Array:
    """Mean over the first axis of what is finite; the plain mean where nothing is."""
    finite = jnp.isfinite(values)
    mean = jnp.sum(values, 0, where=finite) / jnp.maximum(jnp.sum(finite, 0), 1)
    # Of nothing finite the mean is no number, but NaN only if a seed's value is.
    return jnp.where(finite.any(0), mean, jnp.where(
        jnp.isnan(values).any(0), jnp.nan, jnp.inf))


def _norms(grads, program: Program) -> jax.Array:
    """The 2-norm of a block's gradient, float[1]; of a family's, float[n]."""
    layers = program.block.layers
    if layers is None:
        return jnp.asarray(optax.tree.norm(grads), float)[None]
    return jax.vmap(lambda number: jnp.asarray(optax.tree.norm(families.take_block(
        grads, number, layers)), float))(jnp.arange(program.count))


def _by_loss(programs: Mapping[str, Program]) -> list[list[str]]:
    """The blocks of each loss, of the same data; losses need not be hashable."""
    groups: dict[tuple[int, int], list[str]] = {}
    for name, program in programs.items():
        kind = id(program.block.loss), id(program.block.batch)
        groups.setdefault(kind, []).append(name)
    return list(groups.values())


def _grad(program: Program, params, labels, owner: str, *data):
    """Gradient of a block's loss with respect to the leaves of one label."""
    active, frozen = trees.split(params, labels, owner)
    return jax.grad(lambda active: call_loss(
        program.name, program.block, trees.merge(active, frozen), *data)[0])(
            stacks.decode(active))


def _loss(descent: Descent, params, model_state, batch, key, block) -> jax.Array:
    """Evaluate the loss of a traced block."""
    programs = families.programs(descent.blocks)
    groups = _by_loss(programs)
    which = [next(i for i, names in enumerate(groups) if name in names)
             for name, program in programs.items() for _ in range(program.count)]
    branches = [lambda *args, of=programs[names[0]]: jnp.asarray(
        call_loss(of.name, of.block, *args)[0], float) for names in groups]
    return lax.switch(jnp.asarray(which)[block], branches, params, model_state, batch,
                      key)


def _decrease(descent: Descent, loss, params, *data) -> jax.Array:
    """By how much a move lowered a loss that was `loss` before."""
    return loss - _loss(descent, params, *data)


def _distance(start, end) -> jax.Array:
    return optax.tree.norm(optax.tree.sub(end, start))


def _secant(descent: Descent, before, after, model_state, batch, key, block
            ) -> jax.Array:
    """||g_b(after) - g_b(before)|| / ||after_b - before_b||, of a traced block b.

    Both gradients are taken with the rest of `before`: what a rider's move does to them
    is not the block's curvature. inf where the block moved by less than eps^(2/3) of
    its norm.
    """
    programs = families.programs(descent.blocks)
    labels = families.label(before, programs)

    def branch(program):
        def run(before, after, *data):
            here, rest = trees.split(before, labels, program.name)
            there, _ = trees.split(after, labels, program.name)
            start, end = [_grad(program, params, labels, program.name, *data)
                          for params in (before, trees.merge(there, rest))]
            if layers := program.block.layers:
                here, there, start, end = [stacks.decode(families.take_block(
                    tree, block - program.first, layers))
                    for tree in (here, there, start, end)]
            moved, size = _distance(here, there), optax.tree.norm(here)
            # Of a smaller move the difference of gradients is mostly rounding.
            clear = moved > size * jnp.finfo(size.dtype).eps ** (2 / 3)
            ratio = _distance(start, end) / jnp.where(clear, moved, 1)
            return jnp.where(clear, jnp.asarray(ratio, float), jnp.inf)
        return run

    which = [i for i, program in enumerate(programs.values())
             for _ in range(program.count)]
    return lax.switch(jnp.asarray(which)[block], list(map(branch, programs.values())),
                      before, after, model_state, batch, key)
