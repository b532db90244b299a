"""Event files hold what the rows say; what an interrupted attempt wrote is hidden."""

import struct
import sys

import jax
import matplotlib.image
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import RecordWriter

from experiments.harness.errors import SettingError
from experiments.harness.report import figures
from experiments.harness.runs import tensorboard
from experiments.harness.runs.run_folder import RunFolder

FIRST = {'cycle': 0, 'epoch': 0., 'seconds': 0., 'gflop': 0.,
         'test': {'neg_elbo': [4., 5.]}}
SECOND = {'cycle': 3, 'epoch': 1., 'seconds': 2., 'gflop': 7.,
          'loss': {'encoder': np.array([1., 2.]), 'decoder': np.array([3., 4.])},
          'aux': {'encoder': {'kl': np.array([[1., 2.], [3., 6.]])}}}


def read(run):
    """Events of a run in the order of its files, by the form of a record."""
    events = []
    for path in sorted((run / 'tensorboard').iterdir()):
        content = path.read_bytes()
        while content:
            length, = struct.unpack('<Q', content[:8])
            events.append(Event.FromString(content[12:12 + length]))
            content = content[16 + length:]
    return events


def shown(events):
    """{(tag, step): value} as TensorBoard shows them: a start hides what is beyond."""
    there = {}
    for event in events:
        if event.session_log.status == SessionLog.START:
            there = {key: value for key, value in there.items() if key[1] < event.step}
        for value in event.summary.value:
            if value.HasField('simple_value'):
                assert (value.tag, event.step) not in there, 'shown twice'
                there[value.tag, event.step] = value.simple_value
    return there


ALL = {('test/neg_elbo', 0): 4.5, ('cost/gflop', 0): 0., ('cost/seconds', 0): 0.,
       ('loss/encoder', 3): 1.5, ('loss/decoder', 3): 3.5, ('aux/encoder/kl', 3): 3.,
       ('cost/gflop', 3): 7., ('cost/seconds', 3): 2.}


@pytest.fixture
def Events():
    """The class, of which what it opened is closed."""
    def make(run):
        made.append(tensorboard.Events(run))
        return made[-1]

    made = []
    yield make
    for events in made:
        events.close()


def test_tags_and_steps_are_those_of_the_rows(tmp_path, Events):
    folder = RunFolder(tmp_path, events=Events(tmp_path))
    for row in FIRST, SECOND:
        folder.add_row(row)
        # At once, whatever becomes of the process.
        assert max(step for _, step in shown(read(tmp_path))) == row['cycle']
    assert shown(read(tmp_path)) == ALL
    assert read(tmp_path)[0].file_version == 'brain.Event:2'
    assert all(event.wall_time > 0 for event in read(tmp_path))


def test_records_are_those_of_tensorboardx(tmp_path, Events):
    Events(tmp_path).add_row(SECOND)
    file, = (tmp_path / 'tensorboard').iterdir()
    writer = RecordWriter(str(tmp_path / 'other'))
    for event in read(tmp_path):
        writer.write(event.SerializeToString())
    writer.close()
    assert file.read_bytes() == (tmp_path / 'other').read_bytes()
    assert 'tfevents' in file.name  # by which TensorBoard knows it


@pytest.mark.parametrize('rows', [[FIRST, SECOND], [SECOND]])
def test_an_attempt_hides_what_another_wrote_from_its_first_row_on(
        tmp_path, rows, Events):
    earlier = Events(tmp_path)
    for row in FIRST, {**SECOND, 'gflop': 99.}, {**SECOND, 'cycle': 6}:
        earlier.add_row(row)
    # Killed in the midst of a record, after which a reader sees nothing of its file.
    with open(next((tmp_path / 'tensorboard').iterdir()), 'ab') as file:
        file.write(b'\0')
    later = Events(tmp_path)
    for row in rows:
        later.add_row(row)
    files = sorted((tmp_path / 'tensorboard').iterdir())
    assert len(files) == 2
    files[0].write_bytes(files[0].read_bytes()[:-1])
    assert shown(read(tmp_path)) == ALL


def test_an_attempt_without_rows_hides_nothing(tmp_path, Events):
    for row in FIRST, SECOND:
        Events(tmp_path).add_row(row)
    Events(tmp_path).add_pictures()
    assert shown(read(tmp_path)) == ALL


def test_pictures_are_there_at_the_end(tmp_path, Events):
    figures.grid(tmp_path / 'samples.png', np.eye(8)[None, :, :, None].repeat(8, 0))
    events = Events(tmp_path)
    events.add_row(SECOND)
    events.add_pictures()
    picture, = [value for event in read(tmp_path) for value in event.summary.value
                if value.HasField('image')]
    content = (tmp_path / 'samples.png').read_bytes()
    assert picture.tag == 'samples'
    assert picture.image.encoded_image_string == content
    assert (picture.image.height, picture.image.width, picture.image.colorspace) == (
        matplotlib.image.imread(tmp_path / 'samples.png').shape)


def test_where_the_disk_refuses_it_says_so(tmp_path, monkeypatch, Events):
    events = Events(tmp_path)
    events.add_row(FIRST)
    monkeypatch.setattr('os.fsync', lambda *_: raise_full())
    with pytest.raises(OSError, match='No space'):
        events.add_row(SECOND)
    monkeypatch.undo()


def raise_full():
    raise OSError(28, 'No space left on device')


def test_the_extra_is_not_installed(tmp_path, monkeypatch, Events):
    for name in list(sys.modules):
        if name.startswith('tensorboardX'):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, 'tensorboardX', None)
    with pytest.raises(SettingError) as caught:
        Events(tmp_path)
    assert str(caught.value) == (
        '--tensorboard needs a package that is not here; install it: pip install '
        "'cdgm[tensorboard]'.")


def test_arrays_of_the_device_are_rows_as_well(tmp_path, Events):
    row = {**FIRST, 'test': {'mmd2': jax.numpy.array([1., 2.])}}
    Events(tmp_path).add_row(row)
    assert shown(read(tmp_path))['test/mmd2', 0] == 1.5
