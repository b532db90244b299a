"""Explain: what a step of each block costs, and what a cycle must achieve to pay.

    progress of a cycle / progress of a joint step  >  FLOPs(cycle) / FLOPs(joint step)

is when descending block by block wins; the right side is the break-even ratio. Memory
is the other reason: what is held between steps, and at the peak of a step, beside what
joint Adam would take. Costs
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
import optax

from cdgm import blocks as trees
from cdgm import stacks
from cdgm._loops import repeated_flops
from cdgm.blocks import Params, StaticBlock
from cdgm.descent import Descent, DescentState, call_loss
from cdgm.families import Program, programs

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


class Memory(NamedTuple):
    """Bytes on the device, as the compiler plans them; of a donated state, one copy.

    Attributes:
      held: between steps: parameters, states of the txs, model state.
      peak: during a step: that, the minibatch, and all that is computed on the way.
      host: in the host's memory, beside these, see `cdgm.layers.to_host`.
    """

    held: int
    peak: int
    host: int = 0


class BlockCost(NamedTuple):
    """What a block costs.

    Attributes:
      name: the block's; a family has a row for its first block and one for its last.
      step: Cost of one step.
      repeat_step: Cost of each further step of a visit on the same minibatch and key.
      state_bytes: of its tx's state in what a descent carries; 0 if ephemeral. Of a
        family it is that of all its blocks.
      memory: Memory of a visit of two steps.
    """

    name: str
    step: Cost
    repeat_step: Cost
    state_bytes: int
    memory: Memory


class Explanation(NamedTuple):
    """What `explain` returns; `print` shows it as a table.

    Attributes:
      blocks: a BlockCost for each block.
      order: block names, one an update of the cycle.
      cycle: Cost of the cycle on one minibatch with one key.
      unshared_flops: FLOPs of the same updates as programs of their own.
      joint: Cost of moving all blocks from the same point, each by its own loss; with
        one loss, as wherever there is a family, it is an ordinary training step.
      num_params: numbers among the parameters.
      memory: Memory of the dearest block.
      joint_adam: Memory of joint training of float32 parameters by Adam, down the loss
        of the first block.
    """

    blocks: tuple[BlockCost, ...]
    order: tuple[str, ...]
    cycle: Cost
    unshared_flops: float
    joint: Cost
    num_params: int
    memory: Memory
    joint_adam: Memory

    @property
    def break_even(self) -> float:
        """Joint steps that cost what the cycle costs."""
        return self.cycle.flops / self.joint.flops

    def __str__(self) -> str:
        return _table(self)


def explain(descent: Descent, params: Params, batch: Any,
            order: Sequence[StaticBlock]) -> Explanation:
    """Count what a descent costs; it compiles three programs a block, and runs none.

    A family, whose blocks one program serves, takes four.

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
    data = _state(descent, params), batch, key

    def cost(*updates: str) -> Cost:
        def run(state, batch, key):
            # Steps, not visits: no loop, whose body would be counted once.
            for name in updates:
                state, info = descent.step(state, batch, key, name)
            return state, info
        return program_cost(run, *data)

    rows: dict[str, BlockCost] = {}
    for program in programs(descent.blocks).values():
        rows |= _family_rows(descent, program, *data) if program.block.layers else (
            _block_row(descent, program.name, *data))
    # A long visit is counted from two of its steps.
    runs = _runs(names)
    cycle = cost(*(name for name, length in runs for _ in range(min(length, 2))))
    for name, length in runs:
        cycle = _plus(cycle, rows[name].repeat_step, max(length - 2, 0))
    apart = sum(rows[name].step.flops for name in names)
    stacked = [program for program in programs(descent.blocks).values()
               if program.block.layers]
    hidden = {f'{program.name}/{number}' for program in stacked
              for number in range(1, program.count - 1)}
    adam = _joint_adam(descent, params, batch, key)
    # Gradients of several loops are not merged, as those of straight programs are.
    joint = adam.cost if stacked else program_cost(descent.simultaneous, *data)
    return Explanation(
        tuple(row for name, row in rows.items() if name not in hidden), names, cycle,
        apart, joint, sum(x.size for x in jax.tree.leaves(params)),
        max((row.memory for row in rows.values()), key=lambda memory: memory.peak),
        adam.memory)


