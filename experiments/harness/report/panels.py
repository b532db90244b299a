"""Curves as SVG, one panel a picture, so that a narrow page stacks them.

The same numbers make the same bytes: no clock, no version, no random names. Ink is the
page's: dark on light, light on dark.
"""

import io
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.harness.report import figures
from experiments.harness.report.compare import pool, read_curve

# The rows of one run: its metrics.
Rows = list[dict[str, Any]]

_DARK_INK, _LIGHT_INK = '#1d2430', '#dfe4ec'
_STYLE = (f'<style>svg{{color:{_DARK_INK}}}@media screen and '
          f'(prefers-color-scheme:dark){{svg{{color:{_LIGHT_INK}}}}}</style>')
_RC_PARAMS: Any = {
    'svg.fonttype': 'none', 'svg.hashsalt': 'cdgm', 'savefig.bbox': None,
    'text.color': _DARK_INK, 'axes.labelcolor': _DARK_INK, 'axes.edgecolor': _DARK_INK,
    'xtick.color': _DARK_INK, 'ytick.color': _DARK_INK, 'grid.color': '#8a94a6',
    'grid.alpha': 0.2}

# Ratio of the highest to the lowest value from which on an axis is logarithmic.
_LOG_RATIO = 5

_X_LABELS = {'cycle': 'cycles', 'gflop': 'GFLOP a seed', 'seconds': 'seconds a seed'}


def curves(rows: Sequence[Sequence[Rows]], metric: str) -> dict[str, bytes]:
    """Draw a test metric against cycles, FLOPs and seconds, a colour a row.

    Args:
      rows: the runs of every row of a table, at most six of them.
      metric: name of the test metric.

    Returns:
      What it is drawn against -> SVG.
    """
    def draw(axes, along):
        for runs in rows:
            figures.band(axes, *pool([
                (_axis(run, along), read_curve(run, metric).values)
                for run in runs]), '')
        axes.set_xlabel(_X_LABELS[along])

    return dict(zip(_X_LABELS.values(), _panels(
        [partial(draw, along=along) for along in _X_LABELS], guides=1)))


def training(rows: Sequence[Sequence[Rows]], part: str = 'loss') -> list[bytes]:
    """Draw what training says of each block, a panel a row of the table.

    Args:
      rows: the runs of every row of a table.
      part: of `figures.TRAINING_PARTS`.
    """
    def draw(axes, runs):
        figures.training_curves(axes, *runs, part=part)

    return _panels([partial(draw, runs=runs) for runs in rows], guides=len(rows))


def _axis(run: Rows, along: str) -> np.ndarray:
    tested = [row for row in run if 'test' in row]
    x = np.array([row[along] for row in tested], float)
    # The clock runs for all seeds of a run.
    return x / len(next(iter(tested[0]['test'].values()))) if along == 'seconds' else x


def _panels(draws: Sequence[Callable[[Axes], None]], guides: int) -> list[bytes]:
    """Draw panels with one y-axis, which what the first `guides` ones show sets."""
    with plt.rc_context(_RC_PARAMS):
        drawn = [Figure(figsize=(3.7, 2.6), layout='constrained') for _ in draws]
        panels = [figure.subplots() for figure in drawn]
        for axes, draw in zip(panels, draws):
            draw(axes)
        _share_y(panels, [each for axes in panels[:guides] for each in _points(axes)])
        return [_svg(figure) for figure in drawn]


def _points(axes: Axes) -> list[np.ndarray]:
    """Points float[N, 2] of each line and band."""
    return [np.asarray(line.get_xydata()) for line in axes.lines] + [
        np.asarray(path.vertices) for band in axes.collections
        for path in band.get_paths()]


def _share_y(panels: Sequence[Axes], points: Sequence[np.ndarray]) -> None:
    """Give panels one y-axis that shows the points, logarithmic where they fall far.

    The first fifth, where the loss falls steeply, would flatten all that follows.
    """
    values = np.concatenate([y[x >= np.max(x, initial=0) / 5]
                             for x, y in (each.T for each in points)] or [[]])
    values = values[np.isfinite(values)]
    if not len(values):
        return
    low, high = values.min(), values.max()
    logarithmic = low > 0 and high > _LOG_RATIO * low
    margin = 0.06 * (np.log(high / low) if logarithmic else high - low)
    for axes in panels:
        if logarithmic:
            axes.set_yscale('log')
            axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter(ticker.StrMethodFormatter('{x:g}'))
            axes.yaxis.set_minor_formatter(ticker.NullFormatter())
            axes.set_ylim(low * np.exp(-margin), high * np.exp(margin))
        elif margin:
            axes.set_ylim(low - margin, high + margin)


def _svg(figure: Figure) -> bytes:
    buffer = io.StringIO()
    figure.savefig(buffer, format='svg', transparent=True, metadata={
        'Date': None, 'Creator': None, 'Format': None, 'Type': None})
    text = buffer.getvalue().replace(_DARK_INK, 'currentColor')
    # Without what stands before the picture: it names a place in the network.
    return text[text.index('<svg'):].replace('<defs>', _STYLE + '<defs>', 1).encode()
