"""The choices of --gate: when a result must reach the usual SQNR of its precision."""

from __future__ import annotations

from typing import Final

NONE: Final = "none"
USUAL: Final = "usual"  # where there are samples to judge by
AUTO: Final = "auto"  # always: without samples it fails
