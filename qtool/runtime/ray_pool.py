"""A pool of workers on a Ray cluster. Ray is imported here alone, when a pool is opened.

Ray runs a call again when its worker or machine dies, and copies a shared value to each machine once. Files
are read by their paths: each machine sees the folder of the command, and what it reads and writes.
"""

from __future__ import annotations

import mmap
import os
import platform
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import ray

from qtool import __version__
from qtool.errors import EnvironmentFailure, RuntimeFailure, printable
from qtool.runtime import heartbeat
from qtool.runtime.deaths import Limits, dead, limits_here
from qtool.runtime.heartbeat import StepProgress, no_progress
from qtool.runtime.library import RUNTIME_VERSION
from qtool.runtime.pool import RETRIES, Answer, Call, Outcome, Sums, answer_of, error_of, error_to_send
from qtool.runtime.tempdirs import sweep, temporary
from qtool.runtime.watchdog import LOOK, Watchdog, thread_seconds

T = TypeVar("T")

_PATIENCE = 10.0  # seconds until an address does not answer


class RayPool:
    """A pool on a cluster that runs already.

    Args:
        address: host:port, ray://host:port, or auto: the cluster of this machine.
        jobs: the most calls at a time; 0: a call for each CPU of the cluster.

    Raises:
        EnvironmentFailure: there is no such cluster.
    """

    local = False

    def __init__(self, address: str, jobs: int) -> None:
        ours = signal.getsignal(signal.SIGTERM)
        self._started = not ray.is_initialized()
        try:
            if self._started:
                _check_answers(address)
                ray.init(address, log_to_driver=False, logging_level="ERROR")
        except Exception as error:  # ConnectionError, ValueError, RuntimeError
            message = f"no Ray cluster at '{printable(address)}': {printable(str(error), 120)}"
            raise EnvironmentFailure(message, "start one: ray start --head; or name its HOST:PORT") from error
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, ours)  # Ray has put its own in place
        self.jobs = jobs or max(int(ray.cluster_resources().get("CPU", 1)), 1)
        self._board: Any = ray.remote(num_cpus=0)(_Board).remote()

    def share(self, value: Any) -> Any:
        """Return a reference to a value in the cluster's memory, which Ray copies to each machine once."""
        return ray.put(value)

    def outcomes(
        self, function: Callable[..., T], calls: Sequence[Call], progress: StepProgress = no_progress
    ) -> Generator[tuple[int, Outcome[T]], None, None]:
        """Yield the number of each call with its result or error, as they end; see `Pool`."""
        sums = Sums(len(calls), progress)
        task = ray.remote(num_cpus=1, max_retries=RETRIES)(_run)
        place = _Place(os.getcwd(), _versions(), limits_here())  # noqa: PTH109 - as it was named
        waiting = list(enumerate(calls))[::-1]
        busy: dict[Any, int] = {}
        try:
            while waiting or busy:
                while waiting and len(busy) < self.jobs:
                    number, arguments = waiting.pop()
                    busy[task.remote(place, self._board, number, function, *arguments)] = number
                ready, _ = ray.wait(list(busy), timeout=LOOK)
                heartbeat.beat()  # the watchdogs of the workers look after the rest
                counts, deaths = ray.get(self._board.read.remote())
                for number, (done, total) in counts.items():
                    sums.put(number, done, total)
                for reference in [r for r, number in busy.items() if number in deaths and r not in ready]:
                    number = busy.pop(reference)
                    ray.cancel(reference, force=True)
                    yield number, error_of(*deaths[number])
                for reference in ready:
                    yield busy.pop(reference), _outcome(reference)
        finally:
            for reference in busy:
                ray.cancel(reference, force=True)

    def close(self) -> None:
        """Leave the cluster."""
        ray.kill(self._board)
        if self._started:
            ray.shutdown()


