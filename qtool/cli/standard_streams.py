"""Standard streams that never fail: a closed one (cron, `2>&-`) behaves as /dev/null.

Without this, the next file that is opened would take the number of a closed stream, and native libraries
would print into it.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys

_STREAMS = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))


class _Stderr(io.TextIOWrapper):
    """A stderr that never fails: a full disk behind it does not change the result."""

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            super().write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            super().flush()


def repair_streams() -> None:
    """Open /dev/null in place of each standard stream that is closed, and let stderr and names never fail."""
    for number in range(len(_STREAMS)):
        if not _is_open(number):
            opened = os.open(os.devnull, os.O_RDWR)
            os.dup2(opened, number)
            os.set_inheritable(number, True)  # for worker processes; dup2 of a number to itself does nothing
            if opened != number:
                os.close(opened)
    for name, mode in _STREAMS:
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of any script on a terminal of ASCII
            stream.reconfigure(errors="backslashreplace")
    if isinstance(sys.stderr, io.TextIOWrapper) and not was_closed(sys.stderr):
        raw = open(sys.stderr.fileno(), "wb", buffering=0, closefd=False)  # noqa: SIM115
        sys.stderr = _Stderr(raw, sys.stderr.encoding, "backslashreplace", write_through=True)


def was_closed(stream: object) -> bool:
    """Whether a stream was closed, so that /dev/null stands for it."""
    return stream is None or getattr(stream, "name", None) == os.devnull


def _is_open(number: int) -> bool:
    """Whether a standard stream can be read, or written."""
    try:
        os.read(number, 0) if number == 0 else os.write(number, b"")
    except OSError as error:
        return error.errno != errno.EBADF
    return True
