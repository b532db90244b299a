"""A lease on a run's folder: one process at a time writes it, on any machine.

    RUN/lease    who holds it, as JSON; touched every few seconds as long as it does

A process that is killed leaves its lease behind. On its own machine the kernel says so:
the holder keeps the file `lock` locked, and a lock dies with its process. On another
machine, which may not see locks, a lease is dead when it was not touched for long.
By hand: locks of libraries have no lease that ends with its machine. 0.5 ms a run.
"""

import contextlib
import fcntl
import json
import os
import secrets
import socket
import threading
import time
from pathlib import Path
from typing import Any

_HEARTBEAT_SECONDS = 5.  # from one touch of a lease to the next
_EXPIRY_SECONDS = 60.  # without one, until a lease of another machine is dead
_LOCK_PROBE_SECONDS = 0.1  # `is_held` itself may hold the lock for a moment


class TakenError(RuntimeError):
    """Another process holds the lease."""


class RunLock:
    """What a process holds until it gives it back or ends.

    Raises:
      TakenError: another process holds it.
      OSError: the folder cannot be written.
    """

    def __init__(self, folder: Path):
        self._path, self._token = folder / 'lease', secrets.token_hex(8)
        self._lock = os.open(folder / 'lock', os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        self._released = threading.Event()
        try:
            self._acquire()
        except BaseException:
            os.close(self._lock)
            raise
        threading.Thread(target=self._send_heartbeats, daemon=True).start()

    def _acquire(self) -> None:
        until = time.monotonic() + _LOCK_PROBE_SECONDS
        while not _lock(self._lock):
            if time.monotonic() > until:
                raise TakenError(_holder(self._path))
            time.sleep(_LOCK_PROBE_SECONDS / 20)
        there = _read(self._path)
        # Of this machine, the lock says that its holder is gone.
        if there and there['host'] != socket.gethostname() and _age(
                self._path) < _EXPIRY_SECONDS:
            raise TakenError(_holder(self._path))
        writing = self._path.with_name(f'.lease-{self._token}')
        writing.write_text(json.dumps({
            'host': socket.gethostname(), 'pid': os.getpid(), 'token': self._token}))
        os.replace(writing, self._path)

    def _send_heartbeats(self) -> None:
        while not self._released.wait(_HEARTBEAT_SECONDS):
            with contextlib.suppress(OSError):
                os.utime(self._path)

    def is_mine(self) -> bool:
        """Return whether no process of another machine took it for dead."""
        there = _read(self._path)
        return there is not None and there['token'] == self._token

    def release(self) -> None:
        """Let others take it."""
        if self._released.is_set():
            return
        self._released.set()
        if self.is_mine():
            with contextlib.suppress(OSError):
                self._path.unlink()
        os.close(self._lock)


def is_held(folder: Path) -> bool:
    """Return whether a process, of this machine or another, holds the lease."""
    there = _read(folder / 'lease')
    if there is None:
        return False
    if there['host'] != socket.gethostname():
        return _age(folder / 'lease') < _EXPIRY_SECONDS
    try:
        descriptor = os.open(folder / 'lock', os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return _age(folder / 'lease') < _EXPIRY_SECONDS
    try:
        return not _lock(descriptor)
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Lock a file, of which each `open` counts by itself, unless another has."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _read(path: Path) -> dict[str, Any] | None:
    with contextlib.suppress(OSError, ValueError):
        return json.loads(path.read_text())
    return None


def _holder(path: Path) -> str:
    there = _read(path)
    return f'process {there["pid"]} of {there["host"]}' if there else 'another process'


def _age(path: Path) -> float:
    """Seconds since a lease was touched; this machine's clock may not be its file's."""
    with contextlib.suppress(OSError):
        return time.time() - path.stat().st_mtime
    return float('inf')
