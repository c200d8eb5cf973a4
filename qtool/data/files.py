"""Files of samples: found by their suffixes, in natural order, and opened only where they are plain files."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from qtool.errors import DataError, did_you_mean, printable
from qtool.runtime.heartbeat import step

# The largest file that is read at once.
WHOLE_BYTES = 1 << 30
# Files in a folder and below it. With more, it is a disk and not a folder of samples.
MOST_FILES = 10_000_000


def shown(path: Path) -> str:
    """Return a path for a message."""
    return printable(str(path))


def names_in(folder: Path, nested: bool = False) -> list[str]:
    """Return the files in a folder, and below it if nested: relative, with '/', in natural order.

    Raises:
        DataError: it does not exist, is not a directory, or can't be read.
    """
    try:
        return sorted(_walk(folder, nested), key=natural)
    except FileNotFoundError:
        siblings: list[str] = []
        with contextlib.suppress(OSError):
            siblings = [p.name for p in folder.parent.iterdir()]
        raise DataError(f"'{shown(folder)}' does not exist", did_you_mean(folder.name, siblings)) from None
    except NotADirectoryError:
        raise DataError(f"'{shown(folder)}' is not a directory") from None
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"'{shown(folder)}' can't be read: {reason}") from error


def _walk(folder: Path, nested: bool) -> Iterator[str]:
    """Yield the files; hidden files (.DS_Store, ._photo.jpg) and links to folders are left out."""
    waiting = [""]
    count = 0
    while waiting:
        prefix = waiting.pop()
        with os.scandir(folder / prefix if prefix else folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if nested and entry.is_dir(follow_symlinks=False):
                    waiting.append(f"{prefix}{entry.name}/")
                    continue
                count += 1
                if count > MOST_FILES:
                    raise DataError(f"'{shown(folder)}' holds more than {MOST_FILES:,} files")
                yield prefix + entry.name


def with_suffix(names: Iterable[str], suffixes: Sequence[str]) -> list[str]:
    """Return the names that end in one of the suffixes, in upper or lower case."""
    return [name for name in names if name.lower().endswith(tuple(suffixes))]


def natural(name: str) -> list[tuple[int, int, str]]:
    """Return a key that sorts numbers by value: digits as (0, number, ''), the rest as (1, 0, text)."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(p), "") if p.isdecimal() else (1, 0, p) for p in parts]


@contextlib.contextmanager
def opened(file: Path, most: int | None = None) -> Iterator[BinaryIO]:
    """Open a regular file. Inside the `with`, a step of the heartbeat runs, and every failure is a DataError.

    Args:
        file: checked before it is opened: opening a device may do something, and a pipe would wait.
        most: the largest size in bytes; None: any, for files that are read piece by piece.

    Raises:
        DataError: not a regular file, too large, not readable, or any error inside the `with`.
    """
    name = shown(file)
    try:
        with step(str(file), "it is read", DataError):
            info = file.stat()
            if not stat.S_ISREG(info.st_mode):
                raise DataError(f"{name}: not a regular file")
            if most is not None and info.st_size > most:
                raise DataError(f"{name}: {info.st_size:,} bytes; such a file may have {most:,}")
            with file.open("rb") as stream:
                yield stream
    except (DataError, MemoryError):
        raise
    except OSError as error:
        reason = error.strerror or printable(str(error))
        raise DataError(f"{name}: can't be read: {reason}") from error
    except Exception as error:  # every decoder raises its own
        raise DataError(f"{name}: not readable: {printable(str(error), 120)}") from error


class UnchangedFiles:
    """Opens files, and refuses a file that has changed since it was first opened."""

    def __init__(self) -> None:
        self._first: dict[Path, tuple[int, int, int]] = {}

    @contextlib.contextmanager
    def opened(self, file: Path, most: int | None = None) -> Iterator[BinaryIO]:
        """Open a file as `opened` does.

        Raises:
            DataError: also if its inode, size or time of change differ from the first time.
        """
        with opened(file, most) as stream:
            info = os.fstat(stream.fileno())
            now = (info.st_ino, info.st_size, info.st_mtime_ns)
            if self._first.setdefault(file, now) != now:
                raise DataError(f"{shown(file)}: changed while it was in use")
            yield stream
