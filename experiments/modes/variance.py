"""How much of a table's variance is due to each factor.

With cells of equal numbers of seeds, y = mean + sum over sets A of factors of e_A +
residual, where e_A is what the factors of A do together and no smaller set does:

    e_A   = sum over subsets B of A of (-1)^(|A| - |B|) mean of y over all but B
    SS_A  = sum of e_A^2 over all runs,     SS_total = sum_A SS_A + SS_residual
    eta2  = SS_A / SS_total
    omega2 = (SS_A - df_A MS) / (SS_total + MS),   MS = SS_residual / df_residual

eta2 adds up to one and is biased upwards, since the noise of the seeds has a share in
every effect; omega2 is freed of it. Standard errors are by the jackknife over seeds,
which begin alike in all cells.

Sources  Fisher 1925; omega2: Hays 1963; jackknife: Efron & Stein 1981.
"""

import itertools
from typing import NamedTuple

import numpy as np


class Effect(NamedTuple):
    """What a set of factors does.

    Attributes:
      factors: their names; none for the residual of the seeds.
      degrees: of freedom.
      eta2: share of the sum of squares.
      omega2: the same, freed of noise; 0 of the residual.
      error: standard error of eta2.
    """

    factors: tuple[str, ...]
    degrees: int
    eta2: float
    omega2: float
    error: float


class Difference(NamedTuple):
    """A level less the level it is compared with, over seeds that are paired.

    Attributes:
      level: of the factor.
      mean: of the differences.
      error: its standard error.
    """

    level: str
    mean: float
    error: float

    @property
    def beyond(self) -> bool:
        """Whether the difference is more than two standard errors from none."""
        return abs(self.mean) > 2 * self.error


def decompose(values: np.ndarray, factors: tuple[str, ...]) -> list[Effect]:
    """Split the variance; the largest share first, the residual last.

    Args:
      values: float[levels of each factor …, seeds], two seeds at least.
      factors: a name for each axis but the last.

    Raises:
      ValueError: a value is not finite, or axes and names do not match.
    """
    if values.ndim != len(factors) + 1 or values.shape[-1] < 2:
        raise ValueError(f'values are {values.shape} and factors {factors}; give an '
                         'axis each, and a last one of two seeds or more.')
    if not np.isfinite(values).all():
        raise ValueError(f'{(~np.isfinite(values)).sum()} of {values.size} values are '
                         'not finite; set them to the worst that there is.')
    squares = sums_of_squares(values)
    total, seeds = sum(squares.values()), values.shape[-1]
    again = [sums_of_squares(np.delete(values, seed, axis=-1)) for seed in range(seeds)]
    degrees = {axes: int(np.prod([values.shape[axis] - 1 for axis in axes], dtype=int))
               for axes in squares}
    degrees[()] = values.size - values[..., 0].size
    noise = squares[()] / degrees[()]

    def effect(axes):
        left_out = np.array([_share(each[axes], sum(each.values())) for each in again])
        spread = (seeds - 1) / seeds * np.sum((left_out - left_out.mean()) ** 2)
        unbiased = _share(squares[axes] - degrees[axes] * noise, total + noise)
        return Effect(tuple(factors[axis] for axis in axes), degrees[axes],
                      _share(squares[axes], total), unbiased, float(spread ** 0.5))

    effects = [effect(axes) for axes in squares if axes]
    return [*sorted(effects, key=lambda each: -each.eta2), effect(())]


def sums_of_squares(values: np.ndarray) -> dict[tuple[int, ...], float]:
    """Set of axes -> SS_A; the empty set is the residual.

    Args:
      values: float[levels of each factor …, seeds].
    """
    axes = range(values.ndim - 1)
    means = {kept: values.mean(axis=tuple(axis for axis in range(values.ndim)
                                          if axis not in kept), keepdims=True)
             for kept in subsets(axes)}
    squares = {}
    for kept in means:
        if kept:
            effect = sum((-1) ** (len(kept) - len(below)) * means[below]
                         for below in subsets(kept))
            squares[kept] = float(np.sum(effect ** 2) * values.size / effect.size)
    cells = values.mean(axis=-1, keepdims=True)
    return {**squares, (): float(np.sum((values - cells) ** 2))}


def subsets(items) -> list[tuple]:
    """All subsets, the empty one first."""
    items = tuple(items)
    return [chosen for size in range(len(items) + 1)
            for chosen in itertools.combinations(items, size)]


def differences(values: np.ndarray, axis: int, levels: tuple[str, ...], reference: str
                ) -> list[Difference]:
    """Compare the levels of a factor with one of them, averaged over all the others.

    Args:
      values: float[levels of each factor …, seeds].
      axis: of the factor.
      levels: of it.
      reference: what the others are compared with.
    """
    others = tuple(other for other in range(values.ndim - 1) if other != axis)
    means = values.mean(axis=others)  # float[levels, seeds]
    paired = means - means[levels.index(reference)]
    return [Difference(level, float(each.mean()),
                       float(each.std(ddof=1) / len(each) ** 0.5))
            for level, each in zip(levels, paired) if level != reference]


def share_beyond(values: np.ndarray, axis: int, levels: tuple[str, ...], level: str,
                 reference: str) -> tuple[int, int, int]:
    """Cells in which a level is above, and below, the reference by two errors.

    Args:
      values, axis, levels, reference: as `differences` takes them.
      level: what is compared.

    Returns:
      (cells above, cells below, cells); by chance alone one in 22 would be either with
      many seeds, and one in 13 with ten.
    """
    first, second = (np.take(values, levels.index(name), axis=axis)
                     for name in (level, reference))
    paired = (first - second).reshape(-1, values.shape[-1])
    mean, error = paired.mean(-1), paired.std(-1, ddof=1) / paired.shape[1] ** 0.5
    return (int(np.sum(mean > 2 * error)), int(np.sum(mean < -2 * error)), len(paired))


def _share(part: float, total: float) -> float:
    return float(part / total) if total else 0.