def memory(descent: Descent, params: Params, batch: Any) -> tuple[Memory, Memory]:
    """Bytes that a descent takes, and those of joint Adam; nothing is allocated.

    Args:
      descent: what `block_descent` returns.
      params: the whole tree; arrays, or `jax.ShapeDtypeStruct` in their place.
      batch: one minibatch, likewise.

    Returns:
      (Memory of the dearest block that moves by a rule of its own, Memory of joint Adam
      with float32 parameters).
    """
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = _state(descent, params)
    peaks = [_memory(descent, program, state, batch, key)
             for program in programs(descent.blocks).values()]
    return (max(peaks, key=lambda memory: memory.peak),
            _joint_adam(descent, params, batch, key).memory)


def _state(descent: Descent, params: Params) -> DescentState:
    """The form of a state; that of an array does not say in what memory it is."""
    state = jax.eval_shape(descent.init, params)
    return state._replace(params=jax.tree.map(
        lambda form, leaf: stacks.host_form(leaf) if stacks.on_host(leaf) else form,
        state.params, params))


def _memory(descent: Descent, program: Program, state: DescentState, batch: Any,
            key: Any) -> Memory:
    """Memory of a visit of two steps; a single one need not hold a state that is reset.

    The compiler drops moments that begin at zero and that nobody reads.
    """
    batches, keys = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((2, *x.shape), x.dtype), (batch, key))
    name = program.name
    if program.block.layers:
        return _counted(lambda state, batch, key, number: descent.visit(
            state, batch, key, (name, number)), state, batches, keys, _NUMBER,
            donate=True).memory
    return _counted(lambda state, batch, key: descent.visit(state, batch, key, name),
                    state, batches, keys, donate=True).memory


_NUMBER = jax.ShapeDtypeStruct((), jax.numpy.int32)


def _block_row(descent: Descent, name: str, *data: Any) -> dict[str, BlockCost]:
    def step(state, batch, key):
        return descent.step(state, batch, key, name)

    one = program_cost(step, *data)
    two = program_cost(lambda state, *rest: step(step(state, *rest)[0], *rest), *data)
    program = programs(descent.blocks)[name]
    return {name: BlockCost(name, one, _plus(two, one, -1),
                            _size(data[0].opt_state.get(name)),
                            _memory(descent, program, *data))}


def _family_rows(descent: Descent, program: Program, *data: Any
                 ) -> dict[str, BlockCost]:
    """A row for each block of a family, of which three programs are compiled."""
    family = program.name
    held = _memory(descent, program, *data)
    steps = family_step_costs(descent, family, *data)

    def visits(many):
        return _family_costs(lambda number: lambda state, batch, key: descent.visit(
            state, batch, key, (family, number), steps=many), program.count, *data)

    again = [_plus(two, one, -1) for one, two in zip(visits(1), visits(2))]
    size = _size(data[0].opt_state.get(family))
    return {name: BlockCost(name, step, more, size, held) for name, step, more in zip(
        [f'{family}/{number}' for number in range(program.count)], steps, again)}


