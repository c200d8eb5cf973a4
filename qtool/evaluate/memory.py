"""What this process holds in memory, as Linux counts it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Held:
    """Bytes of resident memory.

    Args:
        now: at this moment.
        peak: the most that it ever was.
    """

    now: int
    peak: int


def held() -> Held | None:
    """What this process holds; None where the system does not say so."""
    try:
        text = _STATUS.read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    found = dict(re.findall(r"^(VmRSS|VmHWM):\s+(\d+) kB$", text, re.MULTILINE))
    if len(found) < 2:
        return None
    return Held(int(found["VmRSS"]) * 1024, int(found["VmHWM"]) * 1024)
