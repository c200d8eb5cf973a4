"""One thread for numpy's matrix products, so that their results do not depend on the machine or the caller.

A BLAS cuts a product into as many parts as it has threads, and the sums of the parts differ in the last bit.
GPTQ and least squares carry such a bit on until a rounding turns over. On busy cores several threads also
wait for each other: GPTQ took 5 times as long with two.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np  # noqa: F401 - the limit holds for the libraries that are loaded by then
import threadpoolctl


class _Limit:
    """The limit of this process: the threads that are inside share it.

    The numpy wheels' BLAS has one pool a process. A limit that each thread sets and restores for itself would
    end with the first thread that leaves.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._first: Any = None

    def enter(self) -> None:
        with self._lock:
            # Not in the first alone: a BLAS on OpenMP has a limit for each thread.
            made = self._set()
            self._first = made if self._inside == 0 else self._first
            self._inside += 1

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                _take_control()
                self._first.restore_original_limits()
                _take_control()
                self._first = None

    def _set(self) -> Any:
        limits: Any = threadpoolctl.threadpool_limits
        _take_control()
        return limits(limits=1, user_api="blas")


def _take_control() -> None:
    """Let this thread set limits: threadpoolctl 3.8 obeys only the first thread that did."""
    controller: Any = getattr(threadpoolctl, "OpenBLASController", None)
    if hasattr(controller, "clear_controlling_thread"):
        controller.clear_controlling_thread(force=True)


_limit = _Limit()


@contextmanager
def single_threaded_blas() -> Iterator[None]:
    """Limit every BLAS of this process to one thread, as a context or as a decorator.

    It nests, and several threads may be inside at once: the first to enter sets the limit, and the last to
    leave restores what the caller had. onnxruntime has threads of its own, which it does not touch.
    """
    _limit.enter()
    try:
        yield
    finally:
        _limit.leave()
