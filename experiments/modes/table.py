"""The table: a row for each arm, seed and moment."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.harness.errors import SettingError
from experiments.modes import variance
from experiments.modes.arms import Arm

FACTORS = ('order', 'loss', 'penalty')
# What the levels of a factor are compared with.
REFERENCES = {'order': '1:1', 'loss': 'non_saturating', 'penalty': 'none'}


class Row(NamedTuple):
    """A line: samples of one seed's generator at one moment.

    Attributes:
      data: name of the mixture.
      loss, penalty, packing, order: of the `Arm`.
      seed: of it.
      at: 'flops', when it has spent what every arm may spend; 'iterations', when it had
        as many iterations as all.
      iterations: that it had.
      gflop: that they took.
      generator: 'last', or its 'average'.
      modes … sliced_wasserstein: see `arms.Judgement`.
    """

    data: str
    loss: str
    penalty: str
    packing: int
    order: str
    seed: int
    at: str
    iterations: int
    gflop: float
    generator: str
    modes: int
    high_quality: float
    high_quality_error: float
    reverse_kl: float
    reverse_kl_error: float
    sliced_wasserstein: float

    @property
    def arm(self) -> Arm:
        """Whose it is."""
        return Arm(self.loss, self.penalty, self.packing, self.order)


def missing_seeds(rows: Sequence[Row], data: str, arm: Arm, seeds: Iterable[int]
                  ) -> list[int]:
    """The seeds that an arm has still to be trained with."""
    there = {row.seed for row in rows if row.data == data and row.arm == arm}
    return [seed for seed in seeds if seed not in there]


def select(rows: Iterable[Row], **wanted: Any) -> list[Row]:
    """The rows whose fields are as wanted."""
    return [row for row in rows
            if all(getattr(row, name) == value for name, value in wanted.items())]


def cells(rows: Sequence[Row], metric: str
          ) -> tuple[dict[str, tuple[str, ...]], np.ndarray]:
    """Lay a metric out by the factors that vary, and by seed.

    Args:
      rows: of one mixture, moment, generator and packing.
      metric: a field of `Row`.

    Returns:
      Factor -> its levels, and float[levels of each …, seeds].

    Raises:
      SettingError: a combination of levels and seed has not exactly one row.
    """
    levels = {factor: tuple(dict.fromkeys(getattr(row, factor) for row in rows))
              for factor in FACTORS}
    levels = {factor: names for factor, names in levels.items() if len(names) > 1}
    seeds = sorted({row.seed for row in rows})
    values = np.full([*map(len, levels.values()), len(seeds)], np.nan)
    for row in rows:
        place = (*(names.index(getattr(row, factor))
                   for factor, names in levels.items()), seeds.index(row.seed))
        if not np.isnan(values[place]):
            raise SettingError(f'{row.arm.name} has two rows of seed {row.seed}; '
                               'select one mixture, moment, generator and packing.')
        values[place] = getattr(row, metric)
    if np.isnan(values).any():
        raise SettingError(f'{int(np.isnan(values).sum())} of {values.size} cells have '
                           'no row; train the arms that are missing.')
    return levels, values


def report(rows: Sequence[Row], metric: str) -> list[str]:
    """Say what explains a metric, and which levels differ from the usual ones."""
    levels, values = cells(rows, metric)
    lines = [f'{metric}: mean {values.mean():.4g}, standard deviation '
             f'{values.std():.3g} of {values.size} runs']
    for effect in variance.decompose(values, tuple(levels)):
        name = ' x '.join(effect.factors) or 'seeds'
        lines.append(f'  {name:<24} eta2 {effect.eta2:6.1%} ± {effect.error:.1%}  '
                     f'omega2 {effect.omega2:6.1%}  df {effect.degrees}')
    for axis, (factor, names) in enumerate(levels.items()):
        if REFERENCES[factor] in names:
            lines += _compared(values, axis, factor, names)
    return lines


def _compared(values, axis: int, factor: str, names: tuple[str, ...]) -> list[str]:
    reference, lines = REFERENCES[factor], []
    for each in variance.differences(values, axis, names, reference):
        above, below, of = variance.share_beyond(values, axis, names, each.level,
                                                 reference)
        lines.append(
            f'  {factor} {each.level:<15} - {reference:<15} {each.mean:+8.3f} ± '
            f'{each.error:.3f}{" *" if each.beyond else "  "} in {above} of {of} cells '
            f'above, {below} below')
    return lines


def summary(rows: Sequence[Row], modes: int) -> list[str]:
    """A line for each arm: means over its seeds with their standard errors."""
    arms = dict.fromkeys(row.arm for row in rows)
    width = max((len(arm.name) for arm in arms), default=0)
    lines = [f'{"":<{width}} {f"modes of {modes}":>14} {"high quality, %":>16} '
             f'{"reverse KL":>15} {"iterations":>10}']
    for arm in arms:
        mine = [row for row in rows if row.arm == arm]
        numbers = np.array([[row.modes, 100 * row.high_quality, row.reverse_kl]
                            for row in mine]).T
        error = (numbers.std(1, ddof=1) / len(mine) ** 0.5 if len(mine) > 1
                 else np.full(3, np.nan))
        told = [f'{mean:.{digits}f} ± {each:.{digits}f}' for mean, each, digits
                in zip(numbers.mean(1), error, (1, 1, 3))]
        lines.append(f'{arm.name:<{width}} {told[0]:>14} {told[1]:>16} {told[2]:>15} '
                     f'{mine[0].iterations:>10}')
    return lines
