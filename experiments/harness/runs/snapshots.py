"""What a task shows of itself at each evaluation, kept in the folder of its run.

    snapshots/000123.npy    after 123 cycles

A run that goes on writes those after its checkpoint again, to the same bits.
"""

from pathlib import Path

import numpy as np

from experiments.harness.runs import atomic


def write(folder: Path, cycle: int, snapshot: np.ndarray) -> None:
    """Keep a snapshot of a run.

    Args:
      folder: of the run.
      cycle: how many were done.
      snapshot: an array.
    """
    path = folder / 'snapshots' / f'{cycle:06}.npy'
    path.parent.mkdir(exist_ok=True)
    with atomic.atomic_write(path, 'wb') as file:
        np.save(file, np.asarray(snapshot))


def read(folder: Path) -> dict[int, np.ndarray]:
    """Read the snapshots of a run: cycles done -> array, in their order."""
    return {int(path.stem): np.load(path)
            for path in sorted((folder / 'snapshots').glob('*.npy'),
                               key=lambda path: int(path.stem))}
