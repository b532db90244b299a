"""Pictures of a run, as PNG files in its folder."""

from pathlib import Path

import matplotlib

matplotlib.use('Agg')

import matplotlib.pyplot as plt  # noqa: E402  after the choice of backend
import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402  of pillow, which matplotlib draws bitmaps by

from experiments.harness.report.compare import over_seeds, pool  # noqa: E402
from experiments.harness.runs.run_folder import RunFolder, read_rows  # noqa: E402

# Colours that are told apart without seeing red and green (Okabe & Ito 2008).
COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9')

# What a row of metrics says of each block.
TRAINING_PARTS = {'loss': 'training loss of each block',
                  'grad_norm': "norm of each block's gradient"}

# Approximate width of a grid of images.
_GRID_PIXELS = 480
_FRAME_PIXELS = 160  # of an animation, whose frames add up

plt.rcParams.update({
    'axes.spines.top': False, 'axes.spines.right': False, 'axes.grid': True,
    'grid.alpha': 0.3, 'figure.dpi': 120, 'font.size': 9, 'legend.frameon': False,
    'axes.prop_cycle': plt.cycler(color=COLOURS), 'savefig.bbox': 'tight'})


def grid(path: Path, images, columns: int = 8) -> None:
    """Draw images side by side.

    Args:
      path: of the PNG.
      images: float[N, H, W], [N, H, W, 1] or, in colour, [N, H, W, 3], in [0, 1].
      columns: images in a row.

    Raises:
      ValueError: they have another shape.
    """
    sheet = _sheet(images, columns)
    plt.imsave(path, sheet if sheet.shape[-1] == 3 else sheet[..., 0], cmap='gray_r',
               vmin=0, vmax=1, metadata={'Software': None})


def animation(path: Path, frames, columns: int = 8, seconds: float = 0.4) -> None:
    """Draw sheets of images one after another.

    Args:
      path: of the GIF.
      frames: of each its images, as `grid` takes them.
      columns: images in a row.
      seconds: that each is shown; the last one four times as long.
    """
    sheets = [np.round(255 * _sheet(images, columns, _FRAME_PIXELS)).astype(np.uint8)
              for images in frames]
    # As in a grid, ink is dark; 16 levels of grey make a third of the file.
    pictures = [Image.fromarray(sheet) if sheet.shape[-1] == 3 else
                Image.fromarray(255 - sheet[..., 0]).quantize(16) for sheet in sheets]
    shown = [int(1000 * seconds)] * len(pictures)
    shown[-1] *= 4
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=shown,
                     loop=0)


def _sheet(images, columns: int, pixels: int = _GRID_PIXELS) -> np.ndarray:
    """Images side by side, about so many pixels wide, float[rows, columns, 1 or 3]."""
    images = np.clip(np.asarray(images, float), 0, 1)
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise ValueError('images are [N, H, W], [N, H, W, 1] or [N, H, W, 3], and '
                         f'these are {images.shape}; give them so.')
    height, width, channels = images.shape[1:]
    rows = -(-len(images) // columns)
    blank = np.zeros((rows * columns - len(images), height, width, channels))
    tiles = np.concatenate([images, blank]).reshape(rows, columns, height, width,
                                                    channels)
    # A grey line between the tiles; no anti-aliasing, which would blur 8 x 8 images.
    tiles = np.pad(tiles, ((0, 0), (0, 0), (0, 1), (0, 1), (0, 0)),
                   constant_values=0.5)
    sheet = tiles.transpose(0, 2, 1, 3, 4).reshape(
        rows * (height + 1), columns * (width + 1), channels)[:-1, :-1]
    scale = max(pixels // sheet.shape[1], 1)
    return np.kron(sheet, np.ones((scale, scale, 1)))


def band(axes, x, values, label: str) -> None:
    """Draw the mean over the seeds and one standard error either side.

    Args:
      axes: of matplotlib.
      x: float[T].
      values: float[T, S].
      label: in the legend.
    """
    mean, error = over_seeds(np.asarray(values).T)
    line, = axes.plot(x, mean, label=label)
    if np.shape(values)[1] > 1:
        axes.fill_between(x, mean - error, mean + error, color=line.get_color(),
                          alpha=0.25, linewidth=0)


def training_curves(axes, *runs, part: str = 'loss') -> None:
    """Draw what training says of every block; a rule may leave one out of a row.

    Args:
      axes: of matplotlib.
      *runs: rows of each; the mean is over the seeds of all runs.
      part: of a row, 'loss' or 'grad_norm'.
    """
    for name in sorted({name for rows in runs for row in rows
                        for name in row.get(part, ())}):
        mine = [[row for row in rows if name in row.get(part, ())] for rows in runs]
        band(axes, *pool([(np.array([row['cycle'] for row in rows]),
                           np.array([row[part][name] for row in rows]))
                          for rows in mine if rows]), name)
    axes.set_xlabel('cycles')
    axes.legend()


def loss_curves(folder: RunFolder) -> None:
    """Draw what training says of each block, and the test metrics, by the cycles."""
    rows = read_rows(folder.path)
    tested = [row for row in rows if 'test' in row]
    metrics = list(tested[0]['test'])
    parts = [(part, title) for part, title in TRAINING_PARTS.items()
             if any(part in row for row in rows)]
    panels = len(parts) + len(metrics)
    figure, drawn = plt.subplots(1, panels, figsize=(4 * panels, 3))
    for axes, (part, title) in zip(drawn, parts):
        training_curves(axes, rows, part=part)
        axes.set_title(title)
        if part == 'grad_norm':
            axes.set_yscale('log')
    for axes, name in zip(drawn[len(parts):], metrics):
        band(axes, [row['cycle'] for row in tested],
             [row['test'][name] for row in tested], name)
        axes.set(xlabel='cycles', title=f'test {name}')
    figure.tight_layout()
    figure.savefig(folder.path / 'loss.png')
    plt.close(figure)


def print_summary(path: Path) -> None:
    """Print the test metrics and the folder of a run."""
    last = read_rows(path)[-1]
    for name, values in last['test'].items():
        mean, error = over_seeds(values)
        spread = f' ± {error:.2g} (standard error)' if len(values) > 1 else ''
        print(f'test {name} {mean:.5g}{spread}, {len(values)} seeds, {last["cycle"]} '
              f'cycles, {last["gflop"]:.4g} GFLOP a seed, {last["seconds"]:.1f} s')
    print(path)
