"""Files of samples: found by their suffixes, in natural order, and opened only where they are plain files."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, BinaryIO

from qtool.errors import DataError, did_you_mean, printable
from qtool.runtime.heartbeat import step

# What a single file may have, where it is read as a whole.
WHOLE_BYTES = 1 << 30
# Of files in a folder and below it: beyond this it is no folder of samples, but a disk.
MOST_FILES = 10_000_000

Mark = tuple[int, int, int]
"""Of a file's content, as far as the system knows: inode, bytes, time of the last change."""


def shown(path: Path) -> str:
    """A path, fit for a message."""
    return printable(str(path))


def names_in(folder: Path, nested: bool = False) -> list[str]:
    """The visible files in a folder, and below it where nested: relative, with '/', in natural order.

    Raises:
        DataError: it does not exist, is no directory, can't be read.
    """
    try:
        found = sorted(_walk(folder, nested), key=natural)
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
    return found


def _walk(folder: Path, nested: bool) -> Iterator[str]:
    """Hidden files are no samples: .DS_Store, ._photo.jpg. Links to folders are not followed."""
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
    """Those of the names that end so, in whatever case."""
    return [name for name in names if name.lower().endswith(tuple(suffixes))]


def natural(name: str) -> list[tuple[int, int, str]]:
    """A key that sorts numbers by value: digits as (0, number, ''), the rest as (1, 0, text)."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(p), "") if p.isdecimal() else (1, 0, p) for p in parts]


def mark_of(stream: IO[bytes]) -> Mark:
    """The mark of an open file."""
    info = os.fstat(stream.fileno())
    return info.st_ino, info.st_size, info.st_mtime_ns


class Unchanged:
    """Files that must stay as they were first seen: what is read twice must be the same."""

    def __init__(self) -> None:
        self._marks: dict[Path, Mark] = {}

    def check(self, file: Path, mark: Mark) -> None:
        """Hold a file against what it was.

        Raises:
            DataError: it is another one than the last time.
        """
        if self._marks.setdefault(file, mark) != mark:
            raise DataError(f"{shown(file)}: changed while it was in use")


@contextlib.contextmanager
def blamed(file: Path) -> Iterator[None]:
    """Read a file inside the `with`: a step of the heartbeat, and every failure is a DataError.

    Raises:
        DataError: whatever goes wrong inside the `with` is said to be the file's fault.
    """
    try:
        with step(str(file), "it is read", DataError):
            yield
    except (DataError, MemoryError):
        raise
    except OSError as error:
        reason = error.strerror or printable(str(error))
        raise DataError(f"{shown(file)}: can't be read: {reason}") from error
    except Exception as error:  # every decoder raises its own
        raise DataError(f"{shown(file)}: not readable: {printable(str(error), 120)}") from error


@contextlib.contextmanager
def opened(file: Path, most: int | None = None) -> Iterator[BinaryIO]:
    """A plain file, open, for a moment: see `blamed`.

    Args:
        file: looked at before it is opened: a device may do something then, and a pipe would wait.
        most: bytes that it may have; None: it is read piece by piece.

    Raises:
        DataError: no plain file, too large, can't be read, or whatever goes wrong inside the `with`.
    """
    name = shown(file)
    with blamed(file):
        info = file.stat()
        if not stat.S_ISREG(info.st_mode):
            raise DataError(f"{name}: not a regular file")
        if most is not None and info.st_size > most:
            raise DataError(f"{name}: {info.st_size:,} bytes; such a file may have {most:,}")
        with file.open("rb") as stream:
            yield stream
