"""Environments of their own for benchmarks whose libraries replace or contradict those of qtool."""

from __future__ import annotations

import subprocess
import venv
from collections.abc import Iterable
from pathlib import Path


def environment(folder: Path, packages: Iterable[str]) -> Path:
    """Make an environment with packages where it is missing, and return its Python."""
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        venv.create(folder, clear=True, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
        (folder / "ready").touch()
    return python
