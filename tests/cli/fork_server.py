"""A process that has imported qtool and all that it needs, and forks a child for each run of the program.

`python fork_server.py FD`: FD is a socket on which requests arrive, each a JSON object with the file descriptors
that become stdin, stdout and stderr, and a pipe for the answer: the child's pid, then its return code, a line each.
Nothing here opens an onnxruntime session, nor starts a thread: neither survives a fork.

A child differs from a process of its own: its imports are done, all children of a server share a hash seed, its
streams are UTF-8, and it ends without taking the interpreter apart. Tests about these start the installed program.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import io
import json
import os
import pkgutil
import signal
import socket
import sys
import tempfile
import traceback
from typing import Any, NoReturn

STREAMS = 3


def import_all() -> None:
    """Import every module of qtool, but what needs pyarrow: that starts a thread."""
    sys.modules["pyarrow"] = None  # type: ignore[assignment]
    import qtool

    for module in pkgutil.walk_packages(qtool.__path__, "qtool."):
        if module.name != "qtool.__main__":
            with contextlib.suppress(ImportError):
                importlib.import_module(module.name)
    del sys.modules["pyarrow"]
    import numpy.testing  # noqa: F401 - slow to import, and used by scipy
    import rich.progress  # noqa: F401

    tasks = os.listdir("/proc/self/task")  # noqa: PTH208
    assert len(tasks) == 1, "an import has started a thread: it would be missing in every child"


def serve(requests: socket.socket) -> dict[str, Any]:
    """Fork a child for each request. Return the request, in the child only."""
    while True:
        data, descriptors, _, _ = socket.recv_fds(requests, 1 << 20, STREAMS + 1)
        while True:  # those that have ended, so that their time counts as this process's
            try:
                if not os.waitpid(-1, os.WNOHANG)[0]:
                    break
            except ChildProcessError:
                break
        if not data:
            sys.exit()
        if os.fork() == 0:
            requests.close()
            return in_child(json.loads(data), descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def in_child(request: dict[str, Any], descriptors: list[int]) -> dict[str, Any]:
    """Fork once more: one process becomes the program, the other one reports how it ends."""
    *streams, answers = descriptors
    if pid := os.fork():
        for descriptor in streams:
            os.close(descriptor)
        os.write(answers, b"%d\n" % pid)
        status = os.waitpid(pid, 0)[1]
        with contextlib.suppress(BrokenPipeError):
            os.write(answers, b"%d\n" % os.waitstatus_to_exitcode(status))
        os._exit(0)
    os.close(answers)
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
        os.close(descriptor)
    return request


def become(request: dict[str, Any]) -> None:
    """Make this process what it would be, had it been started for the request."""
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.argv = ["qtool", *request["arguments"]]
    sys.stdin, sys.stdout, sys.stderr = (
        io.TextIOWrapper(
            open(number, mode, closefd=False),  # noqa: SIM115
            "utf-8",
            errors,
            line_buffering=os.isatty(number) or number == 2,
        )
        for number, mode, errors in ((0, "rb", "strict"), (1, "wb", "strict"), (2, "wb", "backslashreplace"))
    )
    signal.signal(signal.SIGINT, signal.default_int_handler)
    tempfile.tempdir = None


def run(before: str) -> NoReturn:
    """Run the program, and end this process as Python would, but without taking all modules apart."""
    code: object = 1
    try:
        exec(before, {"__name__": "before"})
        from qtool.cli.main import main

        main()
    except SystemExit as error:
        code = error.code
    except BaseException:
        traceback.print_exc()
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        code = 120
    os._exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # as main() does
    import_all()
    gc.collect()
    gc.freeze()
    become(request := serve(socket.socket(fileno=int(sys.argv[1]))))
    run(request["before"])
