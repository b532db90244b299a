"""Cycles of all seeds at once, in order or by a rule.

The choice of block is made outside the axis of seeds, so that a rule's stays one
conditional and not every branch.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

import cdgm
from experiments.harness.block_choice import Choice
from experiments.harness.task import TracedInputs, Task, model_of


class Cycles(NamedTuple):
    """How one program cycles all seeds.

    Attributes:
      init: (params[N], model_state[N], TracedInputs[N]) -> state.
      cycle: (state, batches, keys, TracedInputs[N]) -> (state, StepInfo[N, U]).
        `batches` is [N, U, B, ...] and `keys` [N, U] with fresh minibatches,
        [N, 1, ...] of both without.
      descent_state: state -> DescentState[N].
      independent: whether seeds do not affect each other, so that the state can be cut
        along N.
    """

    init: Callable[[Any, Any, TracedInputs], Any]
    cycle: Callable[[Any, jax.Array, jax.Array,
                     TracedInputs], tuple[Any, cdgm.StepInfo]]
    descent_state: Callable[[Any], cdgm.DescentState]
    independent: bool


def cycles_in_order(task: Task) -> Cycles:
    """The updates as they stand: the program holds no conditional."""
    updates = task.order.updates

    def init(params, model_state, given):
        return task.descent(given.hyper).init(params, model_state)

    def first(batches):
        return jax.tree.map(lambda x: x[0], batches)

    def of_one_seed(state, batches, keys, given):
        descent = task.descent(given.hyper)
        if updates == ('simultaneous',):
            state, infos = descent.simultaneous(state, first(batches), keys[0])
            return state, infos._replace(aux=jax.tree.map(lambda x: x[None], infos.aux))
        if task.fresh:
            return descent.cycle(state, batches, keys, updates, stacked=True)
        return descent.cycle(state, first(batches), keys[0], updates)

    return Cycles(jax.vmap(init), jax.vmap(of_one_seed), lambda state: state,
                  independent=True)


def cycles_by_rule(task: Task, choice: Choice, costs: Sequence[float]) -> Cycles:
    """As many updates, their blocks chosen by a rule, one choice for all seeds.

    Where the plan says so a cycle is one visit, with one choice.

    The seeds are those of one run: they have its hyperparameters, and the key of the
    first is that of the choices.
    """
    def driven(given):
        first = jax.tree.map(lambda x: x[0], given)
        return cdgm.drive(task.descent(first.hyper), choice.build(costs, first.key),
                          seeds=True, batch_axis=0)

    def cycle(state, batches, keys, given):
        if task.order.visit:
            return driven(given).visit(state, batches, keys)
        step = driven(given).step

        def update(state, position):
            mine = position if task.fresh else 0
            return step(state, jax.tree.map(lambda x: x[:, mine], batches),
                        keys[:, mine], signal=_signal(task, state.descent, given))

        state, infos = lax.scan(update, state, jnp.arange(len(task.order.updates)))
        return state, jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), infos)

    return Cycles(lambda params, model_state, given: driven(given).init(
        params, model_state), cycle, lambda state: state.descent, independent=False)


def _signal(task: Task, state: cdgm.DescentState, given: TracedInputs):
    """What the seeds say of held-out data at the end of an epoch; else not a number."""
    signal = task.signal
    if signal is None:
        return None
    count = state.count[0]  # of all seeds
    silence = jnp.full(len(given.key), jnp.nan, float)
    return lax.cond(
        (count > 0) & (count % task.updates_per_epoch == 0),
        lambda: jax.vmap(signal)(*model_of(state), given.hyper).astype(float),
        lambda: silence)


def choose_cycles(task: Task, costs: Sequence[float]) -> Cycles:
    """The cycles that the task's order asks for, given the cost of each block."""
    if task.order.choice is None:
        return cycles_in_order(task)
    return cycles_by_rule(task, task.order.choice, costs)
