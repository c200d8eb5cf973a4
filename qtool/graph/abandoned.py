"""Temporary files beside an output: a living process holds a lock on its own, the others are swept away."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

LOCKS = sys.platform != "win32"  # where an open file can't be removed anyway

PREFIX, SUFFIX = ".qtool-", ".tmp"


def make_temporary(folder: Path) -> tuple[int, Path]:
    """A new empty file in a folder, open and locked: it is swept by nobody until the handle is closed.

    Raises:
        OSError: the folder can't be written.
    """
    while True:
        handle, name = tempfile.mkstemp(prefix=PREFIX, suffix=SUFFIX, dir=folder)
        if lock(handle) is not False and os.fstat(handle).st_nlink:
            return handle, Path(name)
        os.close(handle)  # another process swept it in between
        Path(name).unlink(missing_ok=True)


def lock(handle: int, *, wait: bool = False) -> bool | None:
    """Lock an open file or folder for this process; None where the file system has no locks."""
    if not LOCKS:
        return None
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def is_abandoned(path: Path) -> bool:
    """Whether no living process holds a lock on a file; False where that can't be known."""
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError:
        return False
    try:
        return lock(handle) is True
    finally:
        os.close(handle)


def sweep(folder: Path) -> None:
    """Remove the temporary files that killed processes have left in a folder."""
    with contextlib.suppress(OSError):  # a folder that can't be read has nothing of ours
        for path in sorted(folder.glob(f"{PREFIX}*{SUFFIX}")):
            if path.is_file() and not path.is_symlink() and is_abandoned(path):
                path.unlink(missing_ok=True)


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold the lock on a folder, where there are such, while files in it change places; then flush it."""
    if not LOCKS:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        lock(handle, wait=True)
        yield
        with contextlib.suppress(OSError):  # some network file systems can't
            os.fsync(handle)
    finally:
        os.close(handle)
