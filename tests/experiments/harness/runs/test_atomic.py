"""A file is the old one or the new one, whatever happens while it is written."""

import errno
import os

import pytest

from experiments.harness.runs import atomic


def names(folder):
    return [path.name for path in folder.iterdir()]


@pytest.mark.parametrize('mode, content', [('w', 'ἀγαθός\n'), ('wb', b'\x00\xff')])
def test_it_is_written_whole(tmp_path, mode, content):
    path = tmp_path / 'a'
    path.write_text('old')
    with atomic.atomic_write(path, mode) as file:
        file.write(content)
        assert path.read_text() == 'old'
    assert path.read_bytes() == (content if mode == 'wb' else content.encode())
    assert names(tmp_path) == ['a']


def test_an_error_leaves_the_old_one(tmp_path):
    path = tmp_path / 'a'
    path.write_text('old')
    with pytest.raises(KeyError), atomic.atomic_write(path) as file:
        file.write('new')
        raise KeyError
    assert path.read_text() == 'old' and names(tmp_path) == ['a']


def test_a_disk_that_is_full_at_the_last_moment(tmp_path, monkeypatch):
    def refuse(_):
        raise OSError(errno.ENOSPC, 'No space left on device')

    path = tmp_path / 'a'
    path.write_text('old')
    monkeypatch.setattr(os, 'fsync', refuse)
    with pytest.raises(OSError, match='No space'), atomic.atomic_write(path) as file:
        file.write('new')
    assert path.read_text() == 'old' and names(tmp_path) == ['a']


def test_what_killed_writers_left_can_be_cleared(tmp_path):
    for name in 'a', '.a-0123', '.a-4567', '.b-0123', 'a-0123':
        (tmp_path / name).touch()
    atomic.clear(tmp_path / 'a')
    assert sorted(names(tmp_path)) == ['.b-0123', 'a', 'a-0123']


def test_two_write_at_once_and_the_last_to_end_counts(tmp_path):
    with (atomic.atomic_write(tmp_path / 'a') as one,
          atomic.atomic_write(tmp_path / 'a') as two):
        one.write('one')
        two.write('two')
    assert (tmp_path / 'a').read_text() == 'one' and names(tmp_path) == ['a']
