"""The installed program, run as a user runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

QTOOL = str(Path(sys.executable).parent / "qtool")


# Tests share their cores: nothing that is timed there says anything; and what most of them are about is the
# same with the rules' plan.
QUIETLY = {"QTOOL_PROFILE": "table", "QTOOL_EFFORT": "fast"}
# What users have by default.
MEASURED = {"QTOOL_PROFILE": "measured", "QTOOL_EFFORT": "balanced"}

# What a process may do before it becomes qtool.
OBEY_MODES = "import ctypes; [ctypes.CDLL(None).prctl(24, c, 0, 0, 0) for c in (1, 2)]"  # root, too


def command(*arguments: object, before: str = "") -> list[str]:
    """The words that run `qtool`, after some Python."""
    words = [QTOOL, *(str(a) for a in arguments)]
    if not before:
        return words
    return [sys.executable, "-c", f"import os, sys; {before}; os.execv(sys.argv[1], sys.argv[1:])", *words]


def run(
    *arguments: object,
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
    timeout: float = 120,
    before: str = "",
) -> subprocess.CompletedProcess[str]:
    """Run `qtool` to its end. One thread: the tests share their cores."""
    return subprocess.run(
        command(*arguments, before=before),
        cwd=cwd,
        env={**os.environ, **QUIETLY, **(env or {})},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def run_bytes(
    *arguments: object, given: bytes = b"", cwd: Path | None = None, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """The same, with bytes on stdin and stdout."""
    return subprocess.run(
        [QTOOL, *(str(a) for a in arguments)],
        cwd=cwd,
        env={**os.environ, **QUIETLY, **(env or {})},
        input=given,
        capture_output=True,
        timeout=120,
        check=False,
    )
