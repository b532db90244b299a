"""Figures of the modes: samples over training, densities, histograms, a heat map.

The first seed of each arm is kept as an album, `pictures/*.npz`, so that figures can be
drawn of arms that were trained by an earlier command.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.animation import FuncAnimation, PillowWriter
from PIL import Image
from scipy.ndimage import gaussian_filter

from cdgm.data import mixtures
from cdgm.metrics.modes import assign_modes
from experiments.harness.report import figures
from experiments.modes import table
from experiments.modes.arms import Arm, Programs
from experiments.modes.table import Row

_SIDE = 64  # places a side at which the discriminator is asked
_KEPT = 500  # samples of a moment
_BINS = 160  # of the samples' density, a side
_SHOWN = 6  # arms of a figure
_COLUMNS = 8  # moments of a row of it
_DOT: dict[str, Any] = {'s': 1.5, 'linewidths': 0, 'alpha': 0.6}


class Album:
    """What one seed's samples and its discriminator look like, moment by moment."""

    def __init__(self, mixture: mixtures.Mixture):
        self.extent = extent_of(mixture)
        axis = np.linspace(-self.extent, self.extent, _SIDE, dtype=np.float32)
        self.places = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
        self._moments: list[tuple[int, np.ndarray, np.ndarray]] = []

    def look(self, ours: Programs, states: Any, iterations: int) -> None:
        """Keep a moment, once: the first seed's average, and its discriminator."""
        if self._moments and self._moments[-1][0] == iterations:
            return
        points = np.asarray(ours.sample(states)[1, 0, :_KEPT])
        logits = np.asarray(ours.logits(states, self.places), np.float16)
        self._moments.append((iterations, points, logits.reshape(_SIDE, _SIDE)))

    def save(self, file: Path) -> None:
        """Write iterations [T], points [T, N, 2] and logits [T, side, side]."""
        file.parent.mkdir(parents=True, exist_ok=True)
        iterations, points, logits = map(np.stack, zip(*self._moments))
        np.savez_compressed(file, iterations=iterations, points=points, logits=logits)


def extent_of(mixture: mixtures.Mixture) -> float:
    """Half of the side of a square that shows a mixture and some room about it."""
    return 1.35 * float(np.abs(mixture.centres).max())


def draw(folder: Path, rows: Sequence[Row]) -> None:
    """Write the figures of a table, each mixture's apart."""
    for data in dict.fromkeys(row.data for row in rows):
        # An average of the generator lags where the generator moved seldom.
        mine = table.select(rows, data=data, at='flops', generator='last')
        heat_map(folder / f'{data}_heat_map.png', mine, data)
        albums = {arm: np.load(file) for arm in dict.fromkeys(row.arm for row in mine)
                  if (file := folder / 'pictures' / f'{data}_{arm.name}.npz').exists()}
        shown = {arm: albums[arm] for arm in choose(mine) if arm in albums}
        if shown:
            samples_over_training(folder / f'{data}_samples.png', shown, data)
            histograms(folder / f'{data}_histograms.png', shown, data)
            best = next(iter(shown))
            densities(folder / f'{data}_densities.png', shown[best], best, data)
            animate(folder / f'{data}_training.gif', shown[best], best, data)


def choose(rows: Sequence[Row]) -> list[Arm]:
    """The arms to show, from the best to the worst, at equal distances of rank."""
    quality: dict[Arm, list[tuple[float, float]]] = {}
    for row in rows:
        quality.setdefault(row.arm, []).append((row.modes, row.high_quality))
    ranked = sorted(quality, key=lambda arm: tuple(np.mean(quality[arm], axis=0)),
                    reverse=True)
    return [ranked[place]
            for place in _spread(len(ranked), min(_SHOWN, len(ranked)))]


def _spread(count: int, number: int) -> list[int]:
    """Indices of `number` of `count`, the first and the last and others between."""
    return np.linspace(0, count - 1, number).round().astype(int).tolist()


