"""Run a function in several processes, with joint progress; the processes end with this one."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from qtool import errors
from qtool.errors import QtoolError, RuntimeFailure
from qtool.runtime.heartbeat import beat

T = TypeVar("T")


def in_processes(
    function: Callable[..., T], calls: Sequence[tuple[Any, ...]], progress: Callable[[int, int], None]
) -> list[T]:
    """Return the function's results for all calls, in order, each from a process of its own.

    Args:
        function: of a module; it is called with one more argument, a function of (stage, done, total).
        calls: the arguments, which can be pickled.
        progress: called with what all of them have done, of how much.

    Raises:
        QtoolError: the first one that any of them raised; a process that dies is a RuntimeFailure.
    """
    # Not forked: a runtime with threads of its own does not survive that.
    context = multiprocessing.get_context("spawn")
    done = [(0, 0)] * len(calls)
    results: dict[int, T] = {}
    processes: list[BaseProcess] = []
    ends: dict[Connection, int] = {}
    try:
        for number, arguments in enumerate(calls):
            ours, theirs = context.Pipe(duplex=False)
            process: BaseProcess = context.Process(
                target=_work, args=(theirs, function, arguments), daemon=True
            )
            process.start()
            theirs.close()
            processes.append(process)
            ends[ours] = number
        while ends:
            ready = wait(list(ends))
            for end, number in [(end, number) for end, number in ends.items() if end in ready]:
                try:
                    kind, content = end.recv()
                except EOFError:
                    raise RuntimeFailure(
                        _died(processes[number]), "fewer processes need less memory"
                    ) from None
                beat()
                if kind == "error":
                    raise error_of(*content)
                if kind == "result":
                    results[number] = content
                    del ends[end]
                else:
                    done[number] = content
                    progress(sum(d for d, _ in done), sum(t for _, t in done))
    finally:
        for process in processes:
            process.terminate()
            process.join()
    return [results[number] for number in range(len(calls))]


def _work(end: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """Run one call in its process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent ends the others
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        result = function(
            *arguments, progress=lambda stage, done, total: end.send(("progress", (done, total)))
        )
    except (QtoolError, MemoryError) as error:
        end.send(("error", error_to_send(error, "fewer processes need less")))
    else:
        end.send(("result", result))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(errors.EXIT_INTERRUPTED)


def error_to_send(error: QtoolError | MemoryError, memory_hint: str) -> tuple[str, str, str]:
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


def _died(process: BaseProcess) -> str:
    process.join()
    return f"one of the processes died ({cause_of_death(process.exitcode or 0)})"


def cause_of_death(code: int) -> str:
    """Return a process's cause of death: the signal of a negative exit code, or the exit code."""
    return signal.Signals(-code).name if -code in set(signal.Signals) else f"exit code {code}"
