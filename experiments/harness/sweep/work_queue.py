"""In which order a worker takes up groups of trials that it shares with others.

A group that nobody is at comes first. To one that somebody is at, a worker is of use
only if its trials outlast another compilation, and how long they take is not known. So
the worker waits for twice the time in which it last got ready for a group: in the first
half the other gets ready, in the second some of the trials are done. What then still
waits is shared. Never sharing would waste hours, sharing at once wastes a compilation;
this wastes no more than three at worst.

    SWEEP/groups/NAME/lease   of the worker that took a group up first, see `lease`
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from experiments.harness.runs import preemption, run_lock

# Times that it takes to get ready, for which a group is left to those at it.
_PATIENCE = 2.

# Seconds from one look to the next, and the same in times that it takes to get ready.
_LOOK, _LOOK_SHARE = 0.2, 0.05


class WorkQueue:
    """The turns of one worker.

    Args:
      folder: of the sweep.
      groups: names of the groups.
      number: of the worker; each begins elsewhere.
    """

    def __init__(self, folder: Path, groups: Sequence[str], number: int):
        at = number % max(len(groups), 1)
        self._left = [*groups[at:], *groups[:at]]
        self._folder, self._ready = folder / 'groups', 0.
        self._began = time.monotonic()

    def ready(self) -> None:
        """Note that the worker is ready to run the trials of its group."""
        self._ready = time.monotonic() - self._began

    @contextlib.contextmanager
    def take(self, waits: Callable[[str], bool]) -> Iterator[str | None]:
        """Take up a group, once, and let it go in the end.

        Args:
          waits: whether there is something to do in a group.

        Yields:
          Its name; None when nothing waits in those that it has not taken up before.

        Raises:
          PreemptedError: the process was asked to leave while it waited.
        """
        name, held = self._wait(waits)
        if name:
            self._left.remove(name)
        self._began = time.monotonic()
        with contextlib.ExitStack() as stack:
            if held:
                stack.callback(held.give_back)
                # Asked to leave while it compiles, the process does not return.
                stack.enter_context(preemption.on_exit(held.give_back))
            yield name

    def _wait(self, waits: Callable[[str], bool]
              ) -> tuple[str | None, run_lock.RunLock | None]:
        """The next group, with a lease of it if it is nobody else's."""
        until = time.monotonic() + _PATIENCE * self._ready
        # Of a group in which nothing waits, something may be preempted later.
        while waiting := [name for name in self._left if waits(name)]:
            name, held = self._first_free(waiting)
            if name:
                return name, held
            if time.monotonic() >= until:
                return waiting[0], None
            preemption.begin_run()
            time.sleep(max(_LOOK, _LOOK_SHARE * self._ready))
        return None, None

    def _first_free(self, names: Sequence[str]
                    ) -> tuple[str | None, run_lock.RunLock | None]:
        """The first of some groups that nobody is at."""
        for name in names:
            path = self._folder / name
            path.mkdir(parents=True, exist_ok=True)
            if not run_lock.is_held(path):
                with contextlib.suppress(run_lock.TakenError):
                    return name, run_lock.RunLock(path)
        return None, None
