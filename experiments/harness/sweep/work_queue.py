"""In which order a worker takes up groups of trials that it shares with others.

A group without a worker comes first. In one that has a worker, a second is of use only
if the trials outlast another compilation, and how long they take is not known. So it
waits for twice the time of its last set-up: in the first half the other gets ready, in
the second some of the trials are done. What then still waits is shared. Never sharing
would waste hours, sharing at once wastes a compilation; this wastes three at worst.

By hand: libraries of queues need a server, where workers of several machines have a
folder in common. Reading the state of a trial takes 0.1 ms.

    SWEEP/groups/NAME/lease   of the worker that took a group up first, see `run_lock`
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from experiments.harness.runs import preemption, run_lock

# A group that has a worker is left to it for this many times the last set-up.
_PATIENCE_SETUPS = 2.

# Time from one look at the groups to the next, at least; and as a share of the last
# set-up.
_POLL_SECONDS, _POLL_SETUPS = 0.2, 0.05


class WorkQueue:
    """The order in which one worker takes up groups.

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
                stack.callback(held.release)
                # Asked to leave while it compiles, the process does not return.
                stack.enter_context(preemption.on_exit(held.release))
            yield name

    def _wait(self, waits: Callable[[str], bool]
              ) -> tuple[str | None, run_lock.RunLock | None]:
        """Return the next group, with its lock unless another worker holds it."""
        until = time.monotonic() + _PATIENCE_SETUPS * self._ready
        # Of a group in which nothing waits, something may be preempted later.
        while waiting := [name for name in self._left if waits(name)]:
            name, held = self._first_free(waiting)
            if name:
                return name, held
            if time.monotonic() >= until:
                return waiting[0], None
            preemption.begin_run()
            time.sleep(max(_POLL_SECONDS, _POLL_SETUPS * self._ready))
        return None, None

    def _first_free(self, names: Sequence[str]
                    ) -> tuple[str | None, run_lock.RunLock | None]:
        """Return the first group without a worker, with its lock."""
        for name in names:
            path = self._folder / name
            path.mkdir(parents=True, exist_ok=True)
            if not run_lock.is_held(path):
                with contextlib.suppress(run_lock.TakenError):
                    return name, run_lock.RunLock(path)
        return None, None
