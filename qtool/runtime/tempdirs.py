"""Temporary folders beside an output. A process locks its own; those of dead processes are removed."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

LOCKS = sys.platform != "win32"  # where an open file can't be removed anyway

PREFIX, SUFFIX = ".qtool-", ".tmp"

# What fsync says where there is no such thing, as on some network file systems.
_NO_FLUSH = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)


@contextlib.contextmanager
def temporary(folder: Path) -> Iterator[Path]:
    """Yield a new folder in a folder, locked against `sweep`, and remove it at the end.

    Raises:
        OSError: the folder can't be written.
    """
    handle, path = _locked(folder)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        if handle is not None:
            os.close(handle)


def lasting(folder: Path) -> Path:
    """Return the folder for files that stay: the one that a temporary folder of this process is in."""
    return folder.parent if folder.name.startswith(PREFIX) and folder.name.endswith(SUFFIX) else folder


def _locked(folder: Path) -> tuple[int | None, Path]:
    while True:
        # As the folder was named: the libraries that open what is in it take no name but of UTF-8.
        path = folder / Path(tempfile.mkdtemp(prefix=PREFIX, suffix=SUFFIX, dir=folder)).name
        if not LOCKS:
            return None, path
        with contextlib.suppress(FileNotFoundError):  # another process swept it before it was locked
            handle = os.open(path, os.O_RDONLY)
            if lock(handle) is not False and path.exists():
                return handle, path
            os.close(handle)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Lock a folder that stays; yield False where another process holds the lock."""
    if not LOCKS:
        yield True
        return
    with _opened(folder) as handle:
        yield lock(handle) is not False


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


def sweep(folder: Path) -> None:
    """Remove the temporary folders that killed processes have left in a folder."""
    if not LOCKS:
        return
    with contextlib.suppress(OSError):  # a folder that can't be read has nothing of ours
        for path in sorted(folder.glob(f"{PREFIX}*{SUFFIX}")):
            with contextlib.suppress(OSError), _opened(path) as handle:
                if lock(handle) is True:  # held until it is gone: its like may be about to be locked
                    shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[int]:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        yield handle
    finally:
        os.close(handle)


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold the lock on a folder, where the system has locks, while files in it are renamed."""
    with contextlib.ExitStack() as stack:
        if LOCKS:
            with contextlib.suppress(OSError):  # it may be written and not read: all that is lost is the lock
                lock(stack.enter_context(_opened(folder)), wait=True)
        yield


def flush(handle: int) -> None:
    """Write a file's data to disk, where its file system can.

    Raises:
        OSError: the disk failed.
    """
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_FLUSH:
            raise


def flush_folder(folder: Path) -> None:
    """Write the names in a folder to disk, where its file system can."""
    if LOCKS:
        with contextlib.suppress(OSError), _opened(folder) as handle:
            os.fsync(handle)
