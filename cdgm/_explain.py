"""Explain: what a step of each block costs, and what a cycle must achieve to pay.

    progress of a cycle / progress of a joint step  >  FLOPs(cycle) / FLOPs(joint step)

is when descending block by block wins; the right side is the break-even ratio. Costs
are XLA's own count in the compiled programs, after it has dropped what nobody uses and
merged what two updates need: on one minibatch with one key, decoder-then-encoder shares
the encoder's forward pass, and the players of a GAN share the generator's.

Units    FLOPs, and bytes that the program's operations read and write (what a cache
         holds is counted too). XLA counts the body of a loop once; of the FLOPs those
         of its other trips are added (see `cdgm._loops`), of the bytes they are not.
         Counts are those of the default device's compiler.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from cdgm import blocks as trees
from cdgm._loops import repeated_flops
from cdgm.blocks import Params, StaticBlock
from cdgm.descent import Descent, DescentState
from cdgm.families import programs

# XLA counts before it writes machine code, which then need not be good, and takes half
# as long.
_NEVER_RUN: dict[str, str | bool] = {'xla_backend_optimization_level': '0'}


class Cost(NamedTuple):
    """What one run of a program costs.

    Attributes:
      flops: floating point operations.
      bytes: read and written by its operations.
    """

    flops: float
    bytes: float


class BlockCost(NamedTuple):
    """What a block costs.

    Attributes:
      name: the block's.
      step: Cost of one step.
      repeat_step: Cost of each further step of a visit on the same minibatch and key.
      state_bytes: of its tx's state in what a descent carries; 0 if ephemeral.
    """

    name: str
    step: Cost
    repeat_step: Cost
    state_bytes: int


class Explanation(NamedTuple):
    """What `explain` returns; `print` shows it as a table.

    Attributes:
      blocks: a BlockCost for each block.
      order: block names, one an update of the cycle.
      cycle: Cost of the cycle on one minibatch with one key.
      unshared_flops: FLOPs of the same updates as programs of their own.
      joint: Cost of moving all blocks from the same point, each by its own loss; with
        one loss it is an ordinary training step.
    """

    blocks: tuple[BlockCost, ...]
    order: tuple[str, ...]
    cycle: Cost
    unshared_flops: float
    joint: Cost

    @property
    def break_even(self) -> float:
        """Joint steps that cost what the cycle costs."""
        return self.cycle.flops / self.joint.flops

    def __str__(self) -> str:
        return _table(self)


def explain(descent: Descent, params: Params, batch: Any,
            order: Sequence[StaticBlock]) -> Explanation:
    """Count what a descent costs; it compiles two programs a block, and runs nothing.

    Args:
      descent: what `block_descent` returns.
      params: the whole tree; arrays, or `jax.ShapeDtypeStruct` in their place.
      batch: one minibatch, likewise.
      order: the blocks of a cycle, one an update.

    Raises:
      ValueError: the order is empty or names a block that is not there.

    >>> import jax.numpy as jnp, optax, cdgm
    >>> def loss(params, x, key):
    ...     return jnp.mean((x @ params['encoder'] @ params['decoder'] - x) ** 2), None
    >>> params = {'encoder': jnp.zeros((64, 8)), 'decoder': jnp.zeros((8, 64))}
    >>> descent = cdgm.block_descent({name: cdgm.Block(name, loss, optax.adam(1e-3))
    ...                               for name in params})
    >>> batch = jnp.zeros((32, 64))
    >>> told = cdgm.explain(descent, params, batch, ('decoder', 'encoder'))
    >>> 1 < told.break_even < 2
    True
    """
    names = tuple(trees.block_name(block, tuple(descent.blocks)) for block in order)
    if not names:
        raise ValueError('the order of the cycle is empty; name the blocks to visit.')
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(descent.init, params)

    def cost(*updates: str) -> Cost:
        def run(state, batch, key):
            # Steps, not visits: no loop, whose body would be counted once.
            for name in updates:
                state, info = descent.step(state, batch, key, name)
            return state, info
        return program_cost(run, state, batch, key)

    rows = {}
    for name in descent.blocks:
        step, two = cost(name), cost(name, name)
        rows[name] = BlockCost(name, step, _plus(two, step, -1), sum(
            x.size * x.dtype.itemsize
            for x in jax.tree.leaves(state.opt_state.get(name))))
    # A long visit is counted from two of its steps.
    runs = _runs(names)
    cycle = cost(*(name for name, length in runs for _ in range(min(length, 2))))
    for name, length in runs:
        cycle = _plus(cycle, rows[name].repeat_step, max(length - 2, 0))
    apart = sum(rows[name].step.flops for name in names)
    joint = program_cost(descent.simultaneous, state, batch, key)
    return Explanation(tuple(rows.values()), names, cycle, apart, joint)


def program_cost(function: Callable, *arguments: Any) -> Cost:
    """Cost of the compiled program of a function.

    Args:
      function: what to compile.
      *arguments: arrays, or `jax.ShapeDtypeStruct` in their place.
    """
    flops, size, traced = _xla_cost(function, *arguments)
    return Cost(flops + repeated_flops(traced.jaxpr), size)


def family_step_costs(descent: Descent, family: str, state: DescentState, batch: Any,
                      key: Any) -> list[Cost]:
    """Cost of a step of each block of a family, of which one is compiled.

    Args:
      descent: what `block_descent` returns.
      family: a name.
      state, batch, key: of a step; arrays, or `jax.ShapeDtypeStruct` in their place.
    """
    def step(number):
        return lambda *arguments: descent.step(*arguments, (family, number))

    flops, size, _ = _xla_cost(
        lambda *arguments: step(arguments[-1])(*arguments[:-1]), state, batch, key,
        jax.ShapeDtypeStruct((), jax.numpy.int32))
    with jax.disable_jit(False):
        return [Cost(flops + repeated_flops(jax.jit(step(number)).trace(
            state, batch, key).jaxpr, least=-1), size)
            for number in range(programs(descent.blocks)[family].count)]


def _xla_cost(function: Callable, *arguments: Any
              ) -> tuple[float, float, jax.stages.Traced]:
    """FLOPs and bytes by XLA's count, and what was counted."""
    # The one place where the library compiles: only XLA knows what it will run.
    with jax.disable_jit(False):  # whoever debugs without jit still wants the count
        traced = jax.jit(function).trace(*arguments)
        counted = traced.lower().compile(
            compiler_options=_NEVER_RUN).cost_analysis() or {}
    return (float(counted.get('flops', 0)), float(counted.get('bytes accessed', 0)),
            traced)


