"""How a sweep stands is read from its files, and shown on a terminal or in a log."""

import io
import json

import pytest
from rich.console import Console

from experiments.harness.runs import status_log
from experiments.harness.runs.run_lock import RunLock
from experiments.harness.runs.status_log import State
from experiments.harness.sweep import live_view, sweep_status
from experiments.harness.sweep.spec import Sweep, Trial
from experiments.harness.sweep.sweep_status import SweepStatus


def trials(*arguments, experiment='vae'):
    return tuple(Trial(experiment, one, f'{number:016x}')
                 for number, one in enumerate(arguments))


def sweep_of(some):
    return Sweep('some', 'T', '', some, ())


SEEDS = trials(*((f'--seed={seed}', '--epochs=2') for seed in range(5)))


def write(run, *rows, done=False, cycles=10):
    """A run that has begun, with rows at some sweeps."""
    run.mkdir(parents=True, exist_ok=True)
    (run / 'manifest.json').write_text(json.dumps({
        'cycles': cycles, **({'digests': {}} if done else {})}))
    (run / 'metrics.jsonl').write_text(''.join(json.dumps(
        {'cycle': at, 'loss': {'encoder': [1.5, 2.5]}}) + '\n' for at in rows))
    status_log.began(run, 0)


@pytest.fixture
def folder(tmp_path):
    """Of the trials of `SEEDS`: done, running, preempted, failed and pending."""
    done, running, preempted, failed, _ = (tmp_path / one.folder for one in SEEDS)
    write(done, 0, 10, done=True)
    write(running, 0, 3, 4)
    lease = RunLock(running)
    write(preempted, 0, 5)
    write(failed, 0)
    status_log.failed(failed, ZeroDivisionError('by 0'))
    yield tmp_path
    lease.release()


def test_states_and_fractions(folder):
    seen = sweep_status.read_status(sweep_of(SEEDS), folder)
    assert [state.name for state in seen.states.values()] == [
        'done', 'running', 'preempted', 'failed', 'pending']
    assert list(seen.fractions.values()) == [1., 0.4, 0.5, 1., 0.]
    assert seen.in_state('pending', 'preempted') == [SEEDS[2], SEEDS[4]]
    assert seen.counts() == '1 done, 1 running, 1 preempted, 1 pending, 1 failed'
    assert not seen.is_over


def test_it_is_over_when_nothing_is_left_to_do(folder):
    sweep = sweep_of((SEEDS[0], SEEDS[3]))
    seen = sweep_status.read_status(sweep, folder)
    assert seen.is_over and seen.counts() == '1 done, 1 failed'
    assert sweep_status.read_status(
        sweep_of(SEEDS[4:]), folder).counts() == '0 done, 1 pending'


def test_what_is_final_is_not_read_again(folder, monkeypatch):
    sweep, read = sweep_of(SEEDS), []
    seen = sweep_status.read_status(sweep, folder)
    state_of = status_log.state_of
    monkeypatch.setattr(status_log, 'state_of',
                        lambda run: read.append(run.name) or state_of(run))
    assert sweep_status.read_status(sweep, folder, seen) == seen
    assert read == [SEEDS[at].folder for at in (1, 2, 4)]


def test_looking_writes_nothing(folder):
    def contents():
        return {path: path.stat().st_mtime_ns for path in folder.rglob('*')}

    before = contents()
    sweep_status.read_status(sweep_of(SEEDS), folder)
    sweep_status.read_status(sweep_of(SEEDS), folder / 'nowhere')
    assert contents() == before


def test_folders_that_the_sweep_no_longer_has(folder):
    (folder / 'logs').mkdir()
    assert sweep_status.orphans(sweep_of(SEEDS[1:3]), folder) == [
        folder / SEEDS[0].folder, folder / SEEDS[3].folder]
    assert sweep_status.orphans(sweep_of(SEEDS), folder) == []


@pytest.mark.parametrize('content, cycle', [
    ('', None), ('{"cycle": 3}\n', 3), ('{"cycle": 3}\n{"cycle": 4}\n', 4),
    ('{"cycle": 3}\n{"cyc', 3), ('{"cyc', None),
    ('{"cycle": 3, "x": "' + 70000 * 'x' + '"}\n{"cycle": 4}\n', 4)])
def test_the_last_whole_row(tmp_path, content, cycle):
    (tmp_path / 'metrics.jsonl').write_text(content)
    assert sweep_status.last_row(tmp_path).get('cycle') == cycle
    assert sweep_status.last_row(tmp_path / 'nowhere') == {}


@pytest.mark.parametrize('some, expected', [
    (SEEDS[:2], ['seed=0', 'seed=1']),
    (trials(('--seed=0',)), ['vae']),
    (trials(('--order=joint', '--hidden=8', '--hidden=4'),
            ('--order=joint', '--beta=2', '--hidden=8')), ['hidden=4', 'beta=2']),
    ((*trials(('--epochs=2', '--seed=0'), ('--epochs=2', '--seed=1')),
      *trials(('--epochs=3',), experiment='gan')),
     ['vae seed=0', 'vae seed=1', 'gan'])])
def test_trials_are_named_by_what_tells_them_apart(some, expected):
    assert list(live_view.labels(sweep_of(some)).values()) == expected


# What is shown.

REASON = ('the loss of block \'encoder\' is not finite at sweep 12 (seed number 0); '
          'lower its --learning_rate. The metrics before it are in /some/where/long.')


