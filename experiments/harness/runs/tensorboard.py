"""Event files for TensorBoard, an extra: the rows of a run as they are written.

    tensorboard --logdir=runs

    record   length uint64, its checksum, an Event, its checksum: tensorboardX's format

tensorboardX's own writer is a thread with a queue: a killed process loses what waits
there, and where the disk refuses, the thread ends and the training waits for ever. So
a row is written here, at once, by the process that has it.
"""

import struct
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.harness.errors import SettingError


class Protocol(NamedTuple):
    """What is used of tensorboardX: a message and a checksum."""

    Event: Any
    checksum: Any


def protocol() -> Protocol:
    """Import what the files are made of.

    Raises:
      SettingError: the extra is not installed.
    """
    try:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.record_writer import masked_crc32c
    except ImportError:
        raise SettingError(
            '--tensorboard needs a package that is not here; install it: pip install '
            "'cdgm[tensorboard]'.") from None
    return Protocol(Event, masked_crc32c)


class Events:
    """Writes RUN/tensorboard: means over the seeds, against cycles.

    Raises:
      SettingError: the extra is not installed.
    """

    def __init__(self, run: Path):
        self._protocol, self._run = protocol(), run
        self._file: Path | None = None

    def add_row(self, row: dict[str, Any]) -> None:
        """Write a row of metrics, at once, so that a crash loses none."""
        step, event = row['cycle'], self._protocol.Event
        if self._file is None:
            self._begin()
            # Hides what an interrupted attempt wrote from here on.
            self._append(event(step=step, session_log={'status': 'START'}))
        scalars = {name: value for part in ('loss', 'aux', 'test')
                   for name, value in _scalars(row.get(part, {}), part)}
        scalars |= {f'cost/{name}': row[name] for name in ('gflop', 'seconds')}
        self._append(event(step=step, summary={'value': [
            {'tag': name, 'simple_value': value} for name, value in scalars.items()]}))

    def finish(self) -> None:
        """Add the pictures."""
        if self._file is None:
            self._begin()
        for path in sorted(self._run.glob('*.png')):
            content = path.read_bytes()
            width, height = struct.unpack('>II', content[16:24])
            self._append(self._protocol.Event(summary={'value': [
                {'tag': path.stem, 'image': {
                    'width': width, 'height': height, 'colorspace': 4,
                    'encoded_image_string': content}}]}))

    def _begin(self) -> None:
        """Begin a file, as the end of an earlier one may be half a record."""
        folder = self._run / 'tensorboard'
        folder.mkdir(exist_ok=True)
        # TensorBoard reads them in the order of their names.
        self._file = folder / f'events.out.tfevents.{len(list(folder.iterdir())):06d}'
        self._append(self._protocol.Event(file_version='brain.Event:2'))

    def _append(self, event) -> None:
        event.wall_time = time.time()
        content = event.SerializeToString()
        with open(self._file, 'ab') as file:
            for part in struct.pack('<Q', len(content)), content:
                file.write(part + struct.pack('<I', self._protocol.checksum(part)))


def _scalars(tree: dict[str, Any], name: str):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _scalars(value, f'{name}/{key}')
        else:
            yield f'{name}/{key}', float(np.mean(np.asarray(value)))
