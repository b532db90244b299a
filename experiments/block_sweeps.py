"""Sweeps of all seeds at once, in order or by a rule.

The choice of block is made outside the axis of seeds, so that a rule's stays one
conditional and not every branch.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

import cdgm
from experiments.study import Study


class Sweeps(NamedTuple):
    """How one program sweeps all seeds.

    Attributes:
      init: params[S] -> state.
      sweep: (state, batches, keys) -> (state, StepInfo[S, U]). `batches` is
        [S, U, B, ...] and `keys` [S, U] with fresh minibatches, [S, 1, ...] of both
        without.
      params: state -> params[S].
    """

    init: Callable[[Any], Any]
    sweep: Callable[[Any, jax.Array, jax.Array], tuple[Any, cdgm.StepInfo]]
    params: Callable[[Any], Any]


def sweeps_in_order(study: Study) -> Sweeps:
    """The updates as they stand: the program holds no conditional."""
    descent, updates = study.descent, study.order.updates

    def of_one_seed(state, batches, keys):
        if updates == ('simultaneous',):
            return descent.simultaneous(state, batches[0], keys[0])
        if study.fresh:
            return descent.sweep(state, batches, keys, updates)
        return descent.sweep(state, batches[0], keys[0], updates)

    return Sweeps(jax.vmap(descent.init), jax.vmap(of_one_seed),
                  lambda state: state.params)


def sweeps_by_rule(study: Study, rule: cdgm.Rule | cdgm.Schedule) -> Sweeps:
    """As many updates, their blocks chosen by a rule, one choice for all seeds."""
    driven = cdgm.drive(study.descent, rule, seeds=True, batch_axis=0)

    def sweep(state, batches, keys):
        def update(state, position):
            mine = position if study.fresh else 0
            return driven.step(state, batches[:, mine], keys[:, mine])

        state, infos = lax.scan(update, state, jnp.arange(len(study.order.updates)))
        return state, jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), infos)

    return Sweeps(driven.init, sweep, lambda state: state.descent.params)


def choose_sweeps(study: Study, costs: Sequence[float]) -> Sweeps:
    """The sweeps that the study's order asks for, given the cost of each block."""
    if study.order.choice is None:
        return sweeps_in_order(study)
    return sweeps_by_rule(study, study.order.choice.build(costs))
