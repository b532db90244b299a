"""Arrays on a real Slurm: what is killed, cancelled or requeued ends as it should.

`tests/loopback_slurm.sh up` starts one; SLURM_CONF says which.
"""

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest

from experiments.harness.errors import SettingError
from experiments.harness.sweep import slurm

STEPS = 100

# Of Slurm's states; besides, a job may be SIGNALING, STAGE_OUT and much else.
ENDS = {'BOOT_FAIL', 'CANCELLED', 'COMPLETED', 'DEADLINE', 'FAILED', 'NODE_FAIL',
        'OUT_OF_MEMORY', 'TIMEOUT'}

# A step adds to a chain of digests and saves it; asked to leave, it ends with 75.
COUNTS = '''
import hashlib, json, os, signal, sys, threading, time
from pathlib import Path
folder, steps, status = Path(sys.argv[1]), *map(int, sys.argv[2:])
asked = []
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
    signal.signal(number, lambda number, _: asked.append(number))
threading.Thread(target=lambda: asked.append(sys.stdin.read()), daemon=True).start()
file = folder / 'state.json'
state = json.loads(file.read_text()) if file.exists() else {'step': 0, 'digest': ''}
with open(folder / 'runs', 'a') as runs:
    print(state['step'], file=runs)
(folder / 'pids').write_text(f'{os.getpid()} {os.getppid()}')
while state['step'] < steps:
    if asked:
        sys.exit(75)
    time.sleep(0.1)
    digest = hashlib.sha256((state['digest'] + folder.name).encode()).hexdigest()
    state = {'step': state['step'] + 1, 'digest': digest}
    (folder / 'writing').write_text(json.dumps(state))
    os.replace(folder / 'writing', file)
sys.exit(status)
'''


