"""What a person types does what it says, and whatever is wrong ends in one line."""

import errno
import json
import shlex
import sys
from pathlib import Path

import pytest

from experiments import gan, vae
from experiments.harness import cli, errors
from experiments.harness.errors import StorageError
from experiments.harness.runs import atomic, preemption, status_log
from experiments.harness.runs.run_lock import RunLock
from experiments.harness.sweep import commands, launcher, sweep_status
from experiments.harness.sweep import spec as sweeps
from experiments.harness.sweep.local_pool import WorkersError
from experiments.harness.sweep.trial_id import identity

TOML = '''
title = 'T'
[[table]]
title = 'A'
experiment = 'vae'
metric = 'neg_elbo'
label = 'nats'
flags = {epochs = 2}
product = {order = ['joint', 'decoder, encoder'], seed = [0, 1]}
'''
DEFINES = {'vae': vae.define_flags, 'gan': gan.define_flags}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory, with some.toml; no trial is run, and no report written."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', '')
    Path('some.toml').write_text(TOML)
    Path('file').touch()
    monkeypatch.setattr(launcher, 'run', lambda *_: pytest.fail('it was launched'))
    monkeypatch.setattr(commands, '_show', lambda sweep, folder: print('the report'))
    return tmp_path


@pytest.fixture
def call(capsys):
    """(*arguments) -> (status, output, errors) of a command."""
    def call(*arguments):
        status = 0
        try:
            commands.main(list(map(str, arguments)))
        except SystemExit as error:
            status = error.code
        return status, *capsys.readouterr()
    return call


@pytest.fixture
def launched(monkeypatch):
    """What is launched: (sweep, folder); to be told what becomes of it."""
    calls = []

    def run(sweep, folder, values):
        calls.append((sweep, folder))
        return sweep_status.read_status(sweep, folder)

    monkeypatch.setattr(launcher, 'run', run)
    return calls


def contents(folder):
    return {path: (path.stat().st_mtime_ns, path.is_file() and path.read_bytes())
            for path in folder.rglob('*')}


@pytest.mark.parametrize('arguments, words', [
    ('smok', "unknown sweep 'smok'; there are *Did you mean 'smoke'?*"),
    ('nowhere.toml', 'nowhere.toml: cannot be read (No such file or directory); *'),
    ('some.toml statsu', "unknown command 'statsu'; there are run, status, retry, "
     "report. Did you mean 'status'?"),
    ('--dry_run some.toml', '--dry_run comes before the name of the sweep; write the '
     'name first.'),
    ('--dry_run', '--dry_run comes before the name of the sweep; *'),
    ('some.toml --dryrun', "Unknown command line flag 'dryrun'. Did you mean: dry_run "
     '?'),
    ('some.toml status --outdir=x', '*Did you mean: out_dir ?'),
    ('some.toml status now', "unexpected argument 'now'; every setting is a flag, *"),
    ('some.toml --workers=0', 'flag --workers=0: *'),
    ('some.toml --mode=fast', 'flag --mode=fast: *<auto|sequential|vmapped>'),
    ('some.toml --cluster=pbs', 'flag --cluster=pbs: *<local|slurm>'),
    ('some.toml --minutes=5 --sbatch=account=a', '--minutes, --sbatch would be '
     'ignored, *; add --cluster=slurm, or leave it out.'),
    ('some.toml --preempt_latency=inf', '--preempt_latency=inf; give a finite number.'),
    ('some.toml --set=epoch=2', "some.toml: table 'A': unknown flag 'epoch'; *"),
    ('some.toml --set=epochs', "some.toml: 'epochs' replaces nothing; *"),
    ('some.toml --set=beta=much', "some.toml: table 'A': flag --beta=much: *"),
    ('file.toml', 'file.toml: is not TOML: *'),
    *((f'some.toml {what} --out_dir=file{rest}', 'file is no folder; name one with '
       '--out_dir.') for what in ('run', 'status', 'retry', 'report')
      for rest in ('', '/deeper/still')),
    ('some.toml report', 'runs/some holds no sweep; run it first, or name its folder '
     'with --out_dir.')])
def test_errors(folder, call, arguments, words):
    Path('file.toml').write_text('title = T')
    before = contents(folder)
    status, said, error = call(*arguments.split())
    assert (status, said) == (errors.BAD_SETTING, '')
    assert error.startswith('error: ') and error.count('\n') == 1
    place = 0
    for part in f'error: {words}\n'.replace('*\n', '*').split('*'):
        assert part in error[place:]
        place = error.index(part, place) + len(part)
    assert contents(folder) == before


def test_the_extra_for_event_files_is_missed_at_once(folder, call, monkeypatch):
    for name in list(sys.modules):
        if name.startswith('tensorboardX'):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, 'tensorboardX', None)
    before = contents(folder)
    status, _, error = call('some.toml', '--tensorboard')
    assert status == errors.BAD_SETTING and error.count('\n') == 1
    assert 'cdgm[tensorboard]' in error and contents(folder) == before


