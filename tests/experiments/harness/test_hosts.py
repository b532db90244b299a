"""Two processes that train one run: together they are one, and they go on as one.

They are joined on the loopback, with one device each, by the environment.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from experiments.harness import hosts
from experiments.harness.errors import SettingError

ROOT = Path(__file__).parents[3]
SMALL = ('--width=16', '--depth=2', '--heads=2', '--context=16', '--batch_size=4',
         '--visit=5', '--evaluations=1', '--cycles=12', '--decay_steps=60',
         '--warmup=5', '--order=shuffled')


started: list[subprocess.Popen] = []


@pytest.fixture(autouse=True)
def nobody_stays():
    """A test that fails leaves no process that waits for others."""
    yield
    while started:
        started.pop().kill()


def start(run, *flags):
    """Start the processes of a run."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        address = f'127.0.0.1:{free.getsockname()[1]}'
    processes = [subprocess.Popen(
        [sys.executable, '-m', 'experiments.language_model', *SMALL, *flags,
         f'--run_dir={run}'], cwd=ROOT, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, env={
            **os.environ, 'JAX_PLATFORMS': 'cpu', 'JAX_COORDINATOR_ADDRESS': address,
            'JAX_NUM_PROCESSES': '2', 'JAX_PROCESS_ID': str(number)})
        for number in range(2)]
    started.extend(processes)
    return processes


def finish(processes):
    """Their exit statuses, outputs and errors."""
    ended = [process.communicate(timeout=300) for process in processes]
    return ([process.returncode for process in processes],
            *([told[which] for told in ended] for which in range(2)))


def read(run):
    with np.load(run / 'params.npz') as leaves:
        return dict(leaves)


def rows(run):
    return [{**json.loads(line), 'seconds': None} for line in (
        run / 'metrics.jsonl').read_text().splitlines()]


@pytest.fixture(scope='module')
def together(tmp_path_factory):
    run = tmp_path_factory.mktemp('two') / 'run'
    statuses, told, errors = finish(start(run, '--mesh=data=2'))
    assert statuses == [0, 0], errors
    assert str(run) in told[0] and str(run) not in told[1]
    return run


@pytest.mark.thorough
def test_two_processes_train_to_the_parameters_of_one(together, tmp_path):
    done = subprocess.run(
        [sys.executable, '-m', 'experiments.language_model', *SMALL,
         f'--run_dir={tmp_path / "one"}'], cwd=ROOT, capture_output=True)
    assert done.returncode == 0, done.stderr
    want, got = read(tmp_path / 'one'), read(together)
    assert want.keys() == got.keys()
    for name, leaf in want.items():
        np.testing.assert_allclose(got[name], leaf, atol=1e-5, err_msg=name)
    assert (together / 'sample.txt').exists()


@pytest.mark.thorough
def test_killed_in_a_visit_they_go_on_to_the_same_bits(together, tmp_path):
    """The checkpoints are those of the last visit, and a visit is not torn."""
    run = tmp_path / 'run'
    processes = start(run, '--mesh=data=2', '--checkpoint_every=0')
    deadline = time.monotonic() + 300
    while not (run / 'metrics.jsonl').exists() or len(rows(run)) < 5:
        assert time.monotonic() < deadline and processes[0].poll() is None
        time.sleep(0.01)
    for process in processes:
        process.send_signal(signal.SIGKILL)
    finish(processes)
    assert not (run / 'params.npz').exists()
    statuses, told, errors = finish(start(run, '--mesh=data=2', '--checkpoint_every=0'))
    assert statuses == [0, 0], errors
    assert 'resuming at cycle' in told[0]
    want, got = read(together), read(run)
    assert all((got[name] == leaf).all() for name, leaf in want.items())
    assert rows(run) == rows(together)


@pytest.mark.thorough
def test_asked_to_leave_one_all_leave(tmp_path):
    run = tmp_path / 'run'
    processes = start(run, '--mesh=data=2', '--cycles=5000', '--preempt_latency=60')
    deadline = time.monotonic() + 300
    while not (run / 'metrics.jsonl').exists() or len(rows(run)) < 2:
        assert time.monotonic() < deadline and processes[0].poll() is None
        time.sleep(0.01)
    processes[1].send_signal(signal.SIGTERM)
    statuses, _, errors = finish(processes)
    assert statuses == [75, 75], errors
    assert all(f'--run_dir={run}, to continue' in error for error in errors)
    assert any((run / 'checkpoints').glob('[0-9]*'))


@pytest.mark.thorough
def test_what_one_cannot_do_ends_all(together):
    """The folder holds another run: only the first process looks, and all say it."""
    statuses, _, errors = finish(start(together, '--mesh=data=2', '--width=32'))
    assert statuses == [2, 2]
    assert all('holds a complete run with other flags' in error for error in errors)


def test_a_process_without_an_address_is_one_line(monkeypatch):
    monkeypatch.setenv('JAX_NUM_PROCESSES', '2')
    monkeypatch.delenv('JAX_COORDINATOR_ADDRESS', raising=False)
    monkeypatch.delenv('JAX_PROCESS_ID', raising=False)
    with pytest.raises(SettingError, match='JAX_COORDINATOR_ADDRESS is not; to join'):
        hosts.join()


def test_a_number_of_processes_is_a_number(monkeypatch):
    for name, value in zip(hosts._BY_HAND, ('127.0.0.1:1', 'two', '0')):
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingError, match='JAX_NUM_PROCESSES=two is no number'):
        hosts.join()


def test_alone_everything_is_as_it_is_given():
    assert hosts.is_first() and not hosts.are_several()
    assert hosts.agree({'a': 1}) == {'a': 1}
    assert hosts.any_of(True) and not hosts.any_of(False)
    assert hosts.on_first(lambda: 3) == 3
    given = [np.ones(2)]
    assert hosts.fetch(given) is given