@pytest.fixture(scope='module')
def scontrol():
    """(*arguments) -> what scontrol says."""
    try:
        subprocess.run(['sinfo'], check=True, capture_output=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        pytest.skip('no Slurm answers sinfo: export SLURM_CONF; SLURM_CONF='
                    '$(tests/loopback_slurm.sh up)')
    pytest.importorskip('submitit', exc_type=ImportError)

    def scontrol(*arguments):
        return subprocess.run(['scontrol', *arguments], check=True, text=True,
                              capture_output=True, timeout=60).stdout
    return scontrol


def submit(path, count, status=0, steps=STEPS, **options):
    """Folders and job ids of commands that count."""
    folders = [path / str(number) for number in range(count)]
    for folder in folders:
        folder.mkdir()
    ids = slurm.submit(
        [[sys.executable, '-c', COUNTS, str(folder), str(steps), str(status)]
         for folder in folders], path / 'slurm', minutes=5, cpus=1, **options)
    assert len(ids) == count
    return folders, ids


def within(seconds, condition):
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, condition
        time.sleep(0.2)
    return result


def step(folder):
    with contextlib.suppress(OSError):
        return json.loads((folder / 'state.json').read_text())['step']
    return 0


def pids(folder):
    """Process ids of a command and of its task."""
    return [int(pid) for pid in (folder / 'pids').read_text().split()]


def runs(folder):
    """The steps at which a command was begun."""
    return [int(line) for line in (folder / 'runs').read_text().split()]


def is_there(pid):
    """Say whether a process is there; a zombie has no command line."""
    with contextlib.suppress(OSError):
        return Path(f'/proc/{pid}/cmdline').read_bytes() != b''
    return False


def undisturbed(folder, steps=STEPS):
    digest = ''
    for _ in range(steps):
        digest = hashlib.sha256((digest + folder.name).encode()).hexdigest()
    return {'step': steps, 'digest': digest}


def read(folder):
    return json.loads((folder / 'state.json').read_text())


def fields(scontrol, job):
    words = scontrol('show', 'job', '--oneliner', job).split()
    return dict(word.split('=', 1) for word in words if '=' in word)


def ends(scontrol, job):
    """State and exit code of a job, and how often it was requeued.

    Slurm holds what was requeued until its old credentials have expired, which is two
    minutes unless configured otherwise; begun sooner, it may be refused and fail.
    """
    def over():
        there = fields(scontrol, job)
        return there if there['JobState'] in ENDS else None
    there = within(600, over)
    return there['JobState'], there['ExitCode'], int(there['Restarts'])


@pytest.mark.slurm
def test_an_array_of_eight_with_one_of_each_fate(tmp_path, scontrol):
    folders, ids = submit(tmp_path, 8, parallelism=8)
    within(60, lambda: all(step(folder) > 3 for folder in folders))
    killed, orphaned, cancelled, signalled, requeued, *left_alone = range(8)
    os.kill(pids(folders[killed])[0], signal.SIGKILL)
    os.kill(pids(folders[orphaned])[1], signal.SIGKILL)
    subprocess.run(['scancel', ids[cancelled]], check=True)
    subprocess.run(['scancel', '--signal=USR2', ids[signalled]], check=True)
    scontrol('requeue', ids[requeued])
    ended = [ends(scontrol, job) for job in ids]
    assert ended.pop(cancelled)[0] == 'CANCELLED'
    assert ended == [
        ('COMPLETED', '0:0', 0), ('FAILED', '137:0', 0), ('COMPLETED', '0:0', 1),
        ('COMPLETED', '0:0', 1), *[('COMPLETED', '0:0', 0)] * 3]
    for number in (killed, signalled, requeued, *left_alone):
        assert read(folders[number]) == undisturbed(folders[number])
    for number in (killed, signalled, requeued):
        first, second = runs(folders[number])
        assert first == 0 < second < STEPS
    for number in left_alone:
        assert runs(folders[number]) == [0]
    for number in (orphaned, cancelled):
        assert runs(folders[number]) == [0] and 3 < step(folders[number]) < STEPS
        assert not is_there(pids(folders[number])[0])
    # What was cut off goes on where it was when it is submitted again.
    again = slurm.submit(
        [[sys.executable, '-c', COUNTS, str(folders[number]), str(STEPS), '0']
         for number in (orphaned, cancelled)], tmp_path / 'slurm', minutes=5, cpus=1)
    assert [ends(scontrol, job)[0] for job in again] == ['COMPLETED'] * 2
    for number in (orphaned, cancelled):
        assert read(folders[number]) == undisturbed(folders[number])


@pytest.mark.slurm
def test_a_single_command_and_its_status(tmp_path, scontrol):
    folders, (job,) = submit(tmp_path, 1, status=1, steps=5)
    assert ends(scontrol, job) == ('FAILED', '1:0', 0)
    assert read(folders[0]) == undisturbed(folders[0], 5)


@pytest.mark.slurm
def test_a_task_is_requeued_when_its_time_is_nearly_up(tmp_path, scontrol):
    # Slurm looks at the limits twice a minute, and sends USR2 half a minute early.
    folders, (job,) = submit(tmp_path, 1, steps=520)
    within(60, lambda: step(folders[0]) > 3)
    scontrol('update', f'JobId={job}', 'TimeLimit=1')
    state, code, restarts = ends(scontrol, job)
    assert (state, code) == ('COMPLETED', '0:0')
    assert restarts > 0 and len(runs(folders[0])) == 1 + restarts
    assert read(folders[0]) == undisturbed(folders[0], 520)


@pytest.mark.slurm
def test_slurm_says_why_it_refuses(tmp_path, scontrol):
    with pytest.raises(SettingError, match='Slurm refuses the job: .*partition'):
        submit(tmp_path, 1, partition='no-such')


@pytest.fixture
def nothing_is_there(monkeypatch):
    monkeypatch.setitem(sys.modules, 'submitit', None)
    monkeypatch.setenv('PATH', '')


def try_to_submit(path, **options):
    return slurm.submit([['true']], path, **{'minutes': 5, 'cpus': 1, **options})


def test_without_submitit(tmp_path, nothing_is_there):
    with pytest.raises(SettingError, match=r"submitit.*pip install 'cdgm\[slurm\]'"):
        try_to_submit(tmp_path)


def test_without_slurm(tmp_path, nothing_is_there, monkeypatch):
    monkeypatch.setitem(sys.modules, 'submitit', types.ModuleType('submitit'))
    with pytest.raises(SettingError, match='no sbatch here; submit from'):
        try_to_submit(tmp_path)


@pytest.mark.parametrize('options, message', [
    ({'signal_delay': 90}, r'90 s before a limit of 5 min takes more than 20% of it; '
     'ask for 8 min'),
    ({'minutes': 2, 'latency': 30.}, '60 s before a limit of 2 min .* ask for 5 min'),
    ({'signal_delay': 6}, '6 s before the limit is too late to leave within 5 s; give '
     '10 s')])
def test_a_signal_at_a_bad_time(tmp_path, nothing_is_there, options, message):
    with pytest.raises(SettingError, match=message):
        try_to_submit(tmp_path, **options)


def test_nothing_to_submit_needs_nothing(tmp_path, nothing_is_there):
    assert slurm.submit([], tmp_path, minutes=5, cpus=1) == []


def test_a_job_hides_its_variables_from_the_next(monkeypatch):
    monkeypatch.setenv('SLURM_CONF', 'here')
    monkeypatch.setenv('SLURM_ARRAY_TASK_ID', '3')
    with slurm._outside_of_jobs():
        assert 'SLURM_ARRAY_TASK_ID' in os.environ
    monkeypatch.setenv('SLURM_JOB_ID', '7')
    with slurm._outside_of_jobs():
        assert os.environ['SLURM_CONF'] == 'here'
        assert 'SLURM_ARRAY_TASK_ID' not in os.environ
    assert os.environ['SLURM_ARRAY_TASK_ID'] == '3'
