"""Curves as SVG, one panel a picture, so that a narrow page stacks them.

The same numbers make the same bytes: no clock, no version, no random names. Ink is the
page's: dark on light, light on dark.
"""

import io
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments import figures
from experiments.compare import over_seeds, pool, read_curve

# The rows of one run: its metrics.
Rows = list[dict[str, Any]]

_INK, _CHALK = '#1d2430', '#dfe4ec'
_STYLE = (f'<style>svg{{color:{_INK}}}@media screen and (prefers-color-scheme:dark)'
          f'{{svg{{color:{_CHALK}}}}}</style>')
_LOOK = {
    'svg.fonttype': 'none', 'svg.hashsalt': 'cdgm', 'savefig.bbox': None,
    'text.color': _INK, 'axes.labelcolor': _INK, 'axes.edgecolor': _INK,
    'xtick.color': _INK, 'ytick.color': _INK}

_ALONG = {'sweep': 'sweeps', 'gflop': 'GFLOP a seed', 'seconds': 'seconds a seed'}


def curves(rows: Sequence[Sequence[Rows]], metric: str) -> dict[str, bytes]:
    """Draw a test metric against sweeps, FLOPs and seconds, a colour a row.

    Args:
      rows: the runs of every row of a table, at most six of them.
      metric: name of the test metric.

    Returns:
      What it is drawn against -> SVG.
    """
    pooled = {along: [pool([(_axis(run, along), read_curve(run, metric).values)
                            for run in runs]) for runs in rows] for along in _ALONG}

    def draw(axes, along):
        for x, values in pooled[along]:
            figures.band(axes, x, values, '')
        axes.set_xlabel(_ALONG[along])

    return dict(zip(_ALONG.values(), _panels(
        [lambda axes, along=along: draw(axes, along) for along in _ALONG],
        [values for _, values in pooled['sweep']])))


def losses(rows: Sequence[Sequence[Rows]]) -> list[bytes]:
    """Draw the training loss of each block, a panel a row of the table."""
    trained = [pool([(np.arange(len(one)), np.array([[np.mean(loss[name])]
                                                     for loss in one]))])[1]
               for runs in rows for one in [
                   [row['loss'] for row in run if row.get('loss')] for run in runs]
               for name in sorted({name for loss in one for name in loss})]
    return _panels([lambda axes, runs=runs: figures.training_losses(axes, *runs)
                    for runs in rows], trained)


def _axis(run: Rows, along: str) -> np.ndarray:
    tested = [row for row in run if 'test' in row]
    x = np.array([row[along] for row in tested], float)
    # The clock runs for all seeds of a run.
    return x / len(next(iter(tested[0]['test'].values()))) if along == 'seconds' else x
