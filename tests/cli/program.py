"""The program `qtool`, run as a user runs it: by a fork server that imports once, or as a process of its own."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import IO, Any

QTOOL = str(Path(sys.executable).parent / "qtool")
_SERVER = Path(__file__).with_name("fork_server.py")

# Tests share their cores: times measured there mean nothing, and idle threads of the runtime spin. Most tests
# need no more than the rules' plan.
QUIETLY = {"QTOOL_TIMING": "table", "QTOOL_EFFORT": "fast", "QTOOL_THREADS": "1"}
# What users have by default.
MEASURED = {"QTOOL_TIMING": "measured", "QTOOL_EFFORT": "balanced"}

# Python that makes root obey the modes of files: it drops CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH.
OBEY_MODES = """
import ctypes
libc, head, caps = ctypes.CDLL(None), (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
assert libc.capget(head, caps) == 0
caps[0], caps[1] = caps[0] & ~6, caps[1] & ~6
assert libc.capset(head, caps) == 0
"""

PIPE = subprocess.PIPE


class Program:
    """One run of qtool in a child of the fork server, with the methods of subprocess.Popen that tests need.

    Args:
        arguments: of the command line.
        cwd: where it runs. Default: here.
        env: changes to this process's environment; None removes a variable.
        before: Python that the child executes before main().
        stdin, stdout, stderr: a file descriptor, PIPE, or None: no input, and this process's own outputs.
    """

    def __init__(
        self,
        *arguments: object,
        cwd: Path | None = None,
        env: Mapping[str, str | None] | None = None,
        before: str = "",
        stdin: int | None = None,
        stdout: int | None = PIPE,
        stderr: int | None = PIPE,
    ) -> None:
        self.args = ["qtool", *map(str, arguments)]
        self.returncode: int | None = None
        environment = {**os.environ, **QUIETLY, **(env or {})}
        request = {
            "arguments": self.args[1:],
            "cwd": str(cwd or Path.cwd()),
            "env": {name: value for name, value in environment.items() if value is not None},
            "before": before,
        }
        with contextlib.ExitStack() as stack:
            self.stdin, ends = None, []
            if stdin == PIPE:
                theirs, ours = os.pipe()
                self.stdin = open(ours, "wb")  # noqa: PTH123, SIM115
                stack.callback(os.close, theirs)
                ends.append(theirs)
            else:
                ends.append(os.open(os.devnull, os.O_RDONLY) if stdin is None else stdin)
                if stdin is None:
                    stack.callback(os.close, ends[0])
            self.stdout, self.stderr = (
                self._output(stack, ends, stream, own) for stream, own in ((stdout, 1), (stderr, 2))
            )
            answers, theirs = os.pipe()
            stack.callback(os.close, theirs)
            socket.send_fds(_server(), [json.dumps(request).encode()], [*ends, theirs])
        self._answers = open(answers, "rb", buffering=0)  # noqa: PTH123, SIM115
        self.pid = int(self._answers.readline())
        self._waiter = threading.Thread(target=self._wait, daemon=True)
        self._waiter.start()

    @staticmethod
    def _output(
        stack: contextlib.ExitStack, ends: list[int], stream: int | None, own: int
    ) -> IO[bytes] | None:
        if stream != PIPE:
            ends.append(own if stream is None else stream)
            return None
        ours, theirs = os.pipe()
        stack.callback(os.close, theirs)
        ends.append(theirs)
        return open(ours, "rb")  # noqa: PTH123

    def _wait(self) -> None:
        with self._answers:
            code = self._answers.readline()
        self.returncode = int(code) if code else -signal.SIGKILL

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        self._waiter.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, content: bytes = b"", timeout: float | None = None) -> tuple[bytes, bytes]:
        """Write to stdin, read the rest of stdout and stderr, wait for the end.

        Raises:
            subprocess.TimeoutExpired: it took longer. It is killed.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        read: dict[str, bytes] = {"stdout": b"", "stderr": b""}

        def drain(name: str, stream: IO[bytes]) -> None:
            with stream:
                read[name] = stream.read()

        def feed(stream: IO[bytes]) -> None:
            with contextlib.suppress(BrokenPipeError), stream:
                stream.write(content)

        jobs = [(drain, (n, s)) for n in read if (s := getattr(self, n)) is not None and not s.closed]
        if self.stdin is not None and not self.stdin.closed:
            jobs.append((feed, (self.stdin,)))
        threads = [threading.Thread(target=job, args=arguments, daemon=True) for job, arguments in jobs]
        for thread in threads:
            thread.start()
        for thread in (*threads, self._waiter):
            thread.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                self.kill()
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return read["stdout"], read["stderr"]


@cache
def _server() -> socket.socket:
    """The socket to this process's fork server, which lives as long as it does."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (ours, theirs):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-P", _SERVER, str(theirs.fileno())],
            pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        )  # fmt: skip

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


def run(
    *arguments: object,
    cwd: Path | None = None,
    env: Mapping[str, str | None] | None = None,
    timeout: float = 600,
    before: str = "",
    **streams: int,
) -> subprocess.CompletedProcess[str]:
    """Run `qtool` to its end in a child of the fork server. `before` is Python that runs first."""
    program = Program(*arguments, cwd=cwd, env=env, before=before, **streams)
    stdout, stderr = (text.decode() for text in program.communicate(timeout=timeout))
    return subprocess.CompletedProcess(program.args, program.wait(), stdout, stderr)


def run_bytes(
    *arguments: object, content: bytes = b"", stdin: int = PIPE, **options: Any
) -> subprocess.CompletedProcess[bytes]:
    """The same, with bytes on stdin and stdout."""
    program = Program(*arguments, stdin=stdin, **options)
    stdout, stderr = program.communicate(content, timeout=600)
    return subprocess.CompletedProcess(program.args, program.wait(), stdout, stderr)


def run_installed(
    *arguments: object,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    shell: str = "",
    **options: Any,
) -> subprocess.CompletedProcess[str]:
    """Run the installed program in a process of its own; `shell` is bash that runs it, as `"$@"`."""
    words = [QTOOL, *(str(a) for a in arguments)]
    if shell:
        words = ["bash", "-c", shell, "bash", *words]
    return subprocess.run(
        words, cwd=cwd, env={**os.environ, **QUIETLY, **(env or {})}, text=True, check=False,
        **{"capture_output": not {"stdout", "stderr"} & options.keys(), "timeout": 600, **options},
    )  # fmt: skip