def seen(**names):
    """An overview of `SEEDS` by the names of the states."""
    states = [name for name, number in names.items() for _ in range(number)]
    return SweepStatus(
        {trial: State(name, *(('diverged', REASON) if name == 'failed' else ()))
         for trial, name in zip(SEEDS, states)},
        {trial: {'done': 1., 'failed': 1., 'running': 0.4}.get(name, 0.)
         for trial, name in zip(SEEDS, states)})


@pytest.fixture
def shown(monkeypatch, tmp_path):
    """(terminal, overviews, trials) -> what is on 80 columns while they follow."""
    def make(terminal):
        return Console(file=io.StringIO(), width=80, force_terminal=terminal,
                       color_system=None, highlight=False)

    def shown(terminal, *overviews, some=SEEDS):
        console, frames = make(terminal), []
        monkeypatch.setattr(live_view, 'Console', lambda **_: console)
        with live_view.View(sweep_of(some), tmp_path, overviews[0]) as it:
            for one in overviews[1:]:
                it.update(one)
                aside = make(True)
                aside.print(it._render())
                frames.append(aside.file.getvalue().splitlines())
        return console.file.getvalue(), frames
    return shown


def test_lines_of_a_log_are_whole(shown):
    said, _ = shown(None, seen(done=1, pending=4),
                    seen(done=1, running=1, pending=3),
                    seen(done=1, failed=1, running=1, pending=2),
                    seen(done=1, failed=1, running=1, pending=2),
                    seen(done=4, failed=1))
    first, *middle = said.splitlines()
    assert first.startswith('some: 5 trials, 1 done, 4 pending; in /')
    assert [line.split(';')[0] for line in middle] == [
        f'failed (diverged): seed=1: {SEEDS[1].folder}: {REASON}'.split(';')[0],
        'some: 1 done, 1 running, 2 pending, 1 failed',
        f'failed (diverged): seed=4: {SEEDS[4].folder}: {REASON}'.split(';')[0],
        'some: 4 done, 1 failed']
    assert middle[0].endswith(REASON) and '\x1b' not in said
    assert ' trials a minute, ' in middle[1] and middle[1].endswith(' left')


def test_the_end_is_said_once(shown):
    for end in seen(done=5), seen(done=1, running=4):
        said, _ = shown(None, seen(done=1, pending=4), end)
        assert said.count(f'some: {end.counts()}') == 1
    assert shown(None, seen(done=5), seen(done=5))[0].splitlines()[1] == 'some: 5 done'


def test_failures_before_this_launch_are_not_news(shown):
    said, _ = shown(None, seen(failed=2, pending=3), seen(failed=2, pending=3))
    assert REASON not in said


def test_a_terminal_of_80_columns(shown, tmp_path):
    for trial in SEEDS:
        write(tmp_path / trial.folder, 0, 4)
    said, frames = shown(True, seen(pending=5), seen(running=2, pending=3),
                         seen(failed=1, done=2, running=2), seen(failed=1, done=4))
    for line in (*said.replace('\r', '\n').splitlines(), *sum(frames, [])):
        assert len(line) <= 80 + line.count('\x1b') * 8
    waiting, working, over = frames
    assert waiting[1].rstrip() == '0 done, 2 running, 3 pending'
    assert [line.split(maxsplit=1)[1].rstrip() for line in waiting[2:]] == [
        'seed=0 encoder 2', 'seed=1 encoder 2']
    assert 'trials a minute' in working[0] and len(working) == 4
    assert 'left' not in over[0] and len(over) == 2
    # A failure has two lines, of which the second ends where the terminal does.
    assert said.count('failed (diverged): seed=0') == 1
    assert f'  {SEEDS[0].folder}: {REASON}'[:79] + '…' in said


def test_before_anything_runs_it_says_so(shown):
    assert shown(True, seen(pending=5), seen(pending=5))[1][0][0].endswith('setting up')
    assert 'setting up' not in shown(True, seen(running=5), seen(running=5))[1][0][0]


def test_names_stay_where_there_is_no_room_for_all(shown, tmp_path, monkeypatch):
    some = trials(*(('--order=decoder,encoder', '--learning_rate=1e-3', f'--beta={at}')
                    for at in range(12)), ('--epochs=3', '--latent=123456'))
    for trial in some:
        write(tmp_path / trial.folder, 0)
    monkeypatch.setattr(live_view, '_losses', lambda run: 30 * 'loss 1.234, ')
    running = SweepStatus({one: State('running') for one in some},
                          {one: 0.5 for one in some})
    _, (frame,) = shown(True, running, running, some=some)
    assert [line.split('beta=')[1].split()[0] for line in frame[2:-1]] == [
        str(at) for at in range(8)]
    assert all(len(line) <= 80 for line in frame)
    assert frame[-1].rstrip() == 'and 5 more'


def test_remaining_time_is_at_the_pace_of_this_launch(shown, monkeypatch):
    now = iter((100., 160., 160.))
    monkeypatch.setattr(live_view.time, 'monotonic', lambda: next(now, 160.))
    _, (frame,) = shown(True, seen(done=2, pending=3), seen(done=3, pending=2))
    assert frame[0].rstrip().endswith(' 1.0 trials a minute, 2:00 left')


def test_clock():
    times = 0, 59.6, 61, 3599, 3661, 90000
    assert [live_view._clock(seconds) for seconds in times] == [
        '0:00', '1:00', '1:01', '59:59', '1:01:01', '25:00:00']
