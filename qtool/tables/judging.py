"""The choices of --gate: when a result must reach the usual SQNR of its precision."""

from __future__ import annotations

NONE = "none"
USUAL = "usual"  # where there are samples to judge by
AUTO = "auto"  # always: without samples it fails
