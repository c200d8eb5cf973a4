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
from pathlib import Path

from qtool.errors import EXIT_INTERRUPTED, EnvironmentFailure
from qtool.runtime import heartbeat
from qtool.runtime.deaths import Limits, dead, died, gave_up, limit_steps
from qtool.runtime.tempdirs import sweep, temporary
from qtool.runtime.watchdog import LOOK, Watchdog, thread_seconds

HERE = hasattr(os, "fork")
# Signals that end a process, and that it can handle: all of them request an end.
END_SIGNALS = {
    getattr(signal, name)
    for name in "SIGINT SIGTERM SIGHUP SIGQUIT SIGUSR1 SIGUSR2 SIGALRM SIGVTALRM SIGPROF SIGXCPU".split()
    if hasattr(signal, name)
}
_SHARE_OF_MEMORY = 0.9
_GRACE = 2.0  # seconds between SIGTERM and SIGKILL


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
            raise died(os.WTERMSIG(status), snapshot, limits)
        if not snapshot.ended:
            raise gave_up(snapshot)
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
            hint = "set TMPDIR to a folder that can be written and has room"
            raise EnvironmentFailure(f"no temporary folder: {error.strerror}", hint) from error
        yield folder


def _become_child(page: mmap.mmap, folder: Path, parent: int, limits: Limits) -> None:
    """Set up the child process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches both; the parent passes it on
    tempfile.tempdir = str(folder)
    heartbeat.show_on(page)
    heartbeat.beat_on_imports()
    _limit_memory(limits)
    limit_steps(limits)
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
    """Return the child's status when it ends; end it on a signal, or when it is dead."""
    dog = Watchdog()
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, END_SIGNALS)
        while not select.select([alive], [], [], LOOK)[0]:
            snapshot = heartbeat.read(page)
            death = dog.look(snapshot.beats, thread_seconds(pid), limits.patience(snapshot.model_bytes))
            if death is not None:
                _end(pid, alive)
                raise dead(death, snapshot, limits)
        ignore_signals()  # the work is over, and a child can be waited for only once
        return os.waitpid(pid, 0)[1]
    except KeyboardInterrupt:
        status = _end(pid, alive)
        if os.WIFEXITED(status):
            return status
        raise


def _end(pid: int, alive: int) -> int:
    """End the child, by SIGTERM so that it can clean up, then by force."""
    ignore_signals()
    os.kill(pid, signal.SIGTERM)
    if not select.select([alive], [], [], _GRACE)[0]:
        os.kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]


def ignore_signals() -> None:
    """Ignore further requests to end: one is enough.

    Not by SIG_IGN, about which Python complains where one has arrived and is not handled yet.
    """
    for number in END_SIGNALS:
        signal.signal(number, ignored)


def ignored(number: int, frame: object) -> None:
    """Do nothing: the handler of a signal that is ignored."""


def _sweep(page: mmap.mmap) -> None:
    """Remove temporary files that a killed child has left beside its output."""
    for folder in heartbeat.read(page).folders:
        sweep(Path(folder))