@pytest.mark.parametrize('arguments', [(), ('--help',), ('some.toml', '--help')])
def test_help(folder, call, arguments):
    status, said, error = call(*arguments)
    assert (status, error) == (0, '') and said.startswith(commands.__doc__)
    assert '--out_dir' in said and '--cluster' in said and '--checkpoint_every' in said


def commands_of(said):
    """(words, state) of the lines of a dry run."""
    for line in said.splitlines():
        command, _, state = line.rpartition('  # ')
        yield shlex.split(command), state


@pytest.mark.parametrize('name', ['some.toml', 'quickstart', 'rules'])
@pytest.mark.sample(1)
def test_a_dry_run_prints_commands_that_make_the_trials(folder, call, name):
    before = contents(folder)
    status, said, error = call(name, '--dry_run')
    assert (status, error) == (0, '') and contents(folder) == before
    trials = sweeps.read(sweeps.named(name)).trials
    for trial, (words, state) in zip(trials, commands_of(said), strict=True):
        assert words[:2] == ['./launch.sh', trial.experiment]
        values = cli.parse(DEFINES[trial.experiment], words[2:])
        assert identity(trial.experiment, values) == trial.id
        assert values.run_dir == f'runs/{Path(name).stem}/{trial.folder}'
        assert state == 'pending' and tuple(words[2:-1]) == trial.arguments


def test_a_dry_run_prints_the_manners_that_were_given(folder, call):
    said = call('some.toml', '--dry_run', '--tensorboard', '--data_dir=the data',
                '--checkpoint_every=7', '--workers=2', '--set=epochs=9')[1]
    for words, _ in commands_of(said):
        assert words[2:] == ['--epochs=9', *words[3:5], '--data_dir=the data',
                             '--checkpoint_every=7.0', '--tensorboard', words[-1]]
        values = cli.parse(vae.define_flags, words[2:])
        assert values.data_dir == 'the data' and values.tensorboard


# A sweep of which one trial of each kind is there.


@pytest.fixture
def trials(folder):
    """Folders: done, failed as a test wants, preempted and pending."""
    sweep = sweeps.read(Path('some.toml'))
    sweeps.save(sweep, Path('there'))
    runs = [folder / 'there' / trial.folder for trial in sweep.trials]
    for run in runs[:3]:
        begin(run)
    complete(runs[0])
    return runs


def begin(run):
    """A run with all that one has before it is complete."""
    (run / 'checkpoints' / '000001').mkdir(parents=True, exist_ok=True)
    (run / 'manifest.json').write_text('{"cycles": 10}')
    (run / 'metrics.jsonl').write_text('{"cycle": 3}\n')
    (run / 'flags.txt').write_text('--epochs=2\n')
    status_log.began(run, 0)


def complete(run):
    (run / 'manifest.json').write_text('{"cycles": 10, "digests": {}}')


def fail(run, kind):
    if kind == 'killed':
        for _ in range(status_log._MAX_DEATHS):
            status_log.began(run, 0)
    else:
        status_log.ended(run, 'failed', kind, 'for a reason')
    assert status_log.state_of(run).kind == kind


AT = ('some.toml', '--out_dir=there')


def test_status_reads_only(trials, folder, call):
    fail(trials[1], 'diverged')
    orphan = folder / 'there' / 'vae-0123456789abcdef'
    begin(orphan)
    before = contents(folder)
    status, said, error = call('some.toml', 'status', '--out_dir=there')
    assert (status, error) == (0, '') and contents(folder) == before
    assert said.splitlines() == [
        'some: 4 trials, 1 done, 1 preempted, 1 pending, 1 failed; in there',
        f'preempted 30 %: order=decoder, encoder seed=0: {trials[2].name}',
        f'failed (diverged): order=joint seed=1: {trials[1].name}: for a reason',
        'no longer in the sweep: there/vae-0123456789abcdef']


def test_status_of_what_was_never_started(folder, call):
    assert call('some.toml', 'status') == (
        0, 'some: 4 trials, 0 done, 4 pending; in runs/some\n', '')
    assert not Path('runs').exists()


def test_runs_of_another_length_are_mentioned(trials, folder, call, launched):
    for run in trials:
        run.mkdir(exist_ok=True)
        complete(run)
    status, said, _ = call(*AT, '--set=cycles=9')
    assert status == 1, 'nothing is launched here'
    assert said.splitlines()[0] == (
        'note: 4 runs in there are of no trial of the sweep any more; with another '
        'flag, the length included, a trial starts anew.')


def test_a_run_that_ends_well(trials, folder, call, launched):
    for run in trials:
        run.mkdir(exist_ok=True)
        complete(run)
    assert call(*AT) == (0, 'the report\n', '')
    (sweep, where), = launched
    assert sweep == sweeps.load(Path('there')) == sweeps.read(Path('some.toml'))
    assert where == Path('there')


