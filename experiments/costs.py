"""What training costs, by XLA's own count in the compiled programs."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

import cdgm
from cdgm.explain import program_cost
from experiments.block_sweeps import sweeps_in_order
from experiments.study import Study


class Costs(NamedTuple):
    """FLOPs of training one seed, as XLA counts them in the compiled programs.

    A loop's body is counted once, so the programs are those of single steps; only where
    a sweep takes every block once is it one program, in which updates on one minibatch
    share their work.

    Attributes:
      sweep: float, of a sweep; 0 where it is the sum of its steps.
      step: float[blocks], of a step of each block.
      probe: float[blocks], on average, of what a rule evaluates beside each step.
    """

    sweep: float
    step: np.ndarray
    probe: np.ndarray

    def spent(self, sweeps: int, updates: np.ndarray) -> float:
        """FLOPs of some sweeps, in which each block had some updates."""
        if self.sweep:
            return sweeps * self.sweep
        return float((self.step + self.probe) @ np.asarray(updates))


def count_costs(study: Study) -> Costs:
    """Compile what a sweep is made of, and read off its FLOPs."""
    descent, updates, choice = study.descent, study.order.updates, study.order.choice
    key, none = study.keys[0], np.zeros(len(descent.blocks))
    state = jax.eval_shape(lambda key: descent.init(study.init(key)), key)
    batch = jax.eval_shape(study.prepare, study.images[:study.batch_size], key)
    if choice is None and len(set(updates)) == len(updates):
        def stack(tree, *axes):
            return jax.tree.map(
                lambda x: jax.ShapeDtypeStruct((*axes, *x.shape), x.dtype), tree)

        states = stack(state, 1)
        data = stack((batch, key), 1, study.minibatches_per_sweep)
        whole = flops_of_program(sweeps_in_order(study).sweep, states, *data)
        return Costs(whole, none, none)
    step = np.array([flops_of_program(
        lambda state, batch, key, name=name: descent.step(state, batch, key, name),
        state, batch, key) for name in descent.blocks])
    probe = sum((_probe_cost(descent, kind, step, state.params, batch, key) / every
                 for kind, every in (choice.probes if choice else ())), none)
    return Costs(0., step, probe)


def _probe_cost(descent, kind: str, step: np.ndarray, *arguments) -> np.ndarray:
    """FLOPs of a probe after a step of each block."""
    if kind == 'secant':
        return 2 * step
    if kind == 'grad_norms':
        return np.full_like(step, flops_of_program(
            lambda *given: cdgm.block_grad_norms(descent, *given), *arguments))
    return np.array([flops_of_program(lambda *given, block=block: block.loss(*given)[0],
                                      *arguments) for block in descent.blocks.values()])


def flops_of_program(function: Callable, *arguments) -> float:
    """FLOPs of one call, after XLA's optimisations."""
    return program_cost(function, *arguments).flops
