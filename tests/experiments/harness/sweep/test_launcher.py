"""A launcher keeps a sweep going until nothing is left, whatever becomes of workers.

The workers are real processes, which only say that they train.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from experiments.harness import cli, errors
from experiments.harness.errors import SettingError, StorageError
from experiments.harness.runs import preemption, status_log
from experiments.harness.runs.run_lock import RunLock
from experiments.harness.sweep import commands, jobs, launcher, local_pool, slurm
from experiments.harness.sweep.local_pool import WorkersError
from experiments.harness.sweep.spec import Sweep, Trial

# Takes each trial that nobody has, as a real worker does, and does what its argument in
# DEEDS says, the first time: 'die', 'wait:NAME' for another's end, 'fail', 'sleep'.
WORKER = '''
import fcntl, json, os, signal, socket, sys, time
from pathlib import Path
folder, own = Path(sys.argv[1]), sys.argv[2:]
deeds = json.loads((folder / 'deeds.json').read_text())
with open(folder / 'workers.jsonl', 'a') as file:
    file.write(json.dumps(own) + '\\n')
for name in json.loads((folder / 'order.json').read_text()):
    run = folder / name
    run.mkdir(exist_ok=True)
    lock = os.open(run / 'lock', os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        continue
    def add(**line):
        with open(run / 'attempts.jsonl', 'a') as file:
            file.write(json.dumps(line) + '\\n')
    again = (run / 'attempts.jsonl').exists()
    over = again and 'outcome' in (run / 'attempts.jsonl').read_text().splitlines()[-1]
    if not over:
        (run / 'lease').write_text(json.dumps(
            {'host': socket.gethostname(), 'pid': os.getpid(), 'token': 'x'}))
        add(began='now', pid=os.getpid(), sweep=0)
        deed, _, other = ('' if again else deeds.get(name, '')).partition(':')
        if deed == 'die':
            os.kill(os.getpid(), signal.SIGKILL)
        for _ in range(1000):
            if deed == 'sleep' or deed == 'wait' and not (
                    folder / other / 'manifest.json').exists():
                time.sleep(0.02)
        if deed == 'fail' or deed == 'wait' and not (
                folder / other / 'manifest.json').exists():
            add(ended='now', outcome='failed', kind='diverged', reason='not finite')
        else:
            (run / '.m').write_text('{"cycles": 1, "digests": {}}')
            os.replace(run / '.m', run / 'manifest.json')
            add(ended='now', outcome='done')
    (run / 'lease').unlink(missing_ok=True)
    os.close(lock)
'''


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(launcher, '_POLL_SECONDS', 0.02)


@pytest.fixture
def begin(tmp_path, monkeypatch):
    """(number of trials, deeds, *flags) -> () -> what a launch returns."""
    def begin(number, deeds, *arguments, script=WORKER):
        sweep = Sweep('some', 'T', '', tuple(
            Trial('vae', (f'--seed={at}',), f'{at:016x}') for at in range(number)), ())
        names = [trial.folder for trial in sweep.trials]
        (tmp_path / 'order.json').write_text(json.dumps(names))
        (tmp_path / 'deeds.json').write_text(json.dumps(
            {names[at]: deed.format(*names) for at, deed in deeds.items()}))
        monkeypatch.setattr(local_pool, 'command', lambda folder, values, workers: [
            sys.executable, '-c', script, str(folder), f'--of={workers}'])
        values = flags_of(*arguments)

        def go():
            """How it ends, and how often each trial has begun."""
            said = launcher.run(sweep, tmp_path, values).counts()
            return said, [status_log.state_of(
                tmp_path / name).attempts for name in names]

        return go
    return begin


def flags_of(*arguments):
    values = cli.parse(commands.define_flags, arguments)
    commands.flags.DEFINE_string('name', 'some', '', flag_values=values)
    return values


def started(folder):
    """Arguments of the workers that were started."""
    return (folder / 'workers.jsonl').read_text().splitlines()


def test_workers_share_the_trials(begin, tmp_path, capsys):
    go = begin(6, {0: 'wait:{5}'}, '--workers=2')
    assert go() == ('6 done', [1] * 6)
    assert sorted(started(tmp_path)) == [
        f'["--of=2", "--number={number}"]' for number in range(2)]
    said = capsys.readouterr().out
    assert said.startswith('some: 6 trials, 0 done, 6 pending; in ')
    assert said.endswith('\nsome: 6 done\n')


def test_no_more_workers_than_trials(begin, tmp_path):
    begin(2, {}, '--workers=8')()
    assert set(started(tmp_path)) <= {f'["--of=2", "--number={at}"]' for at in (0, 1)}


def test_where_nothing_is_left_nobody_is_started(begin, tmp_path):
    begin(2, {})()
    (tmp_path / 'workers.jsonl').unlink()
    assert begin(2, {})()[0] == '2 done'
    assert not (tmp_path / 'workers.jsonl').exists()


def test_an_extended_sweep_runs_what_is_new(begin, tmp_path):
    begin(2, {})()

    def written():
        return {path: path.stat().st_mtime_ns for path in tmp_path.glob('vae-*/*.json*')
                if path.parent.name[-1] in '01'}

    before = written()
    assert begin(4, {})() == ('4 done', [1] * 4)
    assert written() == before and len(before) == 4


def test_dead_workers_are_replaced(begin, tmp_path):
    go = begin(5, {0: 'die', 2: 'die', 3: 'die'}, '--workers=2')
    assert go() == ('5 done', [2, 1, 2, 2, 1])
    assert len(started(tmp_path)) >= 4


def test_a_dead_worker_is_replaced_though_another_is_busy(begin):
    # The first trial ends after the second, whose worker dies.
    go = begin(2, {0: 'wait:{1}', 1: 'die'}, '--workers=2')
    assert go() == ('2 done', [1, 2])


def test_what_fails_is_told_once(begin, capsys):
    go = begin(3, {1: 'fail'}, '--workers=1')
    assert go() == ('2 done, 1 failed', [1] * 3)
    assert capsys.readouterr().out.count(
        'failed (diverged): seed=1: vae-0000000000000001: not finite') == 1


SAYS = 'import sys; print("first"); print({!r}); sys.exit({})'


@pytest.mark.parametrize('status, number', [(1, 3), (2, 3)])
@pytest.mark.thorough
def test_workers_that_die_before_they_begin_are_given_up(begin, tmp_path, status,
                                                         number):
    begin(2, {})
    with pytest.raises(WorkersError) as caught:
        begin(2, {}, script=SAYS.format('error: what is wrong', status))()
    log, = (tmp_path / 'logs').iterdir()
    assert str(caught.value) == (
        f'{number} workers ended before they began a trial, the last with status '
        f'{status}; {log} ends with: what is wrong')
    assert log.read_text() == number * 'first\nerror: what is wrong\n'


def test_workers_that_are_killed_before_they_begin_are_given_up(begin, tmp_path,
                                                                monkeypatch):
    monkeypatch.setattr(local_pool, '_MAX_KILLS', 4)
    with pytest.raises(WorkersError, match=r'^4 workers ended .* status -9; .* ends '
                                           'with: nothing$'):
        begin(2, {}, script='import os; os.kill(os.getpid(), 9)')()


def test_workers_that_find_nothing_to_do_are_given_up(begin):
    with pytest.raises(WorkersError, match='^3 workers .* status 0; .*: it is held$'):
        begin(2, {}, script=SAYS.format('it is held', 0))()


def test_a_trial_that_begins_forgives_what_was(begin, tmp_path):
    # Three die in all, of which two one after another.
    script = f'''
import sys
from pathlib import Path
count = Path(sys.argv[1]) / 'count'
count.open('a').write('x')
if len(count.read_text()) in (1, 2):
    sys.exit(1)
{WORKER}'''
    assert begin(3, {1: 'die'}, '--workers=1', script=script)() == (
        '3 done', [1, 2, 1])
    # Whoever comes after two that began nothing measures nothing.
    assert ['sequential' in line for line in started(tmp_path)] == [True, False]


@pytest.mark.parametrize('words', ['error: the disk refuses to write (x): make room'])
def test_a_disk_that_refuses_ends_the_launch(begin, words):
    with pytest.raises(StorageError) as caught:
        begin(2, {}, '--workers=1', script=SAYS.format(words, errors.BAD_STORAGE))()
    assert str(caught.value) == 'worker 0: the disk refuses to write (x): make room'


HEEDS = WORKER.replace("import fcntl", '''import signal, sys
def leave(*_):
    print('asked', flush=True)
    if run.name.endswith('2'):  # is just complete
        (run / 'manifest.json').write_text('{"digests": {}}')
    sys.exit(75)
signal.signal(signal.SIGTERM, leave)
import fcntl''', 1)


@contextlib.contextmanager
def asked_to_leave(monkeypatch, when):
    """Send TERM to this process as soon as something is the case."""
    monkeypatch.setattr(preemption, '_requested', threading.Event())

    def ask():
        while not when():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    asking = threading.Thread(target=ask)
    with preemption.handle_signals(1000.):
        asking.start()
        yield
        asking.join()


@pytest.mark.parametrize('script, latency', [(HEEDS, 5.), (HEEDS.replace(
    'sys.exit(75)', 'return'), 0.2)])
@pytest.mark.thorough
def test_asked_to_leave_it_asks_its_workers(begin, tmp_path, monkeypatch, script,
                                            latency):
    def both_sleep():
        return sum(1 for _ in tmp_path.glob('vae-*/attempts.jsonl')) == 3

    def log():
        return ''.join(path.read_text() for path in (tmp_path / 'logs').iterdir())

    go = begin(4, {1: 'sleep', 2: 'sleep'}, '--workers=2',
               f'--preempt_latency={latency}', script=script)
    with asked_to_leave(monkeypatch, both_sleep):
        with pytest.raises(preemption.PreemptedError, match='^left with 2 of 4 trials '
                           'done; run the same command again to continue$'):
            go()
    assert log() == 2 * 'asked\n'
    # Nobody is left, and what they had is free.
    found = [status_log.state_of(tmp_path / f'vae-{at:016x}').name for at in range(4)]
    assert found == [
        'done', 'preempted', 'done', 'pending']
    monkeypatch.undo()


def test_trials_that_another_launch_runs_are_waited_for(begin, tmp_path):
    run = tmp_path / 'vae-0000000000000004'
    run.mkdir()
    lease = RunLock(run)

    def finish():
        while not (tmp_path / 'vae-0000000000000000' / 'manifest.json').exists():
            time.sleep(0.02)
        time.sleep(0.3)  # workers end meanwhile, and have done right
        (run / 'manifest').write_text('{"digests": {}}')
        os.replace(run / 'manifest', run / 'manifest.json')
        lease.release()

    go = begin(5, {at: f'wait:{{{at + 1}}}' for at in range(3)}, '--workers=4')
    thread = threading.Thread(target=finish)
    thread.start()
    assert go() == ('5 done', [1, 1, 1, 1, 0])
    thread.join()
    assert len(started(tmp_path)) == 4


def test_the_command_of_a_worker(tmp_path, monkeypatch):
    values = flags_of('--tensorboard', '--checkpoint_every=3', '--mode=vmapped')
    words = local_pool.command(Path('some/where'), values, 3)
    assert words[:3] == [sys.executable, '-m', 'experiments.harness.sweep.worker']
    from experiments.harness.sweep import worker
    back = cli.parse(worker.define_flags, words[3:])
    assert (back.out_dir, back.workers, back.attended, back.mode, back.tensorboard,
            back.checkpoint_every, back.preempt_latency, back.data_dir) == (
        str(Path('some/where').absolute()), 3, True, 'vmapped', True, 3., 5., None)


# Jobs of a cluster, of which test_slurm.py has real ones.


@pytest.fixture
def submitted(monkeypatch):
    """What was submitted: (commands, folder, keywords)."""
    calls = []

    def submit(commands, folder, **keywords):
        calls.append((commands, folder, keywords))
        return [f'7_{at}' for at in range(len(commands))]

    monkeypatch.setattr(slurm, 'submit', submit)
    return calls


def waiting():
    return [Trial('vae', (f'--hidden={hidden}', f'--seed={seed}'), f'{hidden}-{seed}')
            for seed in range(3) for hidden in (4, 8)]


@pytest.mark.parametrize('more, parts', [
    ([], ['4-0,4-1,4-2', '8-0,8-1,8-2']),
    (['--trials_per_job=2'], ['4-0,4-1', '4-2', '8-0,8-1', '8-2'])])
def test_a_job_has_trials_of_one_program(submitted, tmp_path, capsys, more, parts):
    values = flags_of('--cluster=slurm', '--sbatch=account=a=b', '--out_dir=there',
                      '--set=beta=2', *more)
    it = jobs.Jobs(tmp_path, values, waiting())
    (lines, folder, keywords), = submitted
    assert [line[-1] for line in lines] == [f'--trials={part}' for part in parts]
    assert all('--workers=1' in line and '--attended' in line for line in lines)
    assert folder == tmp_path / 'slurm'
    assert keywords['options'] == {'account': 'a=b'} and keywords['name'] == 'some'
    assert capsys.readouterr().out == (
        f'submitted {len(parts)} jobs to Slurm: 7_0 … 7_{len(parts) - 1}\n')
    assert it.exit_message == (
        'the jobs go on; ./launch.sh some status --out_dir=there --set=beta=2 says how '
        'they stand')
    it.shutdown()


def test_only_what_waits_is_submitted_and_jobs_may_end_without_it(begin, submitted,
                                                                  monkeypatch):
    begin(2, {})()
    monkeypatch.setattr(jobs, '_SQUEUE_SECONDS', -1.)
    monkeypatch.setattr(jobs.subprocess, 'run', lambda *_, **__: (
        subprocess.CompletedProcess([], 0, '', '')))
    go = begin(3, {}, '--cluster=slurm')
    monkeypatch.setattr(local_pool, 'command', lambda *_, workers: ['worker'])
    assert go()[0] == '2 done, 1 pending'
    assert submitted[0][0] == [['worker', f'--trials={2:016x}']]


def test_jobs_last_as_long_as_slurm_knows_them(submitted, tmp_path, monkeypatch):
    answers = [('7_0 x', '', 0), ('', 'slurm_load_jobs error: no contact', 1),
               ('', 'slurm_load_jobs error: Invalid job id specified', 1)]
    monkeypatch.setattr(jobs, '_SQUEUE_SECONDS', -1.)
    monkeypatch.setattr(jobs.subprocess, 'run', lambda *_, **__: (
        subprocess.CompletedProcess([], *[answers[0][2], *answers.pop(0)[:2]])))
    it = jobs.Jobs(tmp_path, flags_of(), waiting())
    assert [it.ensure_workers(None) for _ in range(3)] == [True, True, False]
    assert not jobs.Jobs(tmp_path, flags_of(), []).ensure_workers(None)


def test_an_option_of_sbatch_without_a_value(submitted, tmp_path):
    with pytest.raises(SettingError, match='^--sbatch=exclusive has no value; write it '
                                           'as --sbatch=account=physics.$'):
        jobs.Jobs(tmp_path, flags_of('--sbatch=exclusive'), waiting())
