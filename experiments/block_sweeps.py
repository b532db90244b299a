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
from experiments.study import Given, Study


class Sweeps(NamedTuple):
    """How one program sweeps all seeds.

    Attributes:
      init: (params[N], Given[N]) -> state.
      sweep: (state, batches, keys, Given[N]) -> (state, StepInfo[N, U]). `batches` is
        [N, U, B, ...] and `keys` [N, U] with fresh minibatches, [N, 1, ...] of both
        without.
      params: state -> params[N].
      apart: whether seeds know nothing of each other, so that the state can be cut
        along N.
    """

    init: Callable[[Any, Given], Any]
    sweep: Callable[[Any, jax.Array, jax.Array, Given], tuple[Any, cdgm.StepInfo]]
    params: Callable[[Any], Any]
    apart: bool


def sweeps_in_order(study: Study) -> Sweeps:
    """The updates as they stand: the program holds no conditional."""
    updates = study.order.updates

    def init(params, given):
        return study.descent(given.hyper).init(params)

    def of_one_seed(state, batches, keys, given):
        descent = study.descent(given.hyper)
        if updates == ('simultaneous',):
            return descent.simultaneous(state, batches[0], keys[0])
        if study.fresh:
            return descent.cycle(state, batches, keys, updates)
        return descent.cycle(state, batches[0], keys[0], updates)

    return Sweeps(jax.vmap(init), jax.vmap(of_one_seed), lambda state: state.params,
                  apart=True)


def sweeps_by_rule(study: Study, costs: Sequence[float]) -> Sweeps:
    """As many updates, their blocks chosen by a rule, one choice for all seeds.

    The seeds are those of one run: they have its hyperparameters, and the key of the
    first is that of the choices.
    """
    def driven(given):
        first = jax.tree.map(lambda x: x[0], given)
        return cdgm.drive(study.descent(first.hyper),
                          study.order.choice.build(costs, first.key), seeds=True,
                          batch_axis=0)

    def sweep(state, batches, keys, given):
        step = driven(given).step

        def update(state, position):
            mine = position if study.fresh else 0
            return step(state, batches[:, mine], keys[:, mine])

        state, infos = lax.scan(update, state, jnp.arange(len(study.order.updates)))
        return state, jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), infos)

    return Sweeps(lambda params, given: driven(given).init(params), sweep,
                  lambda state: state.descent.params, apart=False)


def choose_sweeps(study: Study, costs: Sequence[float]) -> Sweeps:
    """The sweeps that the study's order asks for, given the cost of each block."""
    if study.order.choice is None:
        return sweeps_in_order(study)
    return sweeps_by_rule(study, costs)
