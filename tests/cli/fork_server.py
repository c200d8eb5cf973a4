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
import select
import signal
import socket
import sys
import tempfile
import traceback
from pathlib import Path
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
    import scipy.sparse.csgraph  # noqa: F401


def plan_a_model() -> None:
    """Plan a sample model, so that children find the codecs and the list of the runtime's ops already made."""
    from qtool.cli.main import cli

    model = Path(__file__).parents[2] / "sample_models" / "cnn" / "model.onnx"
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):  # noqa: PTH123
        words = ["quantize", str(model), "--dry-run", "--timing", "table"]
        cli.main([*words, "--json"], standalone_mode=False)
        cli.main(words, standalone_mode=False)


def check_threads() -> None:
    tasks = os.listdir("/proc/self/task")  # noqa: PTH208
    assert len(tasks) == 1, "an import has started a thread: it would be missing in every child"


def serve(requests: socket.socket) -> dict[str, Any]:
    """Fork a child for each request, and report its pid and how it ends. Return the request, in the child only."""
    woken, wake = os.pipe()
    for end in (woken, wake):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    running: dict[int, int] = {}  # pid -> the pipe for the answer
    while True:
        ready, _, _ = select.select([requests, woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
            report_ends(running)
        if requests not in ready:
            continue
        data, descriptors, _, _ = socket.recv_fds(requests, 1 << 20, STREAMS + 1)
        if not data:
            sys.exit()
        *streams, answers = descriptors
        if pid := os.fork():
            running[pid] = answers
            os.write(answers, b"%d\n" % pid)
            for descriptor in streams:
                os.close(descriptor)
            continue
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        requests.close()
        for descriptor in (woken, wake, answers, *running.values()):
            os.close(descriptor)
        for number, descriptor in enumerate(streams):
            os.dup2(descriptor, number)
            os.close(descriptor)
        request: dict[str, Any] = json.loads(data)
        return request


def report_ends(running: dict[int, int]) -> None:
    """Write the return codes of the children that have ended."""
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        answers = running.pop(pid)
        with contextlib.suppress(BrokenPipeError):
            os.write(answers, b"%d\n" % os.waitstatus_to_exitcode(status))
        os.close(answers)


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
    from qtool.cli import progress

    progress.LOGS = False


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
    plan_a_model()
    check_threads()
    gc.collect()
    gc.freeze()
    become(request := serve(socket.socket(fileno=int(sys.argv[1]))))
    run(request["before"])