def _size(tree: Any, host: bool = False) -> int:
    """Bytes of what is on the device, or in the host's memory."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree)
               if stacks.on_host(x) == host)


def _joint_adam(descent: Descent, params: Params, batch: Any, key: Any) -> '_Counted':
    """An ordinary training step, down the loss of the first block."""
    adam, block = optax.adam(1e-3), next(iter(descent.blocks.values()))

    def objective(params, batch, key):
        return call_loss('joint', block, params, None, batch, key)[0]

    def step(state, batch, key):
        params, opt_state = state
        grads = jax.grad(objective)(params, batch, key)
        updates, opt_state = adam.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    params = jax.eval_shape(stacks.decode, params)
    return _counted(step, (params, jax.eval_shape(adam.init, params)), batch, key,
                    donate=True)


def program_cost(function: Callable, *arguments: Any) -> Cost:
    """Cost of the compiled program of a function.

    Args:
      function: what to compile.
      *arguments: arrays, or `jax.ShapeDtypeStruct` in their place.
    """
    return _counted(function, *arguments).cost


def family_step_costs(descent: Descent, family: str, state: DescentState, batch: Any,
                      key: Any) -> list[Cost]:
    """Cost of a step of each block of a family, of which one is compiled.

    Args:
      descent: what `block_descent` returns.
      family: a name.
      state, batch, key: of a step; arrays, or `jax.ShapeDtypeStruct` in their place.
    """
    return _family_costs(lambda number: lambda state, batch, key: descent.step(
        state, batch, key, (family, number)), programs(descent.blocks)[family].count,
        state, batch, key)


def _family_costs(run: Callable[[Any], Callable], count: int, *arguments: Any
                  ) -> list[Cost]:
    """Cost of what is run for each number; the program, whose loops differ, is one."""
    compiled = _counted(lambda *given: run(given[-1])(*given[:-1]), *arguments, _NUMBER)
    with jax.disable_jit(False):
        traced = [jax.jit(run(number)).trace(*arguments) for number in range(count)]
    return [Cost(compiled.flops_once + repeated_flops(each.jaxpr, least=-1),
                 compiled.cost.bytes) for each in traced]


class _Counted(NamedTuple):
    """What the compiler says of a program: `flops_once` with one trip of each loop."""

    cost: Cost
    flops_once: float
    memory: Memory


def _counted(function: Callable, *arguments: Any, donate: bool = False) -> _Counted:
    # The one place where the library compiles: only XLA knows what it will run.
    with jax.disable_jit(False):  # whoever debugs without jit still wants the count
        traced = jax.jit(function, donate_argnums=0 if donate else ()).trace(
            *arguments)
        compiled = traced.lower().compile(compiler_options=_NEVER_RUN)
    counted, plan = compiled.cost_analysis() or {}, compiled.memory_analysis()
    flops = float(counted.get('flops', 0))
    peak = 0 if plan is None else (
        plan.argument_size_in_bytes + plan.temp_size_in_bytes
        + plan.output_size_in_bytes - plan.alias_size_in_bytes)
    host = _size(arguments, host=True)
    if plan is not None and not plan.host_argument_size_in_bytes:
        peak -= host  # as on a CPU, whose compiler knows one memory
    return _Counted(Cost(flops + repeated_flops(traced.jaxpr),
                         float(counted.get('bytes accessed', 0))), flops,
                    Memory(_size(arguments[0]), peak, host))


def _runs(names: Sequence[str]) -> list[tuple[str, int]]:
    return [(name, len(list(run))) for name, run in itertools.groupby(names)]


def _plus(cost: Cost, other: Cost, times: int) -> Cost:
    return Cost(*(a + times * b for a, b in zip(cost, other)))


def _table(told: Explanation) -> str:
    width = max(len('joint Adam'), *(len(row.name) for row in told.blocks))

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
        f'{told.unshared_flops / told.joint.flops:.2f}.', '',
        *_memory_table(told, width)])


def _memory_table(told: Explanation, width: int) -> list[str]:
    def line(name, memory):
        return (f'{name:{width}}  {memory.held / 1e6:10.4g}  {memory.peak / 1e6:8.4g}  '
                f'{memory.held / told.num_params:8.3g}  '
                f'{memory.peak / told.num_params:14.3g}')

    return [f'{"memory":{width}}  {"held MB":>10}  {"peak MB":>8}  {"a param":>8}  '
            f'{"peak a param":>14}',
            *(line(row.name, row.memory) for row in told.blocks),
            line('joint Adam', told.joint_adam),
            *([f'In the host\'s memory, beside these: {told.memory.host / 1e6:.4g} MB.']
              if told.memory.host else [])]
