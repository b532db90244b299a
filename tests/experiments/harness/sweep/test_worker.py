"""A worker runs what nobody has: what fails is noted, and takes nothing along."""

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import jax
import numpy as np
import pytest

from cdgm.data import DataError
from experiments.harness import cli, errors, execute
from experiments.harness.errors import SettingError, StorageError
from experiments.harness.runs import preemption, run_folder, status_log
from experiments.harness.runs.run_lock import RunLock
from experiments.harness.sweep import batching, work_queue, worker
from experiments.harness.sweep import spec as sweeps
from experiments.harness.sweep.batching import Plan

ROOT = Path(__file__).parents[4]
TABLE = '''
title = 'T'
[[table]]
title = 'A'
experiment = 'vae'
metric = 'neg_elbo'
label = 'nats'
flags = {hidden = 4, latent = 2, cycles = 4, evaluations = 2}
[table.product]
'''


@pytest.fixture
def started(tmp_path):
    """(choices, name) -> the folder of a sweep that was started."""
    def started(choices, name='sweep'):
        path = tmp_path / f'{name}.toml'
        path.write_text(TABLE + choices)
        sweeps.save(sweeps.read(path), tmp_path / name)
        return tmp_path / name
    return started


def runs(folder):
    """Folders of the trials, in their order."""
    return [folder / trial.folder for trial in sweeps.load(folder).trials]


def states(folder):
    return [status_log.state_of(run).name for run in runs(folder)]


def work(folder, *more):
    worker.main(cli.parse(worker.define_flags, [f'--out_dir={folder}', *more]))


def contents(folder):
    """Path -> when it was written last, and what is in it."""
    return {path: (path.stat().st_mtime_ns,
                   path.read_bytes() if path.is_file() else None)
            for path in folder.rglob('*')}


# Trainings that are only said to be.


class Stand:
    """In place of the training.

    Attributes:
      ends: name of a trial's folder -> error that ends it.
      batches: names of the folders that were trained, together and after one another.
      benches: errors in setting up the next groups.
      program: what compiles.
    """

    def __init__(self):
        self.ends, self.batches, self.benches = {}, [], []
        self.program = lambda *_: None

    def bench(self, experiment, values):
        error = self.benches.pop(0) if self.benches else None
        if error:
            raise error
        return types.SimpleNamespace(
            experiment=experiment, trainer=types.SimpleNamespace(
                independent=False, start=lambda given: None, program=self.program),
            facts={'data': {}, 'cycles': 3})

    def run(self, bench, values, folders, progress):
        self.batches.append([folder.path.name for folder in folders])
        with contextlib.ExitStack() as stack:
            for folder in folders:
                stack.enter_context(folder.attempt(alone=len(folders) == 1))
                folder.begin(0)
            for folder in folders:
                if folder.path.name in self.ends:
                    raise self.ends[folder.path.name]
                folder.add_row({'cycle': 3, 'seconds': 0.})
                folder.save_params({'w': np.ones(2)})
                folder.finish()
        return [None] * len(folders)


@pytest.fixture
def stand(monkeypatch):
    stand = Stand()
    monkeypatch.setattr(worker, 'CompiledTask', stand.bench)
    monkeypatch.setattr(execute, 'run', stand.run)
    monkeypatch.setattr(worker, '_TAKING_SECONDS', 0.)
    return stand


@pytest.fixture
def ends(monkeypatch, capsys):
    """folder -> status and words of a worker."""
    monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', '')

    def ends(folder):
        with pytest.raises(SystemExit) as caught:
            cli.run(worker.define_flags, worker.main, '', [f'--out_dir={folder}'])
        return caught.value.code, capsys.readouterr().err
    return ends


def test_all_are_run_once(started, stand):
    folder = started('seed = [0, 1, 2]')
    assert states(folder) == ['pending'] * 3
    work(folder)
    assert states(folder) == ['done'] * 3
    assert stand.batches == [[run.name] for run in runs(folder)]
    assert [status_log.state_of(run).attempts for run in runs(folder)] == [1, 1, 1]
    before = contents(folder)
    work(folder)
    assert contents(folder) == before and len(stand.batches) == 3


def test_an_extended_sweep_runs_what_is_new(started, stand):
    folder = started('seed = [0, 1]')
    work(folder)
    before = {run: contents(run) for run in runs(folder)}
    started('seed = [2, 1, 0]')
    work(folder)
    assert states(folder) == ['done'] * 3
    assert stand.batches[2:] == [[runs(folder)[0].name]]
    assert {run: contents(run) for run in before} == before