def _runs(names: Sequence[str]) -> list[tuple[str, int]]:
    return [(name, len(list(run))) for name, run in itertools.groupby(names)]


def _plus(cost: Cost, other: Cost, times: int) -> Cost:
    return Cost(*(a + times * b for a, b in zip(cost, other)))


def _table(told: Explanation) -> str:
    width = max(len('joint'), *(len(row.name) for row in told.blocks))

    def line(name, cost, again='', state=''):
        return (f'{name:{width}}  {cost.flops / 1e6:10.4g}  {cost.bytes / 1e6:8.4g}  '
                f'{cost.flops / told.joint.flops:8.3f}  {again:>14}  {state:>8}')

    head = (f'{"step":{width}}  {"MFLOP":>10}  {"MB":>8}  {"of joint":>8}  '
            f'{"again of joint":>14}  {"state MB":>8}')
    order = ', '.join(f'{name}*{length}' if length > 1 else name
                      for name, length in _runs(told.order))
    rows = [line(row.name, row.step, f'{row.repeat_step.flops / told.joint.flops:.3f}',
                 f'{row.state_bytes / 1e6:.3g}') for row in told.blocks]
    return '\n'.join([
        head, *rows, line('joint', told.joint), line('cycle', told.cycle),
        f'A cycle ({order}) on one minibatch costs '
        f'{told.break_even:.2f} joint steps, and must make at least so much of their '
        'progress to pay.',
        'Sharing within the cycle saves '
        f'{1 - told.cycle.flops / told.unshared_flops:.0%} of '
        f'{told.unshared_flops / told.joint.flops:.2f}.'])
