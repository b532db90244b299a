"""Workers take up groups that nobody is at, and only then share."""

import pytest

from experiments.harness.runs import preemption, run_lock
from experiments.harness.runs.run_lock import RunLock
from experiments.harness.sweep import work_queue
from experiments.harness.sweep.work_queue import WorkQueue

GROUPS = ['a', 'b', 'c']


def everywhere(name):
    return True


@pytest.fixture
def clock(monkeypatch):
    """Whoever sleeps, and nobody else, lets time pass."""
    class Clock:
        now, later = 0., []

        def monotonic(self):
            return self.now

        def sleep(self, seconds):
            self.now += seconds
            for at, happens in list(self.later):
                if at <= self.now:
                    self.later.remove((at, happens))
                    happens()

    clock = Clock()
    monkeypatch.setattr(work_queue, 'time', clock)
    return clock


def get_ready(mine, clock, seconds, waits=everywhere):
    """Take up a group, and be ready for it after some seconds."""
    with mine.take(waits) as name:
        clock.now += seconds
        mine.ready()
    return name


def occupy(folder, name):
    (folder / 'groups' / name).mkdir(parents=True, exist_ok=True)
    return RunLock(folder / 'groups' / name)


@pytest.mark.parametrize('number, order', [(0, 'abc'), (1, 'bca'), (5, 'cab')])
def test_each_begins_elsewhere_and_takes_a_group_once(tmp_path, clock, number, order):
    mine = WorkQueue(tmp_path, GROUPS, number)
    assert ''.join(get_ready(mine, clock, 1) for _ in GROUPS) == order
    assert get_ready(mine, clock, 1) is None and clock.now == 4


def test_without_groups_there_is_nothing_to_do(tmp_path, clock):
    with WorkQueue(tmp_path, [], 3).take(everywhere) as name:
        assert name is None


def test_groups_in_which_nothing_waits_are_passed_over(tmp_path, clock):
    mine = WorkQueue(tmp_path, GROUPS, 0)
    assert get_ready(mine, clock, 1, lambda name: name == 'b') == 'b'
    assert get_ready(mine, clock, 1, lambda name: name == 'b') is None
    # One may have been preempted meanwhile.
    assert get_ready(mine, clock, 1) == 'a'


def test_two_do_not_take_up_the_same(tmp_path, clock):
    one, two = (WorkQueue(tmp_path, GROUPS, 0) for _ in range(2))
    with one.take(everywhere) as first, two.take(everywhere) as second:
        assert (first, second) == ('a', 'b')
    # Let go, with something still waiting: as when its worker was asked to leave.
    assert get_ready(two, clock, 0) == 'a'


def test_a_group_is_let_go_whatever_happens(tmp_path, clock):
    with pytest.raises(KeyError), WorkQueue(tmp_path, GROUPS, 0).take(everywhere):
        assert run_lock.is_held(tmp_path / 'groups' / 'a')
        raise KeyError
    assert not run_lock.is_held(tmp_path / 'groups' / 'a')


def test_a_process_that_leaves_at_once_lets_its_group_go(tmp_path, clock):
    with WorkQueue(tmp_path, GROUPS, 0).take(everywhere):
        for callback in preemption._exit_callbacks:
            callback()
        assert not run_lock.is_held(tmp_path / 'groups' / 'a')
    assert preemption._exit_callbacks == []


def test_who_has_compiled_nothing_yet_shares_at_once(tmp_path, clock):
    others = [occupy(tmp_path, name) for name in GROUPS]
    assert get_ready(WorkQueue(tmp_path, GROUPS, 1), clock, 5) == 'b'
    assert clock.now == 5
    for other in others:
        other.release()


@pytest.mark.parametrize('seconds', [1., 60.])
def test_who_has_compiled_waits_twice_as_long_and_then_shares(tmp_path, clock, seconds):
    mine, other = WorkQueue(tmp_path, GROUPS[:2], 0), occupy(tmp_path, 'b')
    assert get_ready(mine, clock, seconds) == 'a'
    with mine.take(everywhere) as name:
        assert name == 'b'
        pause = max(work_queue._POLL_SECONDS, work_queue._POLL_SETUPS * seconds)
        assert 2 * seconds <= clock.now - seconds <= 2 * seconds + pause
    other.release()


@pytest.mark.parametrize('how', ['done', 'gone'])
def test_while_waiting_it_looks(tmp_path, clock, how):
    mine, other, left = WorkQueue(
        tmp_path, GROUPS[:2], 0), occupy(tmp_path, 'b'), {*'ab'}
    get_ready(mine, clock, 60)
    pause = 60 * work_queue._POLL_SETUPS
    clock.later = [(70, other.release if how == 'gone' else left.clear)]
    with mine.take(left.__contains__) as name:
        assert name == ('b' if how == 'gone' else None)
    assert 70 <= clock.now <= 70 + pause
    other.release()


def test_asked_to_leave_it_does_not_wait_on(tmp_path, clock, monkeypatch):
    mine, other = WorkQueue(tmp_path, GROUPS[:2], 0), occupy(tmp_path, 'b')
    get_ready(mine, clock, 60)
    asked = preemption.threading.Event()
    monkeypatch.setattr(preemption, '_requested', asked)
    clock.later = [(70, asked.set)]
    with pytest.raises(preemption.PreemptedError), mine.take(everywhere):
        pass
    assert clock.now < 70 + 60 * work_queue._POLL_SETUPS
    other.release()
