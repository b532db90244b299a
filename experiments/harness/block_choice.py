"""Schedules and rules by the names that `--schedule` takes.

A schedule costs nothing. A rule may probe the model, which counts as training: its
FLOPs are added to those of the steps.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax

import cdgm


class Probe(NamedTuple):
    """What a rule evaluates beside the steps.

    Attributes:
      kind: 'grad_norms', the gradients of all blocks; 'secant', two gradients of the
        active block; 'decrease', one loss.
      every: steps from one to the next.
    """

    kind: str
    every: int


class Choice(NamedTuple):
    """How the blocks of a run are chosen.

    Attributes:
      build: (relative cost of a step of each block, PRNG key) -> the schedule or rule.
      probes: what it evaluates beside the steps.
      listens: the one of `Task.signals` that it is told; '' for none.
    """

    build: Callable[[Sequence[float], jax.Array],
                    cdgm.Schedule | cdgm.selection.SelectionRule]
    probes: tuple[Probe, ...] = ()
    listens: str = ''


_PATIENCE = 5  # of aggressive: what He et al. 2019 took for images

_LEAST = -0.05  # of catch_up: an amortisation gap of a twentieth of the KL

NAMES = ('shuffled', 'uniform', 'gauss_southwell', 'gauss_southwell_lipschitz',
         'importance', 'bandit', 'plateau', 'aggressive', 'catch_up')


def choices(visits: Sequence[int], refresh: int) -> dict[str, Choice]:
    """Every choice but the order as it stands.

    Args:
      visits: updates of each block in a cycle; rules that learn their own shares do
        not use it.
      refresh: steps between two probes of a rule.
    """
    size = len(visits)
    return {
        'shuffled': Choice(lambda costs, key: cdgm.shuffled(visits, key)),
        'uniform': Choice(lambda costs, key: cdgm.uniform(
            size, key, [count / sum(visits) for count in visits])),
        'gauss_southwell': Choice(
            lambda costs, key: cdgm.selection.gauss_southwell(size, refresh=refresh),
            (Probe('grad_norms', refresh),)),
        'gauss_southwell_lipschitz': Choice(
            lambda costs, key: cdgm.selection.gauss_southwell(size, refresh=refresh,
                                                              lipschitz='estimated'),
            (Probe('grad_norms', refresh), Probe('secant', refresh))),
        'importance': Choice(
            lambda costs, key: cdgm.selection.importance(size, key, refresh=refresh),
            (Probe('secant', refresh),)),
        'bandit': Choice(lambda costs, key: cdgm.selection.bandit(costs, key,
                                                                  refresh=refresh),
                         (Probe('decrease', refresh),)),
        'plateau': Choice(lambda costs, key: cdgm.selection.plateau(
            size, patience=refresh, max_steps=10 * refresh)),
        # Without a signal it stays aggressive to the end.
        'aggressive': Choice(lambda costs, key: cdgm.selection.aggressive(
            size, inner=0, outer=1, window=refresh, patience=_PATIENCE),
            listens='information'),
        'catch_up': Choice(lambda costs, key: cdgm.selection.catch_up(
            size, inner=0, outer=1, least=_LEAST, extra=refresh), listens='inference'),
    }