@pytest.mark.parametrize('error, kind, reason', [
    (errors.DivergedError('not finite'), 'diverged', 'not finite'),
    (SettingError('no\nsuch'), 'setting', 'no such'),
    (MemoryError('more'), 'memory', 'more'),
    (RuntimeError('RESOURCE_EXHAUSTED: x'), 'memory', 'RESOURCE_EXHAUSTED: x'),
    (FileNotFoundError(2, 'gone'), 'crash', 'FileNotFoundError: [Errno 2] gone'),
    (ZeroDivisionError('by 0'), 'crash', 'ZeroDivisionError: by 0')])
def test_one_that_fails_stops_no_other(started, stand, capsys, error, kind, reason):
    folder = started('seed = [0, 1, 2]')
    bad = runs(folder)[1]
    stand.ends[bad.name] = error
    work(folder)
    assert states(folder) == ['done', 'failed', 'done']
    assert status_log.state_of(bad) == ('failed', kind, reason, 1)
    assert (bad / 'crash.txt').exists() == (kind == 'crash')
    assert f'{bad}: ' in capsys.readouterr().err
    # It is not tried again.
    work(folder)
    assert len(stand.batches) == 3


def test_what_a_group_lacks_is_noted_for_all_of_it(started, stand):
    folder = started("order = ['joint', 'decoder,encoder']\nseed = [0, 1]")
    stand.benches = [DataError('file is missing')]
    work(folder)
    assert states(folder) == ['failed', 'failed', 'done', 'done']
    assert status_log.state_of(runs(folder)[0]) == (
        'failed', 'data', 'file is missing', 0)


