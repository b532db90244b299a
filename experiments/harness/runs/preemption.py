"""Leave when asked to, within a bound, with what was reached on the disk.

    TERM, INT, USR1, USR2   the loop sees `requested`, saves and leaves: status 75
    nothing to save         the process leaves at once, also while it compiles
    the bound has passed    it leaves all the same, with its last checkpoint
    a second INT            it leaves at once: status 130
    nothing left to do      it ends as if not asked

By hand, as no library does it: a thread is woken through a pipe and decides. Python's own
handlers run between two lines of Python, or when a library lets them: jax 0.10 does so
within 0.2 s, compiling for 15 s or in a loop of 40 s, but promises nothing.
"""

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn

PREEMPTED = 75
_INTERRUPTED = 130
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


class PreemptedError(RuntimeError):
    """The process was asked to leave, and what it reached is saved."""


class _ExitState(NamedTuple):
    """What is on the disk, and what happens when the process is asked to leave.

    Attributes:
      message: printed on leaving.
      safe: whether nothing would be lost.
      over: whether there is nothing left to do.
    """

    message: str
    safe: bool = True
    over: bool = False


_INITIAL_STATE = _ExitState(
    'preempted at cycle 0; run the same command again to continue')
_exit_state = _INITIAL_STATE
_requested = threading.Event()
_exit_callbacks: list[Callable[[], None]] = []


@contextlib.contextmanager
def handle_signals(latency: float) -> Iterator[None]:
    """Handle the signals; enter it in the main thread.

    Args:
      latency: seconds from a signal to the end of the process, at most.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = [signal.signal(number, lambda *_: None) for number in _SIGNALS]
    woken = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_wait_for_signals, args=(reader, latency),
                     daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(woken)
        for number, handler in zip(_SIGNALS, before):
            signal.signal(number, handler)
        os.close(writer)  # which ends the thread


def requested() -> bool:
    """Return whether the process was asked to leave."""
    return _requested.is_set()


def saved(cycle: int, path: Path) -> None:
    """Note that all up to a cycle is on the disk: until `mark_dirty`, leave at once."""
    mark_safe(f'preempted at cycle {cycle}; run the same command again, with '
              f'--run_dir={path}, to continue')


def mark_safe(message: str) -> None:
    """Note that nothing would be lost: until `mark_dirty`, leave at once, saying so."""
    global _exit_state
    _exit_state = _ExitState(message)


def mark_dirty() -> None:
    """Note that from here on something would be lost: wait for the loop to save."""
    global _exit_state
    _exit_state = _exit_state._replace(safe=False)


def finished() -> None:
    """Note that the run is complete: signals have no effect any more."""
    global _exit_state
    _exit_state = _exit_state._replace(over=True)


def begin_run() -> None:
    """Note that another run begins; leave if the process was asked to meanwhile.

    Raises:
      PreemptedError: it was.
    """
    global _exit_state
    _exit_state = _INITIAL_STATE
    if _requested.is_set():
        leave()


@contextlib.contextmanager
def on_exit(callback: Callable[[], None]) -> Iterator[None]:
    """Call a function when the process leaves because it was asked to."""
    _exit_callbacks.append(callback)
    try:
        yield
    finally:
        _exit_callbacks.remove(callback)


def leave() -> NoReturn:
    """Leave, everything being saved.

    Raises:
      PreemptedError: always.
    """
    raise PreemptedError(_exit_state.message)


def _wait_for_signals(reader: int, latency: float) -> None:
    """Wait for signals and for the bound to pass."""
    interrupts, deadline = 0, None
    while True:
        left = None if deadline is None else max(deadline - time.monotonic(), 0)
        late = not select.select([reader], [], [], left)[0]
        received = b'' if late else os.read(reader, 64)
        if not received and not late:
            os.close(reader)
            return
        interrupts += received.count(signal.SIGINT)
        if interrupts > 1:
            _exit(_INTERRUPTED, 'interrupted twice')
        _requested.set()
        if _exit_state.over:
            deadline = None
        elif late or _exit_state.safe:
            for callback in _exit_callbacks:
                with contextlib.suppress(Exception):  # the process leaves all the same
                    callback()
            _exit(PREEMPTED, _exit_state.message)
        else:
            deadline = deadline or time.monotonic() + latency


def _exit(status: int, message: str) -> NoReturn:
    """End the process from a thread: no exception would reach the main one."""
    try:
        if sys.stdout.isatty():
            print('\033[?25h', end='')  # a progress bar hides the cursor
        sys.stdout.flush()
        print(message, file=sys.stderr, flush=True)
    finally:
        os._exit(status)
