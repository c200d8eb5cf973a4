"""A call for worker processes, in a module of its own: each of them imports it, and pytest takes long."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

from qtool.errors import DataError, RuntimeFailure
from qtool.runtime.heartbeat import step

Progress = Callable[[str, int, int], None]


def work(what: str, folder: Path, shared: list[int], progress: Progress) -> int:
    """Add up a shared list, or end in some other way."""
    progress("work", 1, 1)
    mark = folder / what
    if what == "killed once" and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "crash":
        with step("m.onnx", "onnxruntime runs it", RuntimeFailure):
            os.kill(os.getpid(), signal.SIGSEGV)
    if what == "error":
        raise DataError("no samples", "add some")
    return sum(shared)
