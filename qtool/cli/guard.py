"""The work is done in a process of its own, so that whatever becomes of it ends in an error that says so.

Models and samples come from other people, and the native libraries that open them can crash, hang or eat all
memory. The process that the user started forks before any of them is imported, which costs a millisecond,
and looks on: it enforces the time limit, and cleans up after a death. Without fork (Windows) there
is no guard.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import select
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from qtool import steps
from qtool.errors import (
    EXIT_INTERRUPTED,
    DataError,
    EnvironmentFailure,
    ModelError,
    QtoolError,
    RuntimeFailure,
    UsageError,
)
from qtool.graph.abandoned import sweep

HERE = hasattr(os, "fork")
SECONDS = 60
SECONDS_A_GB = 60
_SHARE_OF_MEMORY = 0.9
_MORE_MEMORY = "a larger --memory-limit, or a machine with more"
_GRACE = 2.0  # seconds between SIGTERM and SIGKILL
_LOOK = 0.25  # seconds between looks at the page

# Where files go that outlast the work: its own temporary folder vanishes with it.
OUTSIDE = tempfile.gettempdir()
_ERRORS: dict[int, type[QtoolError]] = {
    e.exit_code: e
    for e in (QtoolError, ModelError, DataError, EnvironmentFailure, RuntimeFailure, UsageError)
}


@dataclass(frozen=True)
class Limits:
    """What the work may take; 0 is no limit.

    Args:
        seconds: of one step (a check, an inference); None: SECONDS, and SECONDS_A_GB more per GB of model.
        memory: bytes that it may allocate; None: most of what the machine, or the container, has.
    """

    seconds: float | None = None
    memory: int | None = None

    def patience(self, model_bytes: int) -> float:
        """Seconds without a sign of life that are still fine."""
        if self.seconds is None:
            return SECONDS + SECONDS_A_GB * model_bytes / 1e9
        return self.seconds or float("inf")


def guarded(work: Callable[[], int], limits: Limits) -> int:
    """Do the work in a child process: in the child, return what it returns; here, the child's exit code.

    Both processes go on from here: the child, too, unwinds the caller's stack, with the errors of the work.

    Args:
        work: what to do.
        limits: what it may take.

    Raises:
        QtoolError: the child crashed, hung, or was killed; it says what the child was at.
        KeyboardInterrupt: asked to stop.
    """
    if not HERE:
        return work()
    for stream in filter(None, (sys.stdout, sys.stderr)):
        stream.flush()
    with _scratch() as folder, contextlib.closing(mmap.mmap(-1, steps.PAGE_BYTES)) as page:
        alive, theirs = os.pipe()  # each end of a pipe tells the death of whoever holds the other
        parent, ours = os.pipe()
        try:
            pid = os.fork()
        except OSError as error:
            raise EnvironmentFailure(f"can't start a process: {error.strerror}") from error
        if pid == 0:
            os.close(alive)
            os.close(ours)
            _become_child(page, folder, parent, limits)
            try:
                return work()
            finally:
                steps.end()
        os.close(theirs)
        os.close(parent)
        try:
            status = _watch(pid, alive, page, limits)
        finally:
            os.close(alive)
            os.close(ours)
            _sweep(page)
        seen = steps.seen(page)
        if os.WIFSIGNALED(status):
            raise _died(signal.Signals(os.WTERMSIG(status)), seen.step)
        if not seen.ended:
            raise _gave_up(seen.step)
        return os.WEXITSTATUS(status)


@contextlib.contextmanager
def _scratch() -> Iterator[str]:
    """A folder for all temporary files of the work, which goes with it however it ends."""
    try:
        folder = tempfile.mkdtemp(prefix="qtool-")
    except OSError as error:
        raise EnvironmentFailure(f"no temporary folder: {error.strerror}", "set TMPDIR") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _become_child(page: mmap.mmap, folder: str, parent: int, limits: Limits) -> None:
    """What the child does before its work."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches both; the parent passes it on, once
    tempfile.tempdir = folder
    steps.show_on(page)
    _limit_memory(limits)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """Die when the parent does, however it does."""
    os.read(parent, 1)
    os._exit(EXIT_INTERRUPTED)


def _limit_memory(limits: Limits) -> None:
    """Refuse allocations beyond the limit; leave no core file of whatever happens then."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    most = int(memory_here() * _SHARE_OF_MEMORY) if limits.memory is None else limits.memory
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    if most and (hard == resource.RLIM_INFINITY or most < hard):
        resource.setrlimit(resource.RLIMIT_DATA, (most, hard))


def memory_here() -> int:
    """Bytes of memory of this machine, or of the container that it pretends to be."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # not there, or 'max'
            found.append(int(Path("/sys/fs/cgroup", name).read_text()))
    return min(found)


def _watch(pid: int, alive: int, page: mmap.mmap, limits: Limits) -> int:
    """The child's status when it ends; end it when it says nothing for too long, or when asked to."""
    beats, since = -1, time.monotonic()
    try:
        while not select.select([alive], [], [], _LOOK)[0]:
            seen = steps.seen(page)
            if seen.beats != beats:
                beats, since = seen.beats, time.monotonic()
            waited, most = time.monotonic() - since, limits.patience(seen.model_bytes)
            if waited > most:
                _end(pid, alive)
                raise _too_long(most, seen.step)
        return os.waitpid(pid, 0)[1]
    except KeyboardInterrupt:
        status = _end(pid, alive)
        if os.WIFEXITED(status):
            return status  # it has said what there is to say
        raise


def _end(pid: int, alive: int) -> int:
    """End the child: asked first, so that it can tidy up, then by force."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.kill(pid, signal.SIGTERM)
    if not select.select([alive], [], [], _GRACE)[0]:
        os.kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]


def _sweep(page: mmap.mmap) -> None:
    """Remove what a child that ended by force has left beside its output; nothing, where it ended well."""
    for folder in steps.seen(page).folders:
        sweep(Path(folder))


def _too_long(seconds: float, step: steps.Step | None) -> QtoolError:
    if step is None:
        return EnvironmentFailure(f"no sign of life for {seconds:.0f} s", "--time-limit SECONDS for more")
    return _ERRORS[step.blame](
        f"{step.subject}: no end after {seconds:.0f} s: {step.doing}",
        "a hostile or very slow model? --time-limit SECONDS for more",
    )


def _died(number: signal.Signals, step: steps.Step | None) -> QtoolError:
    if number is signal.SIGKILL:
        return EnvironmentFailure(f"killed by the system{_while(step)}: out of memory?", _MORE_MEMORY)
    if step is None:
        return QtoolError(f"qtool crashed ({number.name})", "please report it")
    return _ERRORS[step.blame](
        f"{step.subject}: a native library crashed ({number.name}): {step.doing}",
        "is it damaged, or hostile?",
    )


def _gave_up(step: steps.Step | None) -> QtoolError:
    """A library ended the process by itself, as OpenBLAS does without memory."""
    return EnvironmentFailure(f"a native library gave up{_while(step)}: out of memory?", _MORE_MEMORY)


def _while(step: steps.Step | None) -> str:
    return f" ({step.subject}: {step.doing})" if step else ""
