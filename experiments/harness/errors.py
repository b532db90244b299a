"""Errors that a command foresees, each one line and an exit status."""

import errno

BAD_SETTING, BAD_STORAGE, DIVERGED, BAD_DATA = 2, 74, 76, 77

_STORAGE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO}


class SettingError(ValueError):
    """The configuration cannot be run; raised before anything compiles."""


class DivergedError(RuntimeError):
    """A loss is no longer finite."""


class StorageError(RuntimeError):
    """The disk refuses to write."""


def is_storage(error: BaseException) -> bool:
    """Return whether an error is the disk's refusal to write."""
    return isinstance(error, StorageError) or (
        isinstance(error, OSError) and error.errno in _STORAGE)