def heat_map(file: Path, rows: Sequence[Row], data: str) -> None:
    """Draw the mean number of modes, loss by order, a panel for each penalty."""
    orders, names, penalties = (list(dict.fromkeys(getattr(row, factor)
                                                   for row in rows))
                                for factor in ('order', 'loss', 'penalty'))
    of = len(mixtures.MIXTURES[data]().centres)
    figure, panels = plt.subplots(
        1, len(penalties), squeeze=False, sharey=True, layout='constrained',
        figsize=(1.6 + len(penalties) * (0.5 + 0.55 * len(orders)),
                 1.5 + 0.36 * len(names)))
    for panel, penalty in zip(panels[0], penalties):
        values = np.array([[_mean_modes(rows, loss, order, penalty) for order in orders]
                           for loss in names])
        image = panel.imshow(values, vmin=0, vmax=of, cmap='viridis', aspect='auto')
        for (row, column), value in np.ndenumerate(values):
            panel.text(column, row, f'{value:.1f}', ha='center', va='center', size=8,
                       color='white' if value < of / 2 else 'black')
        panel.set_xticks(range(len(orders)), orders, rotation=40, ha='right')
        panel.set_yticks(range(len(names)), [name.replace('_', '-') for name in names])
        panel.set_title(penalty.replace('none', 'no penalty'))
        panel.grid(False)
    figure.colorbar(image, ax=panels, label=f'modes of {of}', pad=0.01)
    _save(figure, file)


def _mean_modes(rows, loss, order, penalty) -> float:
    mine = [row.modes for row in rows
            if (row.loss, row.order, row.penalty) == (loss, order, penalty)]
    return float(np.mean(mine)) if mine else float('nan')


def samples_over_training(file: Path, albums: dict[Arm, dict], data: str) -> None:
    """Draw samples as small multiples: an arm a row, a moment a column."""
    mixture = mixtures.MIXTURES[data]()
    figure, panels = plt.subplots(len(albums), _COLUMNS, squeeze=False,
                                  layout='constrained',
                                  figsize=(1.15 * _COLUMNS + 1, 1.25 * len(albums)))
    for line, (arm, album) in zip(panels, albums.items()):
        for panel, moment in zip(line, _spread(len(album['iterations']), _COLUMNS)):
            _frame(panel, mixture)
            panel.scatter(*album['points'][moment].T, color=figures.COLOURS[0], **_DOT)
            panel.set_title(f'{album["iterations"][moment]}', size=7, pad=2)
        line[0].set_ylabel(words(arm), size=7, rotation=0, ha='right', va='center')
    figure.suptitle('samples of the average generator, by iterations', size=9)
    _save(figure, file)


def histograms(file: Path, albums: dict[Arm, dict], data: str) -> None:
    """Draw the share of the samples that each mode has at the end."""
    mixture = mixtures.MIXTURES[data]()
    modes = len(mixture.centres)
    figure, panels = plt.subplots(len(albums), 1, squeeze=False, sharex=True,
                                  layout='constrained',
                                  figsize=(5, 0.4 + 0.85 * len(albums)))
    for panel, (arm, album) in zip(panels[:, 0], albums.items()):
        assigned = np.asarray(assign_modes(
            jnp.asarray(album['points'][-1]), jnp.asarray(mixture.centres),
            3 * mixture.std))
        shares = np.bincount(assigned, minlength=modes + 1) / len(assigned)
        panel.bar(range(modes), shares[:modes], color=figures.COLOURS[0])
        panel.axhline(1 / modes, color='black', linewidth=0.8, linestyle='--')
        panel.set_title(f'{words(arm, " · ")}: {np.sum(shares[:modes] > 0)} modes, '
                        f'{1 - shares[modes]:.0%} of high quality', size=8, pad=2)
        panel.grid(False)
    panels[-1, 0].set_xlabel('mode (dashed: its share of the data)')
    figure.supylabel('share of the samples', size=9)
    _save(figure, file)


