"""The entry point: import the program, and end in one line where Ctrl-C comes before it is there."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import NoReturn

from qtool.errors import EXIT_INTERRUPTED


def main() -> NoReturn:
    """Run the command line. Its imports take a quarter of a second."""
    try:
        from qtool.cli.main import main as run

        run()
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):  # stderr is closed
            os.write(2, b"error: interrupted\n")
        sys.exit(EXIT_INTERRUPTED)
