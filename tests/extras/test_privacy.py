"""Nothing is sent from OpenVINO, whose wheel brings telemetry: the kernel ends a process that opens a socket."""

from __future__ import annotations

import ctypes
import platform
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from qtool.runtime.cpu import fitting_target
from tests.graphs import ROOT, SAMPLE_MODELS

# The number of the system call `socket`.
_SOCKET = {"x86_64": 41, "aarch64": 198}
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
_KILL, _ALLOW = 0x80000000, 0x7FFF0000
_NO_NEW_PRIVILEGES, _SET_FILTER, _FILTER = 38, 22, 2


def without_sockets() -> None:
    """Let the kernel end this process, and its children, at a socket that is not of this machine (AF_UNIX)."""
    steps = [
        (_LOAD, 0, 0, 0),  # the system call
        (_EQUAL, 0, 3, _SOCKET[platform.machine()]),
        (_LOAD, 0, 0, 16),  # its first argument
        (_EQUAL, 1, 0, socket.AF_UNIX),
        (_RETURN, 0, 0, _KILL),
        (_RETURN, 0, 0, _ALLOW),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = struct.pack("HP", len(steps), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in ((_NO_NEW_PRIVILEGES, 1, 0, 0, 0), (_SET_FILTER, _FILTER, program, 0, 0)):
        if libc.prctl(*arguments):
            raise OSError(ctypes.get_errno(), "prctl")


def run(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, words)],
        preexec_fn=without_sockets, cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip


pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in _SOCKET, reason="seccomp filters are Linux's"
)


@pytest.mark.parametrize(("family", "ended"), [("AF_INET", True), ("AF_INET6", True), ("AF_UNIX", False)])
def test_a_socket_to_other_machines_ends_the_process(family: str, ended: bool) -> None:
    done = run("-c", f"import socket; socket.socket(socket.{family})")
    assert done.returncode == (-signal.SIGSYS if ended else 0)


def test_no_socket_is_opened(tmp_path: Path) -> None:
    cnn, out = SAMPLE_MODELS / "cnn", tmp_path / "q.onnx"
    fast = ("--effort", "fast", "--timing", "table", "--threads", 1, "--samples", 16)
    target = fitting_target("openvino")
    for words in (
        ("quantize", cnn / "model.onnx", "-o", out, "--calib", cnn / "calib", "--target", target, *fast),
        ("compare", cnn / "model.onnx", out, "--data", cnn / "eval", "--runtime", "openvino"),
        ("analyze", cnn / "model.onnx", out, "--data", cnn / "eval", "--no-advice"),
    ):
        done = run("-m", "qtool", *words)
        assert done.returncode == 0, (words[0], done.returncode, done.stderr)