def _outcome(reference: Any) -> Any:
    """Return the result of a task, or the error of its worker."""
    try:
        kind, content = ray.get(reference)
    except ray.exceptions.OutOfMemoryError as error:
        return EnvironmentFailure(
            f"a Ray worker: out of memory: {printable(str(error), 120)}", "-j N with fewer at a time"
        )
    except ray.exceptions.RayError as error:
        text = printable(str(error), 200)
        if "No module named 'qtool" in str(error):
            return EnvironmentFailure(
                f"a Ray worker has no qtool: {text}", f"install qtool {__version__} on each machine"
            )
        return RuntimeFailure(f"a Ray worker died, {RETRIES + 1} times: {text}")
    if kind == "bug":
        raise RuntimeError(content)
    return error_of(*content) if kind == "error" else content


def _check_answers(address: str) -> None:
    """Refuse an address at which nothing answers: Ray itself tries for minutes.

    Raises:
        OSError, ValueError: it is no HOST:PORT, or nothing answers there.
    """
    if address != "auto":
        host, _, port = address.removeprefix("ray://").rpartition(":")
        socket.create_connection((host, int(port)), _PATIENCE).close()


class _Place:
    """All that a worker needs to know of the command.

    Args:
        folder: its current folder.
        versions: of packages.
        limits: of a call.
    """

    def __init__(self, folder: str, versions: Mapping[str, str], limits: Limits) -> None:
        self.folder, self.versions, self.limits = folder, versions, limits


class _Board:
    """An actor that workers write their progress and their deaths on."""

    def __init__(self) -> None:
        self._counts: dict[int, tuple[int, int]] = {}
        self._deaths: dict[int, tuple[str, str, str]] = {}

    def put(self, number: int, done: int, total: int) -> None:
        self._counts[number] = done, total

    def bury(self, number: int, error: tuple[str, str, str]) -> None:
        self._deaths[number] = error

    def read(self) -> tuple[dict[int, tuple[int, int]], dict[int, tuple[str, str, str]]]:
        """Return what has been written since the last time."""
        news = self._counts, self._deaths
        self._counts, self._deaths = {}, {}
        return news


def _versions() -> dict[str, str]:
    """Return the versions that decide the bytes of a result."""
    own = {"qtool": __version__, "onnxruntime": RUNTIME_VERSION}
    return {**own, **{name: version(name) for name in ("onnx", "numpy")}}


def _run(place: _Place, board: Any, number: int, function: Callable[..., Any], *arguments: Any) -> Answer:
    """Run a call in a worker of Ray."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

    def progress(stage: str, done: int, total: int) -> None:
        heartbeat.stage(stage)
        if total:
            board.put.remote(number, done, total)

    def work(*own: Any, progress: Any) -> Any:
        _settle(place)
        return function(*own, progress=progress)

    outside = Path(tempfile.gettempdir())
    sweep(outside)
    over = threading.Event()
    page = mmap.mmap(-1, heartbeat.PAGE_BYTES)
    heartbeat.show_on(page)
    threading.Thread(target=_watch, args=(page, place.limits, over, board, number), daemon=True).start()
    with temporary(outside) as folder:
        tempfile.tempdir = str(folder)
        try:
            return answer_of(work, arguments, progress)
        finally:
            tempfile.tempdir = str(outside)
            over.set()


def _settle(place: _Place) -> None:
    """Go to the folder of the command.

    Raises:
        EnvironmentFailure: this machine has none, or other versions.
    """
    for name, wanted in place.versions.items():
        if (own := _versions()[name]) != wanted:
            raise EnvironmentFailure(
                f"Ray worker on {platform.node()}: {name} {own}, and not {wanted} as here",
                "install the same versions on each machine",
            )
    try:
        os.chdir(place.folder)
    except OSError as error:
        raise EnvironmentFailure(
            f"Ray worker on {platform.node()}: no folder '{place.folder}': {error.strerror}",
            "run the command in a folder that each machine sees",
        ) from error


def _watch(page: mmap.mmap, limits: Limits, over: threading.Event, board: Any, number: int) -> None:
    """Report this process as dead when it no longer gives heartbeats: the command then ends it by force."""
    dog = Watchdog()
    while not over.wait(LOOK):
        snapshot = heartbeat.read(page)
        death = dog.look(snapshot.beats, thread_seconds(os.getpid()), limits.patience(snapshot.model_bytes))
        if death is not None:
            board.bury.remote(number, error_to_send(dead(death, snapshot, limits)))
            return
