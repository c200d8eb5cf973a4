"""Run a pure function many times, in worker processes here or on the machines of a Ray cluster.

Both pools do the same: a call runs whole in one worker, a killed worker's call runs again, and the results do
not depend on the workers.
"""

from __future__ import annotations

import contextlib
import os
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Protocol, TypeAlias, TypeVar

from qtool import errors
from qtool.errors import EnvironmentFailure, QtoolError
from qtool.runtime.heartbeat import StepProgress, no_progress

T = TypeVar("T")

RETRIES = 2
"""The most times that a call runs again because its worker was killed."""

Call = tuple[Any, ...]
Outcome: TypeAlias = "T | QtoolError"


Answer = tuple[str, Any]
"""The kind ('result', 'error', 'bug') and the content of what a worker sends back."""


class Pool(Protocol):
    """Workers that run calls.

    Args:
        jobs: the number of calls that run at a time.
        local: the workers are on this machine.
    """

    jobs: int
    local: bool

    def share(self, value: T) -> Any:
        """Return a handle that stands for a value in the arguments of calls: the value travels once.

        Args:
            value: that can be pickled.
        """
        ...

    def outcomes(
        self, function: Callable[..., T], calls: Sequence[Call], progress: StepProgress = no_progress
    ) -> Generator[tuple[int, Outcome[T]], None, None]:
        """Yield the number of each call with its result or error, as they end.

        Calls that still run when the iterator is closed are ended by force.

        Args:
            function: of a module; it is called with one more argument, `progress`: a function of (stage,
                done, total).
            calls: the arguments, which can be pickled, and handles of `share`.
            progress: called with the sum of what all calls have done, and of how much.
        """
        ...

    def close(self) -> None:
        """End the workers."""
        ...


def all_results(
    pool: Pool, function: Callable[..., T], calls: Sequence[Call], progress: StepProgress = no_progress
) -> list[T]:
    """Return the results of all calls, in order.

    Raises:
        QtoolError: the first one of any call; the others are ended.
    """
    results: dict[int, T] = {}
    with contextlib.closing(pool.outcomes(function, calls, progress)) as outcomes:
        for number, outcome in outcomes:
            if isinstance(outcome, QtoolError):
                raise outcome
            results[number] = outcome
    return [results[number] for number in range(len(calls))]


@contextlib.contextmanager
def opened(jobs: int, ray: str = "") -> Iterator[Pool]:
    """Open a pool: of processes on this machine, which end with it, or on a Ray cluster.

    Args:
        jobs: the number of calls at a time; 0: 1, or with Ray the CPUs of the cluster.
        ray: 'auto' or the address of a cluster; '': no Ray.

    Raises:
        EnvironmentFailure: Ray is not installed, or there is no such cluster.
    """
    pool = _ray_pool(ray, jobs) if ray else _processes(jobs)
    try:
        yield pool
    finally:
        pool.close()


def _processes(jobs: int) -> Pool:
    from qtool.runtime.processes import Processes

    return Processes(jobs or 1)


def _ray_pool(address: str, jobs: int) -> Pool:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # read when it is imported
    if find_spec("ray") is None:
        raise EnvironmentFailure("--ray needs Ray, which is not installed", "pip install 'ray>=2.50'")
    from qtool.runtime.ray_pool import RayPool

    return RayPool(address, jobs)


class Sums:
    """The progress of several calls as one.

    Args:
        calls: their number.
        progress: called with the sums.
    """

    def __init__(self, calls: int, progress: StepProgress) -> None:
        self._done = [(0, 0)] * calls
        self._progress = progress

    def put(self, number: int, done: int, total: int) -> None:
        """Note the progress of a call."""
        if self._done[number] != (done, total):
            self._done[number] = done, total
            self._progress(sum(d for d, _ in self._done), sum(t for _, t in self._done))


def answer_of(function: Callable[..., Any], arguments: Sequence[Any], progress: Any) -> Answer:
    """Run a call in a worker, and return what to send back."""
    try:
        return "result", function(*arguments, progress=progress)
    except (QtoolError, MemoryError) as error:
        return "error", error_to_send(error, "fewer processes need less")
    except Exception:  # a bug of qtool: the caller raises it, with this traceback
        return "bug", traceback.format_exc()


def error_to_send(error: QtoolError | MemoryError, memory_hint: str = "") -> tuple[str, str, str]:
    """Return an error in the form that `error_of` makes an error of in another process.

    Args:
        error: that ended the work.
        memory_hint: the hint where memory ran out.
    """
    if isinstance(error, MemoryError):
        return "EnvironmentFailure", "out of memory", memory_hint
    return type(error).__name__, error.message, error.hint


def error_of(name: str, message: str, hint: str) -> QtoolError:
    """Return the error that another process has sent."""
    kind: type[QtoolError] = getattr(errors, name)
    return kind(message, hint)


@dataclass(frozen=True)
class Shared:
    """The handle of a shared value in a worker process."""

    key: int