def densities(file: Path, album: dict, arm: Arm, data: str) -> None:
    """Draw the discriminator's logits and, as lines, the samples' density."""
    mixture = mixtures.MIXTURES[data]()
    chosen = sorted({*_spread(len(album['iterations']), 4)})
    figure, panels = plt.subplots(1, len(chosen), squeeze=False, layout='constrained',
                                  figsize=(2.6 * len(chosen) + 0.6, 2.9))
    extent = extent_of(mixture)
    for panel, moment in zip(panels[0], chosen):
        logits = album['logits'][moment].astype(float)
        # Of a relativistic discriminator only differences mean something.
        logits = logits - np.median(logits)
        scale = max(float(np.quantile(np.abs(logits), 0.98)), 1e-6)
        axis = np.linspace(-extent, extent, len(logits))
        panel.contourf(axis, axis, np.clip(logits / scale, -1, 1), cmap='RdBu_r',
                       levels=np.linspace(-1, 1, 21))
        density = _density(album['points'][moment], extent)
        axis = np.linspace(-extent, extent, _BINS)
        if density.max() > 0:
            panel.contour(axis, axis, density / density.max(), colors='black',
                          levels=[0.03, 0.1, 0.3], linewidths=0.7)
        _frame(panel, mixture, centres='black')
        panel.set_title(f'{album["iterations"][moment]} iterations', size=8)
    figure.suptitle(f'{words(arm, " · ")}: discriminator (red: real) and density of '
                    'the samples (lines)', size=9)
    _save(figure, file)


def _density(points: np.ndarray, extent: float) -> np.ndarray:
    counts, _, _ = np.histogram2d(points[:, 1], points[:, 0], bins=_BINS,
                                  range=[[-extent, extent]] * 2)
    return gaussian_filter(counts, sigma=1.5)


def animate(file: Path, album: dict, arm: Arm, data: str) -> None:
    """Write the samples over training as an animation."""
    mixture = mixtures.MIXTURES[data]()
    figure, panel = plt.subplots(figsize=(3, 3.1), dpi=80)
    _frame(panel, mixture)
    dots = panel.scatter([], [], color=figures.COLOURS[0], **_DOT)

    def show(frame):
        dots.set_offsets(album['points'][frame])
        panel.set_title(f'{words(arm, " · ")}\n{album["iterations"][frame]} iterations',
                        size=8)
        return dots,

    # The end is held for a while.
    frames = [*range(len(album['points'])), *[len(album['points']) - 1] * 9]
    FuncAnimation(figure, show, frames=frames).save(file, writer=PillowWriter(fps=6))
    plt.close(figure)


def words(arm: Arm, between: str = '\n') -> str:
    """An arm as people write it."""
    pack = f', packs of {arm.packing}' if arm.packing > 1 else ''
    penalty = 'no penalty' if arm.penalty == 'none' else arm.penalty
    return between.join([arm.loss.replace('_', '-'), penalty + pack, arm.order])


def _frame(panel, mixture: mixtures.Mixture, centres: str | None = None) -> None:
    extent = extent_of(mixture)
    panel.scatter(*mixture.centres.T, marker='+', s=16, linewidths=0.7,
                  color=figures.COLOURS[1] if centres is None else centres, zorder=3)
    panel.set(xlim=(-extent, extent), ylim=(-extent, extent), aspect='equal',
              xticks=[], yticks=[])
    panel.grid(False)
    for spine in panel.spines.values():
        spine.set(visible=True, color='0.8', linewidth=0.6)


def _save(figure, file: Path) -> None:
    figure.savefig(file, dpi=110)
    plt.close(figure)
    # A palette takes a third of the space, and results are in the repository.
    Image.open(file).convert('RGB').quantize(256).save(file, optimize=True)
