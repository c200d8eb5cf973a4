"""Run a command in a child process, so that a crash, a hang or a lack of memory ends in one clear error.

Models and samples come from other people, and the native libraries that open them can crash, hang or use all
memory. The process that the user started forks before it imports any of them, which costs a millisecond. It
enforces the time limit and cleans up after a crash. Without fork (Windows) there is no guard.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import select
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from qtool.errors import (
    EXIT_INTERRUPTED,
    DataError,
    EnvironmentFailure,
    ModelError,
    QtoolError,
    RuntimeFailure,
    UsageError,
)
from qtool.runtime import heartbeat
from qtool.runtime.tempdirs import sweep, temporary

HERE = hasattr(os, "fork")
# Signals that request an end.
END_SIGNALS = {getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, n)}
SECONDS = 60
SECONDS_A_GB = 60
_SHARE_OF_MEMORY = 0.9
_MORE_MEMORY = "a larger --memory-limit, or a machine with more"
_GRACE = 2.0  # seconds between SIGTERM and SIGKILL
_LOOK = 0.25  # seconds between reads of the page

# For files that stay after the work; its own temporary folder is removed.
OUTSIDE = tempfile.gettempdir()
_ERRORS: dict[int, type[QtoolError]] = {
    e.exit_code: e
    for e in (QtoolError, ModelError, DataError, EnvironmentFailure, RuntimeFailure, UsageError)
}


@dataclass(frozen=True)
class Limits:
    """Limits of the work; 0 is no limit.

    Args:
        seconds: of one step (a check, an inference); None: SECONDS, and SECONDS_A_GB more per GB of model.
        memory: bytes that it may allocate; None: 90% of the machine's or container's.
    """

    seconds: float | None = None
    memory: int | None = None

    def patience(self, model_bytes: int) -> float:
        """Return the seconds without a heartbeat after which the work is ended."""
        if self.seconds is None:
            return SECONDS + SECONDS_A_GB * model_bytes / 1e9
        return self.seconds or float("inf")


def guarded(work: Callable[[], int], limits: Limits) -> int:
    """Run the work in a child process. Return its result in the child, and the child's exit code here.

    Both processes return to the caller; errors of the work are raised in the child.

    Args:
        work: a function that returns an exit code.
        limits: of the child.

    Raises:
        QtoolError: the child crashed, hung, or was killed; it names the step.
        KeyboardInterrupt: a signal requested the end.
    """
    if not HERE:
        return work()
    for stream in filter(None, (sys.stdout, sys.stderr)):
        stream.flush()
    with _scratch() as folder, contextlib.closing(mmap.mmap(-1, heartbeat.PAGE_BYTES)) as page:
        alive, theirs = os.pipe()  # a process's end of a pipe closes when it dies
        parent, ours = os.pipe()
        signal.pthread_sigmask(signal.SIG_BLOCK, END_SIGNALS)  # until both processes handle them
        try:
            pid = os.fork()
        except OSError as error:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, END_SIGNALS)
            raise EnvironmentFailure(f"can't start a process: {error.strerror}") from error
        if pid == 0:
            os.close(alive)
            os.close(ours)
            try:
                _become_child(page, folder, parent, limits)
                return work()
            except KeyboardInterrupt:  # the parent requested it, and reports why
                raise SystemExit(EXIT_INTERRUPTED) from None
            finally:
                heartbeat.end()
        os.close(theirs)
        os.close(parent)
        try:
            status = _watch(pid, alive, page, limits)
        finally:
            os.close(alive)
            os.close(ours)
            _sweep(page)
        snapshot = heartbeat.read(page)
        if os.WIFSIGNALED(status):
            raise _died(os.WTERMSIG(status), snapshot.step)
        if not snapshot.ended:
            raise _gave_up(snapshot.step)
        if os.WEXITSTATUS(status) == EXIT_INTERRUPTED:
            raise KeyboardInterrupt
        return os.WEXITSTATUS(status)


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    """Yield a folder for the temporary files of the work; after a kill the next run removes it."""
    with contextlib.ExitStack() as stack:
        try:
            outside = Path(tempfile.gettempdir())
            sweep(outside)
            folder = stack.enter_context(temporary(outside))
        except OSError as error:
            raise EnvironmentFailure(f"no temporary folder: {error.strerror}", "set TMPDIR") from error
        yield folder


def _become_child(page: mmap.mmap, folder: Path, parent: int, limits: Limits) -> None:
    """Set up the child process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches both; the parent passes it on
    tempfile.tempdir = str(folder)
    heartbeat.show_on(page)
    _limit_memory(limits)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, END_SIGNALS)


def _end_with(parent: int) -> None:
    """End this process when the parent ends: by SIGTERM, then by force."""
    os.read(parent, 1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE)
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
    """Return the bytes of memory of this machine or container."""
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # not there, or 'max'
            sizes.append(int(Path("/sys/fs/cgroup", name).read_text()))
    return min(sizes)


def _watch(pid: int, alive: int, page: mmap.mmap, limits: Limits) -> int:
    """Return the child's status when it ends; end it on a signal, or without a heartbeat for too long."""
    beats, quiet, last = -1, 0.0, time.monotonic()
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, END_SIGNALS)
        while not select.select([alive], [], [], _LOOK)[0]:
            snapshot, now = heartbeat.read(page), time.monotonic()
            # After a long look both processes were stopped (Ctrl-Z): that time does not count.
            quiet = quiet + min(now - last, 2 * _LOOK) if snapshot.beats == beats else 0.0
            beats, last, most = snapshot.beats, now, limits.patience(snapshot.model_bytes)
            if quiet > most:
                _end(pid, alive)
                raise _too_long(most, snapshot.step)
        return os.waitpid(pid, 0)[1]
    except KeyboardInterrupt:
        status = _end(pid, alive)
        if os.WIFEXITED(status):
            return status
        raise


def _end(pid: int, alive: int) -> int:
    """End the child, by SIGTERM so that it can clean up, then by force."""
    for number in END_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    os.kill(pid, signal.SIGTERM)
    if not select.select([alive], [], [], _GRACE)[0]:
        os.kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]


def _sweep(page: mmap.mmap) -> None:
    """Remove temporary files that a killed child has left beside its output."""
    for folder in heartbeat.read(page).folders:
        sweep(Path(folder))


def _too_long(seconds: float, step: heartbeat.Step | None) -> QtoolError:
    if step is None:
        return EnvironmentFailure(f"no sign of life for {seconds:.6g} s", "--time-limit SECONDS for more")
    return _ERRORS[step.blame](
        f"{step.subject}: no end after {seconds:.6g} s: {step.doing}",
        "a hostile or very slow model? --time-limit SECONDS for more",
    )


def _died(number: int, step: heartbeat.Step | None) -> QtoolError:
    if number == signal.SIGKILL:
        return EnvironmentFailure(f"killed by the system{_while(step)}: out of memory?", _MORE_MEMORY)
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    if step is None:
        return QtoolError(f"qtool crashed ({name})", "please report it")
    return _ERRORS[step.blame](
        f"{step.subject}: a native library crashed ({name}): {step.doing}", "is it damaged, or hostile?"
    )


def _gave_up(step: heartbeat.Step | None) -> QtoolError:
    """A library ended the process by itself, as OpenBLAS does without memory."""
    return EnvironmentFailure(f"a native library gave up{_while(step)}: out of memory?", _MORE_MEMORY)


def _while(step: heartbeat.Step | None) -> str:
    return f" ({step.subject}: {step.doing})" if step else ""
