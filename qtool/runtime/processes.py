"""A pool of worker processes on this machine, each held to the limits of the guard; all end with this."""

from __future__ import annotations

import contextlib
import mmap
import multiprocessing
import os
import signal
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

from qtool import errors
from qtool.errors import EnvironmentFailure
from qtool.runtime import heartbeat
from qtool.runtime.deaths import dead, died, gave_up, limits_here
from qtool.runtime.heartbeat import StepProgress, no_progress
from qtool.runtime.pool import RETRIES, Call, Outcome, Shared, Sums, answer_of, error_of
from qtool.runtime.tempdirs import sweep, temporary
from qtool.runtime.watchdog import LOOK, Watchdog, thread_seconds

T = TypeVar("T")

_KILLS = (signal.SIGKILL, signal.SIGTERM)


class Processes:
    """A pool of processes, which start with the first calls.

    Args:
        jobs: the most of them.
    """

    local = True

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs
        self._idle: list[_Worker] = []
        self._shared: dict[int, Any] = {}

    def share(self, value: Any) -> Shared:
        """Return a handle: each worker gets the value before its first call from now on."""
        handle = Shared(len(self._shared))
        self._shared[handle.key] = value
        return handle

    def outcomes(
        self, function: Callable[..., T], calls: Sequence[Call], progress: StepProgress = no_progress
    ) -> Generator[tuple[int, Outcome[T]], None, None]:
        """Yield the number of each call with its result or error, as they end; see `Pool`."""
        sums = Sums(len(calls), progress)
        waiting = deque((number, RETRIES) for number in range(len(calls)))
        busy: dict[_Worker, tuple[int, int]] = {}
        try:
            while waiting or busy:
                while waiting and len(busy) < self.jobs:
                    number, retries = waiting.popleft()
                    worker = self._idle.pop() if self._idle else _Worker()
                    busy[worker] = number, retries
                    worker.begin(function, calls[number], self._shared)
                ready = wait([worker.end for worker in busy], LOOK)
                heartbeat.beat()  # the watchdogs of the workers look after the rest
                for worker, (number, retries) in list(busy.items()):
                    kind, content = worker.receive() if worker.end in ready else worker.look()
                    if kind == "progress":
                        sums.put(number, *content)
                        continue
                    if not kind:
                        continue
                    del busy[worker]
                    if kind in ("killed", "dead"):
                        worker.close()
                        if kind == "killed" and retries:
                            waiting.appendleft((number, retries - 1))
                            continue
                        yield number, content
                        continue
                    self._idle.append(worker)
                    if kind == "bug":
                        raise RuntimeError(content)
                    yield number, error_of(*content) if kind == "error" else content
        finally:
            for worker in busy:
                worker.close()

    def close(self) -> None:
        """End the processes."""
        for worker in self._idle:
            worker.close()
        self._idle.clear()


class _Worker:
    """One process, and the page of its heartbeats.

    Raises:
        EnvironmentFailure: no process can be started.
    """

    def __init__(self) -> None:
        # Not forked: a runtime with threads of its own does not survive that.
        context = multiprocessing.get_context("spawn")
        self._sent: set[int] = set()
        self._dog = Watchdog()
        self._files = contextlib.ExitStack()  # its temporary files
        try:
            folder = self._files.enter_context(temporary(Path(tempfile.gettempdir())))
            page = folder / "page"
            page.write_bytes(bytes(heartbeat.PAGE_BYTES))
            self._page = self._files.enter_context(_mapped(page))
            self.end, theirs = context.Pipe()
            self._process: BaseProcess = context.Process(target=_work, args=(theirs, page), daemon=True)
            self._process.start()
            theirs.close()
        except OSError as error:
            raise EnvironmentFailure(f"can't start a process: {error.strerror}") from error

    def begin(self, function: Callable[..., Any], arguments: Call, shared: dict[int, Any]) -> None:
        """Send a call, and shared values that the process lacks."""
        fresh = {key: value for key, value in shared.items() if key not in self._sent}
        self._sent |= fresh.keys()
        with contextlib.suppress(OSError):  # a process that has died is reported when its answer is missing
            self.end.send((fresh, function, arguments))

    def receive(self) -> tuple[str, Any]:
        """Return the kind and the content of the next message, or the death of the process."""
        try:
            kind, content = self.end.recv()
            return kind, content
        except (EOFError, OSError):
            self._process.join()
        snapshot, limits = heartbeat.read(self._page), limits_here()
        code = self._process.exitcode or 0
        if code >= 0:
            return "dead", gave_up(snapshot)
        return "killed" if -code in _KILLS else "dead", died(-code, snapshot, limits)

    def look(self) -> tuple[str, Any]:
        """Return the death of a process that no longer gives heartbeats; ('', None) while it does."""
        snapshot, limits = heartbeat.read(self._page), limits_here()
        threads = thread_seconds(self._process.pid or 0)
        death = self._dog.look(snapshot.beats, threads, limits.patience(snapshot.model_bytes))
        return ("", None) if death is None else ("dead", dead(death, snapshot, limits))

    def close(self) -> None:
        """End the process, and remove its temporary files."""
        self._process.kill()
        self._process.join()
        self.end.close()
        for folder in heartbeat.read(self._page).folders:
            sweep(Path(folder))
        self._files.close()


def _mapped(page: Path) -> mmap.mmap:
    with page.open("r+b") as file:
        return mmap.mmap(file.fileno(), heartbeat.PAGE_BYTES)


def _work(end: Connection, page: Path) -> None:
    """Run calls in a worker process until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent ends the others
    threading.Thread(target=_end_with_parent, daemon=True).start()
    tempfile.tempdir = str(page.parent)
    heartbeat.show_on(_mapped(page))
    heartbeat.beat_on_imports()
    values: dict[int, Any] = {}

    def progress(stage: str, done: int, total: int) -> None:
        heartbeat.stage(stage)
        end.send(("progress", (done, total)))

    while True:
        try:
            fresh, function, arguments = end.recv()
        except EOFError:
            return
        values |= fresh
        own = [values[a.key] if isinstance(a, Shared) else a for a in arguments]
        end.send(answer_of(function, own, progress))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(errors.EXIT_INTERRUPTED)
