"""An object in a clean process of its own, whose methods are called from this one.

What it is asked and what it answers is JSON, a line each. Nothing of the program that starts it comes along,
nor its `__main__`: a script may do this without a guard. It ends with this process, however that does.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import IO, Any, cast

from qtool.errors import EXIT_INTERRUPTED, EnvironmentFailure, QtoolError, RuntimeFailure
from qtool.runtime.heartbeat import beat, step
from qtool.runtime.worker_pool import cause_of_death, error_of

# -P: nothing is imported from the current folder.
_PYTHON = ("-P", "-W", "ignore", "-c")
_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from qtool.runtime.worker_process import serve; serve(sys.argv[2])"
)


class WorkerProcess:
    """The process, and the object in it.

    Args:
        subject: what it is about, for errors: a model.
        factory: what makes the object, as 'module:name'.
        arguments: for that, of JSON's types.

    Raises:
        EnvironmentFailure: no process can be started. What making the object raises, its first call does.
    """

    def __init__(self, subject: str, factory: str, *arguments: Any) -> None:
        self._subject = subject
        command = [sys.executable, *_PYTHON, _START, json.dumps(sys.path), factory]
        try:
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            self._requests, self._answers = (
                cast(IO[bytes], s) for s in (self._process.stdin, self._process.stdout)
            )
        except OSError as error:
            raise EnvironmentFailure(f"can't start a process: {error.strerror}") from error
        self._ask("", arguments)
        self._starting = True

    def call(
        self,
        method: str,
        *arguments: Any,
        doing: str = "onnxruntime runs it",
        blame: type[QtoolError] = RuntimeFailure,
    ) -> Any:
        """What a method of the object returns.

        Args:
            method: its name.
            arguments: of JSON's types.
            doing: for the error, if the process dies or hangs of it.
            blame: its kind.

        Raises:
            QtoolError: what the method raised, or that the process died.
        """
        with step(self._subject, doing, blame):
            if self._starting:
                self._answer("a process is started for it", EnvironmentFailure)
                self._starting = False
            self._ask(method, arguments)
            return self._answer(doing, blame)

    def _ask(self, method: str, arguments: Sequence[Any]) -> None:
        with contextlib.suppress(BrokenPipeError):  # that it is dead is seen when it does not answer
            self._requests.write(json.dumps([method, arguments]).encode() + b"\n")
            self._requests.flush()

    def _answer(self, doing: str, blame: type[QtoolError]) -> Any:
        line = self._answers.readline()
        beat()
        if not line.endswith(b"\n"):
            raise self._death(doing, blame)
        kind, content = json.loads(line)
        if kind == "error":
            raise error_of(*content)
        if kind == "bug":
            raise RuntimeError(content)
        return content

    def _death(self, doing: str, blame: type[QtoolError]) -> QtoolError:
        code = self._process.wait()
        if code == -signal.SIGKILL:
            message = f"{self._subject}: its process was killed by the system ({doing}): out of memory?"
            return EnvironmentFailure(message, "a machine with more")
        how = cause_of_death(code)
        return blame(f"{self._subject}: its process died ({how}): {doing}", "is it damaged, or hostile?")

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for stream in (self._requests, self._answers):
            with contextlib.suppress(OSError):  # what was not written is for nobody
                stream.close()


def serve(factory: str) -> None:
    """What the process does: answer, until nobody asks any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; whoever started this ends it
    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a native library may print what it likes
    threading.Thread(target=_listen, args=(sys.stdin.buffer, requests), daemon=True).start()
    module, _, name = factory.partition(":")
    _, arguments = json.loads(requests.get())
    made: list[Any] = []
    _answer(answers, lambda: made.append(getattr(import_module(module), name)(*arguments)))
    while made:
        method, arguments = json.loads(requests.get())
        _answer(answers, lambda: getattr(made[0], method)(*arguments))  # noqa: B023 - called at once


def _listen(asked: IO[bytes], requests: queue.SimpleQueue[bytes]) -> None:
    for line in asked:
        requests.put(line)
    os._exit(EXIT_INTERRUPTED)


def _answer(answers: IO[bytes], work: Any) -> None:
    try:
        answer: tuple[str, Any] = ("result", work())
    except QtoolError as error:
        answer = ("error", (type(error).__name__, error.message, error.hint))
    except MemoryError:
        answer = ("error", ("EnvironmentFailure", "out of memory", "a machine with more"))
    except Exception:
        answer = ("bug", traceback.format_exc())
    answers.write(json.dumps(answer).encode() + b"\n")
    answers.flush()
