"""What training costs, by XLA's own count in the compiled programs."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

import cdgm
from cdgm import families
from cdgm._explain import family_step_costs, program_cost
from experiments.harness.task import TracedInputs, Task, model_of
from experiments.harness.train.block_updates import cycles_in_order
from experiments.harness.train.cycle_program import abstract_state


class Costs(NamedTuple):
    """FLOPs of training one seed, as XLA counts them in the compiled programs.

    A loop's body is counted once, so the programs are those of single steps; only where
    a cycle takes every block once is it one program, in which updates on one minibatch
    share their work.

    Attributes:
      cycle: float, of a cycle; 0 where it is the sum of its steps.
      step: float[blocks], of a step of each block.
      probe: float[blocks], on average, of what a rule evaluates beside each step.
    """

    cycle: float
    step: np.ndarray
    probe: np.ndarray

    def spent(self, cycles: int, updates: np.ndarray) -> float:
        """FLOPs of some cycles, in which each block had some updates."""
        if self.cycle:
            return cycles * self.cycle
        return float((self.step + self.probe) @ updates)


def count_costs(task: Task, given: TracedInputs) -> Costs:
    """Compile what a cycle is made of, and read off its FLOPs.

    Args:
      task: what is trained.
      given: of one seed, or what it is like.
    """
    none = np.zeros(len(task.blocks))
    if task.costs:
        parts = [(share, count_costs(each, given)) for share, each in task.costs]
        return Costs(sum(share * one.cycle for share, one in parts),
                     sum((share * one.step for share, one in parts), none),
                     sum((share * one.probe for share, one in parts), none))
    updates, choice = task.order.updates, task.order.choice
    state, batch = abstract_state(task, given)
    if choice is None and len(set(updates)) == len(updates):
        def stack(tree, *axes):
            return jax.tree.map(
                lambda x: jax.ShapeDtypeStruct((*axes, *x.shape), x.dtype), tree)

        each = 1, task.minibatches_per_cycle
        whole = flops_of_program(cycles_in_order(task).cycle, stack(state, 1),
                                 *stack((batch, given.key), *each), stack(given, 1))
        return Costs(whole, none, none)
    step = np.concatenate([_step_costs(task, program, state, batch, given) for program
                           in families.programs(task.descent(given.hyper).blocks
                                                ).values()])
    probe = sum((_probe_cost(task, kind, step, state.params, batch, given) / every
                 for kind, every in (choice.probes if choice else ())), none)
    if task.signal is not None:
        probe = probe + flops_of_program(
            task.signal, *model_of(state), given.hyper) / task.updates_per_epoch
    return Costs(0., step, probe)


def _step_costs(task: Task, program: families.Program, state: cdgm.DescentState,
                batch: Any, given: TracedInputs) -> list[float]:
    """FLOPs of a step of a block, or of each of a family."""
    if program.block.layers:
        return [cost.flops for cost in family_step_costs(
            task.descent(given.hyper), program.name, state, batch, given.key)]
    return [flops_of_program(
        lambda state, batch, given: task.descent(given.hyper).step(
            state, batch, given.key, program.name), state, batch, given)]


def _probe_cost(task: Task, kind: str, step: np.ndarray, *arguments) -> np.ndarray:
    """FLOPs of a probe after a step of each block."""
    if kind == 'secant':
        return 2 * step
    if kind == 'grad_norms':
        return np.full_like(step, flops_of_program(
            lambda params, batch, given: cdgm.selection.block_grad_norms(
                task.descent(given.hyper), params, batch, given.key), *arguments))
    return np.array([flops_of_program(
        lambda params, batch, given, name=name: task.descent(given.hyper).blocks[
            name].loss(params, batch, given.key)[0], *arguments)
        for name in task.blocks])


def flops_of_program(function: Callable, *arguments) -> float:
    """FLOPs of one call, after XLA's optimisations."""
    return program_cost(function, *arguments).flops