def test_what_another_process_has_is_passed_over(started, stand):
    folder = started('seed = [0, 1, 2]')
    held = runs(folder)[1]
    held.mkdir(parents=True)
    script = ('import sys, time; from pathlib import Path; from '
              'experiments.harness.runs.run_lock import RunLock; '
              'it = RunLock(Path(sys.argv[1])); print(flush=True); '
              'time.sleep(60)')
    with subprocess.Popen([sys.executable, '-c', script, str(held)], cwd=ROOT,
                          stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        work(folder)
        assert states(folder) == ['done', 'running', 'done']
        process.kill()
    work(folder)
    assert states(folder) == ['done'] * 3
    assert stand.batches[-1] == [held.name]


def test_a_batch_that_another_takes_is_left_to_it(started, stand):
    folder = started('seed = [0, 1]')
    batch, = batching.group(sweeps.load(folder).trials, lambda trial: (
        f'--run_dir={folder / trial.folder}',)).values()
    bench = stand.bench(types.SimpleNamespace(name='vae'), None)
    runs(folder)[0].mkdir()
    lease = RunLock(runs(folder)[0])
    assert worker._take(bench, batch) == ([], set())
    assert not runs(folder)[1].exists()
    # On its own, it is no reason to wait.
    assert worker._take(bench, batch[:1]) == ([], set())
    lease.release()
    had, missed = worker._take(bench, batch)
    assert [run.path for _, run in had] == runs(folder) and not missed
    for _, run in had:
        run.lock.release()


def test_side_by_side_where_planned(started, stand, monkeypatch):
    monkeypatch.setattr(batching, 'make_plan', lambda *_: Plan(2, 'forced'))
    folder = started('seed = [0, 1, 2, 3, 4, 5]')
    names = [run.name for run in runs(folder)]
    (runs(folder)[3] / 'checkpoints' / '000001').mkdir(parents=True)  # not fresh
    work(folder)
    # What is left over goes through the program that is there.
    assert stand.batches == [names[:2], [names[2], names[4]], [names[3]], [names[5]]]
    assert json.loads((folder / 'plans.jsonl').read_text())['reason'] == 'forced'


def test_what_is_too_much_side_by_side_is_run_one_by_one(started, stand, monkeypatch):
    monkeypatch.setattr(batching, 'make_plan', lambda *_: Plan(2, 'forced'))
    folder = started('seed = [0, 1, 2, 3]')
    names = [run.name for run in runs(folder)]
    error, run = RuntimeError('RESOURCE_EXHAUSTED: x'), stand.run
    stand.ends = {names[0]: error, names[2]: error}

    def alone_it_fits(bench, values, folders, progress):
        if [folder.path.name for folder in folders] == names[:1]:
            del stand.ends[names[0]]
        return run(bench, values, folders, progress)

    monkeypatch.setattr(execute, 'run', alone_it_fits)
    work(folder)
    assert stand.batches == [names[:2], *([name] for name in names)]
    assert states(folder) == ['done', 'done', 'failed', 'done']
    assert [line['outcome'] for line in status_log.read(runs(folder)[1])
            if 'outcome' in line] == ['preempted', 'done']
    assert [json.loads(line)['reason'] for line in (
        folder / 'plans.jsonl').read_text().splitlines()] == [
            'forced', '2 took more memory than there is']


def test_a_batch_that_is_not_whole_is_run_one_by_one(started, stand, monkeypatch):
    monkeypatch.setattr(batching, 'make_plan', lambda *_: Plan(3, 'forced'))
    folder = started('seed = [0, 1, 2]')
    names = [run.name for run in runs(folder)]
    opened = execute.open_folder

    def open_folder(bench, values):
        if values.seed == 1:
            raise SettingError('not this one')
        return opened(bench, values)

    monkeypatch.setattr(execute, 'open_folder', open_folder)
    work(folder)
    assert stand.batches == [[names[0]], [names[2]]]
    assert status_log.state_of(runs(folder)[1]) == ('failed', 'setting', 'not this one',
                                                    0)


def test_where_nothing_can_be_measured_trials_are_run_all_the_same(
        started, stand, monkeypatch):
    def fail(*_):
        raise RuntimeError('RESOURCE_EXHAUSTED:\nmore')

    monkeypatch.setattr(batching, 'make_plan', fail)
    folder = started('seed = [0, 1]')
    work(folder)
    assert states(folder) == ['done'] * 2
    assert json.loads((folder / 'plans.jsonl').read_text()) == {
        'group': next(iter(batching.group(sweeps.load(folder).trials))), 'width': 1,
        'reason': 'not measured: RESOURCE_EXHAUSTED: more'}


def test_what_cannot_be_had_though_it_waits_is_left(started, stand, capsys):
    folder = started('seed = [0, 1]')
    run = runs(folder)[0]
    run.mkdir()
    (run / 'metrics.jsonl').write_text('somebody else\'s\n')
    work(folder)
    assert states(folder) == ['pending', 'done']
    assert f'run folder {run} holds a run already' in capsys.readouterr().err


def test_workers_begin_at_different_groups(started, stand, monkeypatch):
    choices = "order = ['joint', 'decoder,encoder', 'encoder,decoder']"
    for number, expected in (0, [0, 1, 2]), (1, [1, 2, 0]), (5, [2, 0, 1]):
        folder = started(choices, f'sweep{number}')
        stand.batches.clear()
        work(folder, f'--number={number}')
        assert stand.batches == [[runs(folder)[at].name] for at in expected]


def test_a_worker_is_ready_when_it_has_compiled(started, stand, monkeypatch):
    happened, ready = [], work_queue.WorkQueue.ready
    monkeypatch.setattr(work_queue.WorkQueue, 'ready',
                        lambda self: (happened.append('ready'), ready(self)))
    stand.program = lambda *_: happened.append('compiled')
    work(started('seed = [0, 1]'))
    assert happened == ['compiled', 'ready']


def test_a_folder_that_was_tampered_with_stops_no_other(started, stand, monkeypatch):
    folder = started('seed = [0, 1]')
    run = runs(folder)[0]
    run.mkdir()
    (run / 'metrics.jsonl').touch()
    (run / 'manifest.json').write_text('{}')  # and no flags.txt
    work(folder)
    assert states(folder) == ['failed', 'done']
    assert status_log.state_of(run).kind == 'setting'


def test_a_group_that_another_worker_is_at_is_left_to_it_for_a_while(
        started, stand, monkeypatch):
    folder = started("order = ['joint', 'decoder,encoder']")
    names = list(batching.group(sweeps.load(folder).trials))
    (folder / 'groups' / names[1]).mkdir(parents=True)
    other = RunLock(folder / 'groups' / names[1])
    now, shared_at = [0.], []

    def make_plan(*_):
        shared_at.append(now[0])
        now[0] += 10
        return Plan(1, 'compiled for 10 s')

    monkeypatch.setattr(batching, 'make_plan', make_plan)
    monkeypatch.setattr(work_queue, 'time', types.SimpleNamespace(
        monotonic=lambda: now[0], sleep=lambda s: now.__setitem__(0, now[0] + s)))
    work(folder)
    other.release()
    assert states(folder) == ['done'] * 2
    assert shared_at == [0, pytest.approx(10 + 20, abs=1)]


def test_some_trials_only(started, stand):
    folder = started('seed = [0, 1, 2]')
    ids = [trial.id for trial in sweeps.load(folder).trials]
    work(folder, f'--trials={ids[2]},{ids[0]}')
    assert states(folder) == ['done', 'pending', 'done']


def test_manners_reach_the_trials(started, stand):
    folder = started('seed = [0]')
    work(folder, '--checkpoint_every=3', '--preempt_latency=2', '--data_dir=there')
    text = (runs(folder)[0] / 'flags.txt').read_text().splitlines()
    assert {'--checkpoint_every=3.0', '--preempt_latency=2.0', '--data_dir=there',
            '--notensorboard', f'--run_dir={runs(folder)[0]}'} <= set(text)


def test_asked_to_leave_it_leaves(started, stand, ends):
    folder = started('seed = [0, 1]')
    stand.ends[runs(folder)[0].name] = preemption.PreemptedError('preempted at 7')
    assert ends(folder) == (75, 'preempted at 7\n')
    assert states(folder) == ['preempted', 'pending']
    stand.ends.clear()
    work(folder)
    assert states(folder) == ['done'] * 2


@pytest.mark.parametrize('when', ['before', 'between'])
def test_asked_to_leave_between_two_trials(started, stand, ends, monkeypatch, when):
    folder = started('seed = [0, 1]')
    asked = preemption.threading.Event()
    monkeypatch.setattr(preemption, '_requested', asked)
    monkeypatch.setattr(preemption, '_wait_for_signals', lambda *_: None)
    if when == 'before':
        asked.set()
    else:
        def run_and_ask(*some):
            asked.set()
            return stand.run(*some)

        monkeypatch.setattr(execute, 'run', run_and_ask)
    status, words = ends(folder)
    assert status == 75 and words.startswith('preempted at cycle 0')
    assert states(folder) == [
        'pending' if when == 'before' else 'done', 'pending']
    assert (folder / 'plans.jsonl').exists() == (when == 'between')


def full(*_, **__):
    raise OSError(errno.ENOSPC, 'No space left on device')


def no_write(*_, **__):
    raise OSError(errno.EROFS, 'Read-only file system')


@pytest.mark.parametrize('where', ['training', 'results', 'folder', 'set up', 'plans'])
@pytest.mark.parametrize('refuse', [full, no_write])
def test_a_disk_that_refuses_ends_it_in_one_line(started, stand, ends, monkeypatch,
                                                 where, refuse):
    folder = started('seed = [0, 1]')
    first, second = (trial.id for trial in sweeps.load(folder).trials)
    work(folder, f'--trials={first}')
    before = contents(runs(folder)[0])
    with monkeypatch.context() as patch:
        if where == 'training':
            stand.ends[runs(folder)[1].name] = StorageError('no room')
        elif where == 'results':
            patch.setattr(run_folder.RunFolder, 'save_params', refuse)
        elif where == 'folder':
            patch.setattr(run_folder, '_write_json', refuse)
        elif where == 'set up':
            patch.setattr(worker, 'CompiledTask', refuse)
        else:
            patch.setattr(batching, 'note_plan', refuse)
        status, words = ends(folder)
    assert status == 74 and words.startswith('error: ') and words.count('\n') == 1
    assert contents(runs(folder)[0]) == before
    # Nothing is said against the trial but that the disk refused.
    assert status_log.state_of(runs(folder)[1]).kind in ('', 'disk')


def test_a_folder_that_cannot_be_noted_in_ends_it(started, stand, ends, monkeypatch):
    folder = started('seed = [0]')
    stand.benches = [DataError('file is missing')]
    monkeypatch.setattr(status_log, '_add', no_write)
    status, words = ends(folder)
    assert status == 74 and words.count('\n') == 1 and 'Read-only' in words


def test_it_leaves_with_its_launcher(monkeypatch):
    reader, writer = os.pipe()
    os.write(writer, b'x')
    os.close(writer)
    sent = []
    monkeypatch.setattr(worker.os, 'kill', lambda *what: sent.append(what))
    with open(reader) as stdin:
        monkeypatch.setattr(sys, 'stdin', stdin)
        worker.leave_with_launcher()
    assert sent == [(os.getpid(), signal.SIGTERM)]


def test_a_folder_that_holds_no_sweep(tmp_path, ends):
    status, words = ends(tmp_path)
    assert status == 2 and words.startswith(f'error: {tmp_path} holds no sweep; ')


# Real trainings, all of one program.

REAL = ('seed = [0, 1]\nlearning_rate = [1e-3, 1e-2]')


@pytest.fixture(scope='module')
def benches():
    """Signature -> bench; those that are here are set up once."""
    return {}


@pytest.fixture
def really(monkeypatch, benches, cheap_compilation):
    """(folder, *flags) -> None: a worker in this process, as people run it."""
    original = worker.CompiledTask

    def bench(experiment, values):
        signature = batching.signature(experiment, values)
        if signature not in benches:
            benches[signature] = original(experiment, values)
        return benches[signature]

    monkeypatch.setattr(worker, 'CompiledTask', bench)

    def really(folder, *more):
        with jax.enable_x64(False), cheap_compilation():
            work(folder, *more)
    return really


def digests(folder):
    return [digests_of(run) for run in runs(folder)]


def digests_of(run):
    return status_log.read_manifest(run)['digests']


@pytest.fixture(scope='module')
def undisturbed(run):
    """Digests of the last trial of `REAL`, as a run of its own."""
    return run_folder.digests(run(
        'vae', '--hidden=4', '--latent=2', '--cycles=4', '--evaluations=2',
        '--learning_rate=1e-2', '--seed=1'))


@pytest.mark.thorough
def test_the_mode_changes_no_number(started, really, undisturbed):
    modes = [started(REAL, mode) for mode in ('sequential', 'vmapped')]
    for folder in modes:
        really(folder, f'--mode={folder.name}')
    one, other = map(digests, modes)
    assert one == other and one[-1] == undisturbed
    assert len({digest['params'] for digest in one}) == 4


@pytest.mark.parametrize('width', [1, 4])
@pytest.mark.sample(1)
def test_a_training_that_diverges_takes_nothing_along(started, really, monkeypatch,
                                                      width):
    monkeypatch.setattr(batching, 'make_plan', lambda *_: Plan(width, 'forced'))
    folder = started('seed = [0, 1]\nlearning_rate = [1e-3, 1e30]')
    really(folder)
    assert states(folder) == ['done', 'failed'] * 2
    state = status_log.state_of(runs(folder)[1])
    assert state.kind == 'diverged' and state.reason.startswith('the loss of block ')
    assert str(runs(folder)[1]) in state.reason
    assert not (runs(folder)[1] / 'params.npz').exists()


@pytest.mark.parametrize('width', [1, 4])
@pytest.mark.thorough
def test_a_crash_at_the_end_takes_nothing_along(started, really, monkeypatch,
                                                width):
    monkeypatch.setattr(batching, 'make_plan', lambda *_: Plan(width, 'forced'))
    folder = started(REAL)
    bad, original = runs(folder)[1], execute.figures.print_summary

    def print_summary(path):
        if path == bad:
            raise ZeroDivisionError('by 0')
        original(path)

    monkeypatch.setattr(execute.figures, 'print_summary', print_summary)
    really(folder)
    assert states(folder) == ['done', 'failed', 'done', 'done']
    assert status_log.state_of(bad) == ('failed', 'crash', 'ZeroDivisionError: by 0', 1)
    assert 'in print_summary' in (bad / 'crash.txt').read_text()


def test_a_preempted_trial_goes_on_where_it_was(started, really, undisturbed,
                                                monkeypatch):
    folder = started('seed = [1, 0]\nlearning_rate = [1e-2, 1e-3]')
    asked = iter([False] * 5 + [True])
    with monkeypatch.context() as patch, pytest.raises(preemption.PreemptedError):
        patch.setattr(preemption, 'requested', lambda: next(asked))
        really(folder, '--mode=sequential')
    assert states(folder) == ['preempted', 'pending', 'pending', 'pending']
    # While it waits it is not put beside others, whatever was planned.
    monkeypatch.setattr(batching, 'make_plan', lambda *_: Plan(4, 'forced'))
    really(folder)
    assert states(folder) == ['done'] * 4 and digests(folder)[0] == undisturbed
    began = [line['cycle'] for line in status_log.read(runs(folder)[0])
             if 'began' in line]
    assert began[0] == 0 < began[1]


# Processes.


@pytest.fixture
def environment(cheap_compilation):
    """That of processes which share the compiled programs of this one."""
    with cheap_compilation():
        programs = jax.config.jax_compilation_cache_dir
    return {**os.environ, 'JAX_COMPILATION_CACHE_DIR': programs,
            'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
            'JAX_DISABLE_MOST_OPTIMIZATIONS': '1'}


@pytest.fixture
def start(environment):
    """(module, *arguments) -> its process."""
    return lambda module, *arguments: subprocess.Popen(
        [sys.executable, '-m', module, *map(str, arguments)], cwd=ROOT, text=True,
        env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE)


@pytest.mark.thorough
def test_from_a_command_to_a_report(started, undisturbed, start, tmp_path):
    folder = started('seed = [0, 1]\nlearning_rate = [1e-2]')
    shutil.rmtree(folder)
    with start('experiments.harness.sweep', tmp_path / 'sweep.toml',
               f'--out_dir={folder}',
               '--workers=1') as process:
        said, errors = process.communicate(timeout=100)
    assert (process.returncode, errors) == (0, '')
    assert states(folder) == ['done'] * 2 and digests(folder)[1] == undisturbed
    assert said.splitlines()[0].startswith('sweep: 2 trials, 0 done, 2 pending; in ')
    assert said.endswith(f'\n{folder}/report.html\n')
    page = (folder / 'report.html').read_text()
    assert all(run.name in page for run in runs(folder))


def mounted(folder, *options):
    """A file system of its own; unmounted by the caller."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(['mount', *options, str(folder)], capture_output=True)
    if done.returncode:
        pytest.skip(f'cannot mount: {done.stderr.decode()}')


@pytest.mark.slow
@pytest.mark.parametrize('room', [150, 200, 250, 300, 350])
def test_a_full_disk(started, start, undisturbed, tmp_path, room):
    """Of so many KiB, which some trials fill."""
    folder = started(REAL)
    shutil.rmtree(folder)
    mounted(folder, '-t', 'tmpfs', '-o', f'size={room}k', 'tmpfs')
    call = ['experiments.harness.sweep', tmp_path / 'sweep.toml', f'--out_dir={folder}',
            '--workers=1']
    try:
        with start(*call) as process:
            _, words = process.communicate(timeout=200)
        assert process.returncode == 74
        assert words.startswith('error: ') and words.count('\n') == 1, words
        assert 'No space left on device' in words
        whole = [at for at, state in enumerate(states(folder)) if state == 'done']
        before = {at: contents(runs(folder)[at]) for at in whole}
        for at in whole:
            assert digests_of(runs(folder)[at]) == run_folder.digests(runs(folder)[at])
        # Somebody makes room, and gives the same command again.
        mounted(folder, '-o', 'remount,size=9m')
        with start(*call) as process:
            _, words = process.communicate(timeout=200)
        assert (process.returncode, words) == (0, '')
        assert digests(folder)[-1] == undisturbed
        assert {at: contents(runs(folder)[at]) for at in whole} == before
        print(f'{room} KiB: {len(whole)} of 4 were done')
    finally:
        subprocess.run(['umount', str(folder)], check=True)


@pytest.mark.slow
def test_a_read_only_folder(started, start, stand, tmp_path):
    folder = started('seed = [0, 1]')
    first = sweeps.load(folder).trials[0].id
    work(folder, f'--trials={first}')
    mounted(folder, '--bind', str(folder))
    mounted(folder, '-o', 'remount,bind,ro')
    try:
        before = contents(folder)
        for call in (['experiments.harness.sweep', tmp_path / 'sweep.toml',
                      f'--out_dir={folder}'],
                     ['experiments.harness.sweep.worker', f'--out_dir={folder}']):
            with start(*call) as process:
                _, words = process.communicate(timeout=200)
            assert process.returncode == 74
            assert words.startswith('error: ') and words.count('\n') == 1
            assert 'Read-only file system' in words
        assert contents(folder) == before
        with start('experiments.harness.sweep', tmp_path / 'sweep.toml', 'status',
                   f'--out_dir={folder}') as process:
            assert process.communicate(timeout=200)[0].startswith(
                'sweep: 2 trials, 1 done, 1 pending; in ')
    finally:
        subprocess.run(['umount', str(folder)], check=True)


@pytest.mark.slow
def test_workers_leave_when_their_launcher_is_killed(started, start, tmp_path):
    folder = started('seed = [0, 1]')
    with start('experiments.harness.sweep', tmp_path / 'sweep.toml',
               f'--out_dir={folder}',
               '--workers=2', '--set=cycles=1000000') as process:
        while states(folder).count('running') < 2:
            time.sleep(0.1)
        process.kill()
    for _ in range(100):
        if states(folder) == ['preempted'] * 2:
            return
        time.sleep(0.1)
    pytest.fail(f'they are {states(folder)}')
