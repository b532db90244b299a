"""What has become of a run, as its files say."""

import json

import pytest

from cdgm.data import DataError
from experiments.harness.errors import DivergedError, SettingError, StorageError
from experiments.harness.runs import status_log
from experiments.harness.runs.run_folder import BusyError
from experiments.harness.runs.run_lock import RunLock
from experiments.harness.runs.status_log import State


def began(cycle=0):
    return {'began': '2026-01-02T03:04:05+0000', 'host': 'h', 'pid': 7, 'cycle': cycle}


def ended(outcome, **why):
    return {'ended': '2026-01-02T03:05:05+0000', 'outcome': outcome, **why}


FAILED = ended('failed', kind='disk', reason='it is full')
PREEMPTED, DONE = ended('preempted'), ended('done')
RETRY = {'retry': '2026-01-02T03:06:05+0000'}


def write(run, *lines):
    (run / 'attempts.jsonl').write_text(''.join(json.dumps(x) + '\n' for x in lines))


def complete(run):
    (run / 'manifest.json').write_text('{"commit": null, "digests": {"params": "0"}}')


@pytest.mark.parametrize('lines, state', [
    ([], State('pending')),
    ([began()], State('preempted', attempts=1)),
    ([began(), PREEMPTED], State('preempted', attempts=1)),
    ([began(), PREEMPTED, began(3)], State('preempted', attempts=2)),
    ([began(), FAILED], State('failed', 'disk', 'it is full', 1)),
    ([FAILED], State('failed', 'disk', 'it is full', 0)),
    ([began(), FAILED, RETRY], State('pending', attempts=1)),
    ([began(), FAILED, RETRY, began()], State('preempted', attempts=2))])
def test_states(lines, state, tmp_path):
    (tmp_path / 'manifest.json').write_text('{"commit": null}')
    assert status_log.state_of(tmp_path / 'nowhere') == State('pending')
    if lines:
        write(tmp_path, *lines)
    assert status_log.state_of(tmp_path) == state


def test_running_as_long_as_the_lease_is_held(tmp_path):
    write(tmp_path, began(), PREEMPTED, began())
    lease = RunLock(tmp_path)
    try:
        assert status_log.state_of(tmp_path) == State('running', attempts=2)
    finally:
        lease.release()
    assert status_log.state_of(tmp_path) == State('preempted', attempts=2)


def test_done_when_the_manifest_has_the_digests(tmp_path):
    complete(tmp_path)
    for lines in [began(), DONE], [began()], [began(), FAILED]:
        write(tmp_path, *lines)
        assert status_log.state_of(tmp_path) == State('done', attempts=1)
    (tmp_path / 'manifest.json').write_text('{"commit": null}')
    write(tmp_path, began(), DONE)
    assert status_log.state_of(tmp_path).name != 'done'


@pytest.mark.parametrize('lines, deaths', [
    ([began(4)] * 4, 0), ([began(4)] * 5, 5), ([began(4)] * 6, 6),
    ([began(0)] + [began(4)] * 5, 5),
    ([began(0), began(0), began(2), began(2), began(4)], 0),  # it got further
    ([began(4)] * 4 + [PREEMPTED, began(4)], 0),  # one could leave in time
    ([began(4)] * 5 + [PREEMPTED], 0),
    ([began(4)] * 5 + [RETRY] + [began(4)] * 4, 0)])
def test_five_deaths_at_one_place_are_its_own_doing(lines, deaths, tmp_path):
    write(tmp_path, *lines)
    count = sum('began' in line for line in lines)
    assert status_log.state_of(tmp_path) == (
        State('failed', 'killed', f'its process died {deaths} times at cycle 4', count)
        if deaths else State('preempted', attempts=count))
    status_log.retry(tmp_path)
    assert status_log.state_of(tmp_path) == State('pending', attempts=count)


def test_what_is_noted_is_read(tmp_path):
    assert status_log.read(tmp_path) == [] and not status_log.is_over(tmp_path)
    status_log.began(tmp_path, 3)
    assert not status_log.is_over(tmp_path)
    status_log.ended(tmp_path, 'preempted')
    assert status_log.is_over(tmp_path)
    first, second = status_log.read(tmp_path)
    assert first['cycle'] == 3 and second['outcome'] == 'preempted'


def test_a_line_that_was_cut_short(tmp_path):
    write(tmp_path, began())
    with open(tmp_path / 'attempts.jsonl', 'a') as file:
        file.write('{"ended": "2026-01-0')
    assert status_log.read(tmp_path) == [began()]
    assert status_log.state_of(tmp_path) == State('preempted', attempts=1)
    # It swallows none that comes after.
    status_log.began(tmp_path, 5)
    status_log.failed(tmp_path, DivergedError('too fast'))
    assert status_log.state_of(tmp_path) == State('failed', 'diverged', 'too fast', 2)
    assert len(status_log.read(tmp_path)) == 3


@pytest.mark.parametrize('error, kind', [
    (SettingError('x'), 'setting'), (BusyError('x'), 'setting'),
    (DataError('x'), 'data'), (StorageError('x'), 'disk'), (OSError(28, 'x'), 'disk'),
    (DivergedError('x'), 'diverged'), (MemoryError(), 'memory'),
    (RuntimeError('RESOURCE_EXHAUSTED: Out of memory'), 'memory'),
    (FileNotFoundError(2, 'x'), 'crash'), (TimeoutError(), 'crash'),
    (RuntimeError('x'), 'crash'), (ValueError('x'), 'crash'), (KeyError('x'), 'crash')])
def test_kinds_of_failures(error, kind):
    assert status_log.kind_of(error) == kind


def test_only_an_unforeseen_error_leaves_its_trace(tmp_path):
    status_log.failed(tmp_path, SettingError('one\n  two'))
    assert status_log.state_of(tmp_path)[:3] == ('failed', 'setting', 'one two')
    assert not (tmp_path / 'crash.txt').exists()
    try:
        raise ValueError('one\ntwo')
    except ValueError as error:
        status_log.failed(tmp_path, error)
    assert status_log.state_of(tmp_path)[:3] == (
        'failed', 'crash', 'ValueError: one two')
    trace = (tmp_path / 'crash.txt').read_text()
    assert trace.startswith('Traceback') and 'test_status_log.py' in trace
