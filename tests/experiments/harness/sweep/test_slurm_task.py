"""A task keeps its command going, and asks it to leave when it is asked to itself."""

import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest

from experiments.harness.sweep import slurm_task
from experiments.harness.sweep.slurm_task import ArrayTask

ROOT = Path(__file__).parents[4]

TASK = '''
import sys
from experiments.harness.sweep.slurm_task import ArrayTask
ArrayTask([sys.executable, '-c', *sys.argv[1:]], 5., 3)()
'''

# Dies by a signal the first times it is run, then ends with a status.
DIES = '''
import os, sys
from pathlib import Path
file, number, times, status = Path(sys.argv[1]), *map(int, sys.argv[2:])
file.open('a').write('x')
if len(file.read_text()) <= times:
    os.kill(os.getpid(), number)
sys.exit(status)
'''

# Says where it is in a file, and leaves when it is asked to or left alone.
LEAVES = '''
import signal, sys, threading, time
from pathlib import Path
asked = []
signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
threading.Thread(target=lambda: asked.append(sys.stdin.read()), daemon=True).start()
Path(sys.argv[1]).write_text('ready')
while not asked:
    time.sleep(0.02)
Path(sys.argv[1]).write_text('left')
sys.exit(75)
'''


def run(*arguments):
    return subprocess.run([sys.executable, '-c', TASK, *map(str, arguments)], cwd=ROOT,
                          text=True, capture_output=True, timeout=60)


def comes_true(condition):
    for _ in range(600):
        if condition():
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize('status', [0, 1, 74])
def test_it_ends_as_its_command(tmp_path, status):
    assert run(DIES, tmp_path / 'runs', 0, 0, status).returncode == status


def test_a_command_that_is_killed_is_started_again(tmp_path):
    ended = run(DIES, tmp_path / 'runs', signal.SIGKILL, 2, 0)
    assert ended.returncode == 0
    assert (tmp_path / 'runs').read_text() == 'xxx'
    assert ended.stderr == ('killed by SIGKILL; 3 restarts left\n'
                            'killed by SIGKILL; 2 restarts left\n')


def test_it_gives_up_in_the_end(tmp_path):
    assert run(DIES, tmp_path / 'runs', signal.SIGKILL, 99, 0).returncode == 137
    assert (tmp_path / 'runs').read_text() == 'xxxx'


def test_a_command_that_was_asked_to_leave_is_not_started_again(tmp_path):
    assert run(DIES, tmp_path / 'runs', signal.SIGTERM, 99, 0).returncode == 75
    assert (tmp_path / 'runs').read_text() == 'x'


def test_its_command_leaves_when_it_is_killed(tmp_path):
    file = tmp_path / 'state'
    with subprocess.Popen([sys.executable, '-c', TASK, LEAVES, str(file)],
                          cwd=ROOT, stdin=subprocess.PIPE) as task:
        assert comes_true(file.exists)
        task.kill()
        assert comes_true(lambda: file.read_text() == 'left')


CHECKPOINT = '''
import signal, sys, types
from experiments.harness.sweep import slurm_task
from experiments.harness.sweep.slurm_task import ArrayTask
slurm_task._SIGNAL_DELAY_SECONDS = 30.
sys.modules['submitit'] = types.ModuleType('submitit')
sys.modules['submitit.helpers'] = helpers = types.ModuleType('submitit.helpers')
helpers.DelayedSubmission = lambda task: ('again', task._command[2:], task._child)
task = ArrayTask([sys.executable, '-c', *sys.argv[2:]], float(sys.argv[1]), 3)
def heed(*_):
    print(task.checkpoint())
    sys.exit(255)
signal.signal(signal.SIGUSR2, heed)
task()
'''


@pytest.mark.parametrize('command, left, words', [
    (LEAVES, 'left', ''),
    (LEAVES.replace('asked.append(number)', 'None'), 'ready',
     'killed: it did not leave within 0.5 s\n')])
def test_a_checkpoint_waits_until_the_command_has_left(tmp_path, command, left, words):
    file = tmp_path / 'state'
    patience = 0.5 if words else 30.
    with subprocess.Popen(
            [sys.executable, '-c', CHECKPOINT, str(patience), command, str(file)],
            cwd=ROOT, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE) as task:
        assert comes_true(file.exists)
        task.send_signal(signal.SIGUSR2)
        out, err = task.communicate(timeout=60)
    assert (task.returncode, err, file.read_text()) == (255, words, left)
    assert out == f"{('again', [command, str(file)], None)}\n"


def test_a_command_may_have_left_before_its_task_hears_why(tmp_path):
    file = tmp_path / 'runs'
    with subprocess.Popen(
            [sys.executable, '-c', CHECKPOINT, '5', DIES, str(file), '0', '0', '75'],
            cwd=ROOT, text=True, stdout=subprocess.PIPE) as task:
        assert comes_true(file.exists)
        time.sleep(0.3)
        task.send_signal(signal.SIGUSR2)
        assert task.communicate(timeout=60)[0].startswith("('again'")
    assert task.returncode == 255


def test_a_checkpoint_before_the_command_waits_for_nothing(monkeypatch):
    helpers = types.SimpleNamespace(DelayedSubmission=lambda task: task)
    monkeypatch.setitem(sys.modules, 'submitit', types.SimpleNamespace(helpers=helpers))
    monkeypatch.setitem(sys.modules, 'submitit.helpers', helpers)
    task = ArrayTask(['true'], 5., 3)
    again = task.checkpoint()
    assert vars(again) == vars(task) and again is not task


def test_the_file_needs_nothing_heavy():
    loaded = subprocess.run(
        [sys.executable, '-c', f'import sys, {slurm_task.__name__}\n'
         "print(*{'jax', 'absl', 'submitit'} & set(sys.modules))"],
        cwd=ROOT, text=True, capture_output=True, check=True)
    assert loaded.stdout == '\n'