def test_its_folder_is_of_its_name(folder, call, launched):
    call('some.toml', '--set=epochs=3')
    (sweep, where), = launched
    assert where == Path('runs/some') and sweeps.load(where) == sweep
    assert {trial.arguments[0] for trial in sweep.trials} == {'--epochs=3'}


def test_some_that_failed(trials, folder, call, launched):
    fail(trials[1], 'diverged')
    for run in trials[2:]:
        run.mkdir(exist_ok=True)
        complete(run)
    status, said, error = call(*AT)
    assert (status, said) == (1, 'the report\n')
    assert error == ('error: 1 of 4 trials failed; their reasons: ./launch.sh '
                     'some.toml status --out_dir=there\n')
    # Which is a command that says it.
    again = shlex.split(error.partition('launch.sh ')[2])
    assert 'failed (diverged)' in call(*again)[1]
    assert status_log.state_of(trials[1]).name == 'failed'


def test_some_that_no_job_is_left_for(trials, call, launched):
    assert call(*AT) == (1, 'the report\n', (
        'warning: 3 of 4 trials are not done, and no job is left; run the same command '
        'again.\n'))


@pytest.mark.parametrize('error, status', [
    (WorkersError('3 workers ended'), 1),
    (StorageError('no room'), errors.BAD_STORAGE),
    (OSError(errno.ENOSPC, 'No space left on device'), errors.BAD_STORAGE),
    (preemption.PreemptedError('left with 1 of 4'), preemption.PREEMPTED)])
def test_what_ends_a_launch_is_said_in_a_line(folder, call, monkeypatch, error, status):
    def end(*_):
        raise error

    monkeypatch.setattr(launcher, 'run', end)
    got, said, words = call('some.toml')
    assert (got, said) == (status, '') and words.count('\n') == 1
    assert str(error.args[-1]) in words


def test_a_folder_that_cannot_be_written(folder, call, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EROFS, 'Read-only file system')

    monkeypatch.setattr(atomic.os, 'fsync', refuse)
    status, _, words = call('some.toml')
    assert status == errors.BAD_STORAGE and words.count('\n') == 1
    assert 'Read-only file system' in words


def test_the_report_alone(trials, folder, call):
    before = contents(folder)
    assert call('some.toml', 'report', '--out_dir=there') == (0, 'the report\n', '')
    assert contents(folder) == before


FILES = {'manifest.json', 'metrics.jsonl', 'flags.txt', 'checkpoints'}


def left(run):
    return FILES & {path.name for path in run.iterdir()}


@pytest.mark.parametrize('kind, kept', [
    *((kind, set()) for kind in ('setting', 'data', 'diverged', 'crash')),
    *((kind, FILES) for kind in ('killed', 'disk', 'memory'))])
def test_retry(trials, call, launched, kind, kept):
    fail(trials[1], kind)
    before = contents(trials[0]), contents(trials[2])
    began = status_log.read(trials[1])
    assert call('some.toml', 'retry', '--out_dir=there')[0] == 1  # the stand-in is idle
    assert status_log.state_of(trials[1]).name == 'pending' and len(launched) == 1
    assert left(trials[1]) == kept
    # What was before is still told.
    assert status_log.read(trials[1])[:-1] == began
    assert (contents(trials[0]), contents(trials[2])) == before


def test_a_full_disk_is_tried_again_by_the_same_command(trials, call, launched):
    fail(trials[1], 'disk')
    fail(trials[2], 'diverged')
    call(*AT)
    assert [status_log.state_of(run).name for run in trials[1:3]] == [
                                'pending', 'failed']
    assert left(trials[1]) == FILES


def test_retry_leaves_what_another_process_has(trials, call, launched, monkeypatch):
    fail(trials[1], 'diverged')
    stale = sweep_status.read_status(sweeps.load(Path('there')), Path('there'))
    monkeypatch.setattr(sweep_status, 'read_status', lambda *_: stale)
    lease = RunLock(trials[1])
    before = status_log.read(trials[1])
    call('some.toml', 'retry', '--out_dir=there')
    assert status_log.read(trials[1]) == before and left(trials[1]) == FILES
    lease.release()
    # Nor what it has tried and completed meanwhile.
    status_log.retry(trials[1])
    begin(trials[1])
    complete(trials[1])
    call('some.toml', 'retry', '--out_dir=there')
    assert status_log.state_of(trials[1]).name == 'done' and left(trials[1]) == FILES


def test_a_dry_run_of_retry_writes_nothing(trials, folder, call):
    fail(trials[1], 'crash')
    before = contents(folder)
    status, said, _ = call('some.toml', 'retry', '--out_dir=there', '--dry_run')
    assert status == 0 and contents(folder) == before
    assert [state for _, state in commands_of(said)] == [
        'done', 'failed', 'preempted', 'pending']


def test_sweeps_of_json_are_not_touched_by_looking(trials, call):
    text = json.loads(Path('there/sweep.json').read_text())
    call('some.toml', 'status', '--out_dir=there', '--set=epochs=5')
    assert json.loads(Path('there/sweep.json').read_text()) == text
