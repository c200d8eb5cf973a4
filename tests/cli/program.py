"""The installed program, run as a user runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

QTOOL = str(Path(sys.executable).parent / "qtool")


def run(
    *arguments: object, cwd: Path | None = None, env: dict[str, str] | None = None, timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """Run `qtool` to its end. One thread: the tests share their cores."""
    words: Sequence[str] = [str(a) for a in arguments]
    return subprocess.run(
        [QTOOL, *words],
        cwd=cwd,
        env={**os.environ, **(env or {})},
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
        env={**os.environ, **(env or {})},
        input=given,
        capture_output=True,
        timeout=120,
        check=False,
    )
