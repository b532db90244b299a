"""Event files for TensorBoard, an extra: the rows of a run as they are written.

    tensorboard --logdir=runs
"""

from pathlib import Path
from typing import Any

import numpy as np

from experiments.launch import SettingError


def summary_writer():
    """Import what writes them.

    Raises:
      SettingError: the extra is not installed.
    """
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        raise SettingError(
            '--tensorboard needs a package that is not here; install it: pip install '
            "'cdgm[tensorboard]'.") from None
    return SummaryWriter


class Events:
    """Writes RUN/tensorboard: means over the seeds, against sweeps.

    Raises:
      SettingError: the extra is not installed.
    """

    def __init__(self, run: Path):
        self._make, self._run = summary_writer(), run
        self._writer: Any = None

    def begin(self, sweep: int) -> None:
        """Go on from a sweep; what an interrupted attempt wrote beyond is hidden."""
        self._writer = self._make(str(self._run / 'tensorboard'),
                                  purge_step=sweep + 1 if sweep else 0)

    def add_row(self, row: dict[str, Any]) -> None:
        """Write a row of metrics."""
        for part in 'loss', 'aux', 'test':
            for name, value in _scalars(row.get(part, {}), part):
                self._writer.add_scalar(name, value, row['sweep'])
        self._writer.add_scalar('cost/gflop', row['gflop'], row['sweep'])
        self._writer.add_scalar('cost/seconds', row['seconds'], row['sweep'])
        self._writer.flush()

    def finish(self) -> None:
        """Add the pictures."""
        from matplotlib.image import imread
        for path in sorted(self._run.glob('*.png')):
            self._writer.add_image(path.stem, imread(path)[..., :3], dataformats='HWC')
        self._writer.close()


def _scalars(tree: dict[str, Any], name: str):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _scalars(value, f'{name}/{key}')
        else:
            yield f'{name}/{key}', float(np.mean(np.asarray(value)))
