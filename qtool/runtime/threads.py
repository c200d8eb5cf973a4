"""The threads that this process may use: onnxruntime takes all cores, whatever the container allows."""

from __future__ import annotations

import math
import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def default_threads(cgroup: Path = _CGROUP) -> int:
    """Return the intra-op threads for a session; 0 where all cores are free, to leave the choice to it.

    Args:
        cgroup: where Linux shows the quota of a container: cpu.max in version 2, cpu/cpu.cfs_* in version 1.
    """
    cores = os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    quota = _quota(cgroup)
    allowed = min(allowed, math.ceil(quota)) if quota else allowed
    return max(allowed, 1) if allowed < cores else 0


def usable_cores() -> int:
    """Return the cores that this process may use."""
    return default_threads() or os.cpu_count() or 1


def _quota(cgroup: Path) -> float:
    """Return the quota in cores; 0 for none."""
    try:
        parts = (cgroup / "cpu.max").read_text().split()
    except OSError:
        try:
            names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            parts = [(cgroup / "cpu" / name).read_text().strip() for name in names]
        except OSError:
            return 0.0
    if len(parts) != 2 or not all(part.isdigit() for part in parts):  # "max", or -1: none
        return 0.0
    return int(parts[0]) / max(int(parts[1]), 1)
