"""Event files for TensorBoard, an extra: the rows of a run as they are written.

    tensorboard --logdir=runs

tensorboardX writes them, by its `EventsWriter`. Its `SummaryWriter` puts a thread with
a queue in front, with which a killed process loses what waits there, and where the disk
refuses, the thread ends and the training waits for ever.
"""

import struct
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.harness.errors import SettingError


class TensorboardX(NamedTuple):
    """What is used of it: a message, and what writes messages to a file."""

    Event: Any
    EventsWriter: Any


def import_tensorboardx() -> TensorboardX:
    """Import what the files are made with.

    Raises:
      SettingError: the extra is not installed.
    """
    try:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event
    except ImportError:
        raise SettingError(
            '--tensorboard needs a package that is not here; install it: pip install '
            "'cdgm[tensorboard]'.") from None
    return TensorboardX(Event, EventsWriter)


class Events:
    """Writes RUN/tensorboard: means over the seeds, against cycles.

    Raises:
      SettingError: the extra is not installed.
    """

    def __init__(self, run: Path):
        self._library, self._run = import_tensorboardx(), run
        self._writer: Any = None

    def add_row(self, row: dict[str, Any]) -> None:
        """Write a row of metrics, at once, so that a crash loses none."""
        begins, step = self._writer is None, row['cycle']
        if begins:
            # Hides what an interrupted attempt wrote from here on.
            self._write(step=step, session_log={'status': 'START'})
        scalars = {name: value for part in ('loss', 'grad_norm', 'aux', 'test')
                   for name, value in _scalars(row.get(part, {}), part)}
        scalars |= {f'cost/{name}': row[name] for name in ('gflop', 'seconds')}
        self._write(step=step, summary={'value': [
            {'tag': name, 'simple_value': value} for name, value in scalars.items()]})

    def add_pictures(self) -> None:
        """Write the pictures of the run's folder."""
        for path in sorted(self._run.glob('*.png')):
            content = path.read_bytes()
            width, height = struct.unpack('>II', content[16:24])
            self._write(summary={'value': [
                {'tag': path.stem, 'image': {
                    'width': width, 'height': height, 'colorspace': 4,
                    'encoded_image_string': content}}]})

    def close(self) -> None:
        """Close the file, if there is one."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _write(self, **fields) -> None:
        if self._writer is None:
            folder = self._run / 'tensorboard'
            folder.mkdir(exist_ok=True)
            # A file of its own, as the end of an earlier one may be half a record;
            # TensorBoard reads them in the order of their names.
            number = len(list(folder.iterdir()))
            self._writer = self._library.EventsWriter(str(folder / f'{number:06d}'))
        self._writer.write_event(self._library.Event(wall_time=time.time(), **fields))
        self._writer.flush()


def _scalars(tree: dict[str, Any], name: str):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _scalars(value, f'{name}/{key}')
        else:
            yield f'{name}/{key}', float(np.mean(np.asarray(value)))
