"""One process at a time, on any machine, whatever has become of the one before."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from experiments import vae
from experiments.harness import cli
from experiments.harness.runs import run_folder, run_lock
from experiments.harness.runs.run_lock import RunLock, TakenError, is_held

ROOT = Path(__file__).parents[4]
HOLD = '''
import sys
from pathlib import Path
from experiments.harness.runs.run_lock import RunLock
held = RunLock(Path(sys.argv[1]))
print('held', flush=True)
sys.stdin.read()
'''


@pytest.fixture
def take():
    """folder -> its lease, given back in the end."""
    def take(folder):
        taken.append(RunLock(folder))
        return taken[-1]

    taken = []
    yield take
    for one in taken:
        one.release()


@pytest.fixture
def other(tmp_path):
    """Another process, which holds the lease on a folder."""
    with subprocess.Popen([sys.executable, '-c', HOLD, tmp_path], cwd=ROOT,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b'held\n'
        yield process
        process.kill()


def elsewhere(folder, age):
    """Make a lease that of a machine that gave a sign of life some seconds ago."""
    path = folder / 'lease'
    path.write_text(json.dumps({'host': 'elsewhere', 'pid': 7, 'token': 'theirs'}))
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_is_taken_once(other, tmp_path):
    assert is_held(tmp_path)
    with pytest.raises(TakenError, match=f'^process {other.pid} of '):
        RunLock(tmp_path)
    values = cli.parse(vae.define_flags, [f'--run_dir={tmp_path}'])
    with pytest.raises(run_folder.BusyError, match='is being written by process '
                       f'{other.pid} of .*; give another --run_dir, or wait for it'):
        run_folder.create('vae', values, {})
    assert is_held(tmp_path), 'still'


@pytest.mark.parametrize('end', ['kill', 'leave'])
def test_dies_with_its_process(end, other, tmp_path, take):
    if end == 'kill':
        other.kill()
    else:
        other.stdin.close()
    other.wait()
    assert (tmp_path / 'lease').exists() and not is_held(tmp_path)
    mine = take(tmp_path)
    assert mine.is_mine() and is_held(tmp_path)
    assert json.loads((tmp_path / 'lease').read_text())['pid'] == os.getpid()


def test_is_taken_once_by_one_process_too(tmp_path, take):
    mine = take(tmp_path)
    with pytest.raises(TakenError, match=f'^process {os.getpid()} of '):
        RunLock(tmp_path)
    assert mine.is_mine() and is_held(tmp_path)


def test_no_lease(tmp_path):
    assert not is_held(tmp_path) and not is_held(tmp_path / 'nowhere')
    with pytest.raises(OSError):
        RunLock(tmp_path / 'nowhere')


def test_of_another_machine(tmp_path, take):
    path = elsewhere(tmp_path, run_lock._EXPIRY_SECONDS - 10)
    assert is_held(tmp_path)
    with pytest.raises(TakenError, match='^process 7 of elsewhere$'):
        RunLock(tmp_path)
    assert json.loads(path.read_text())['token'] == 'theirs'
    elsewhere(tmp_path, run_lock._EXPIRY_SECONDS + 10)
    assert not is_held(tmp_path)
    mine = take(tmp_path)
    assert mine.is_mine() and is_held(tmp_path)


def test_one_that_was_taken_over_is_not_held_nor_given_back(tmp_path, take):
    mine = take(tmp_path)
    path = elsewhere(tmp_path, 0)
    assert not mine.is_mine()
    mine.release()
    assert json.loads(path.read_text())['token'] == 'theirs' and is_held(tmp_path)


def test_given_back_once_or_twice(tmp_path, take):
    mine = take(tmp_path)
    mine.release()
    assert not (tmp_path / 'lease').exists() and not is_held(tmp_path)
    assert not mine.is_mine()
    # Its descriptor may be another's by now.
    next_one = take(tmp_path)
    mine.release()
    assert next_one.is_mine() and is_held(tmp_path)
    with pytest.raises(TakenError):
        RunLock(tmp_path)


def test_is_alive_as_long_as_it_is_held(tmp_path, take, monkeypatch):
    def is_touched():
        os.utime(path, (0, 0))
        for _ in range(100):
            time.sleep(0.01)
            if path.stat().st_mtime > 0:
                return True
        return False

    monkeypatch.setattr(run_lock, '_HEARTBEAT_SECONDS', 0.01)
    path = tmp_path / 'lease'
    mine = take(tmp_path)
    assert is_touched()
    mine.release()
    elsewhere(tmp_path, 0)
    assert not is_touched()


def test_a_look_does_not_keep_it_from_being_taken(tmp_path, take):
    """To see whether a lock is free, `is_held` has to lock it."""
    take(tmp_path).release()
    looking = os.open(tmp_path / 'lock', os.O_RDWR)
    assert run_lock._lock(looking)
    threading.Timer(run_lock._LOCK_PROBE_SECONDS / 5, os.close, [looking]).start()
    assert take(tmp_path).is_mine()
