"""An object in a new process, whose methods are called from this one.

Requests and answers are JSON, one per line. The process does not import the caller's `__main__`, so a script
needs no guard. It ends with this process.
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
from qtool.runtime.deaths import cause_of_death
from qtool.runtime.heartbeat import beat, step
from qtool.runtime.pool import error_of, error_to_send

# -P: nothing is imported from the current folder.
_PYTHON = ("-P", "-W", "ignore", "-c")
_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from qtool.runtime.worker_process import serve; serve(sys.argv[2])"
)


class WorkerProcess:
    """The process, and the object in it.

    Args:
        subject: the model, for messages.
        factory: of the object, as 'module:name'.
        arguments: of the factory, of JSON's types.

    Raises:
        EnvironmentFailure: no process can be started. Errors of the factory are raised by the first call.
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
        """Call a method of the object, and return its result.

        Args:
            method: its name.
            arguments: of JSON's types.
            doing: the step, for the message of a crash.
            blame: the error of a crash.

        Raises:
            QtoolError: an error of the method, or a crash of the process.
        """
        with step(self._subject, doing, blame):
            if self._starting:
                self._answer("a process is started for it", EnvironmentFailure)
                self._starting = False
            self._ask(method, arguments)
            return self._answer(doing, blame)

    def _ask(self, method: str, arguments: Sequence[Any]) -> None:
        with contextlib.suppress(BrokenPipeError):  # a dead process is reported when its answer is missing
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
        cause = cause_of_death(code)
        return blame(f"{self._subject}: its process died ({cause}): {doing}", "is it damaged, or hostile?")

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for stream in (self._requests, self._answers):
            with contextlib.suppress(OSError):  # unsent requests no longer matter
                stream.close()


def serve(factory: str) -> None:
    """Answer requests until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent ends this one
    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # native libraries print to stdout
    threading.Thread(target=_listen, args=(sys.stdin.buffer, requests), daemon=True).start()
    module, _, name = factory.partition(":")
    _, arguments = json.loads(requests.get())
    made: list[Any] = []
    _answer(answers, lambda: made.append(getattr(import_module(module), name)(*arguments)))
    while made:
        method, arguments = json.loads(requests.get())
        _answer(answers, lambda: getattr(made[0], method)(*arguments))  # noqa: B023 - called at once


def _listen(stream: IO[bytes], requests: queue.SimpleQueue[bytes]) -> None:
    for line in stream:
        requests.put(line)
    os._exit(EXIT_INTERRUPTED)


def _answer(answers: IO[bytes], work: Any) -> None:
    try:
        answer: tuple[str, Any] = ("result", work())
    except (QtoolError, MemoryError) as error:
        answer = ("error", error_to_send(error, "a machine with more"))
    except Exception:  # a bug of qtool: the parent raises it, with this traceback
        answer = ("bug", traceback.format_exc())
    answers.write(json.dumps(answer).encode() + b"\n")
    answers.flush()
