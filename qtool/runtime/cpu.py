"""This machine's CPU, and the target that fits it."""

from __future__ import annotations

import platform
from pathlib import Path

from qtool.tables.runtimes import DEFAULT
from qtool.tables.targets import TARGETS

_X86 = ("x86_64", "amd64", "i386", "i686")
_ARM = ("aarch64", "arm64")
# Instructions that sum products of u8 and s8 in 32 bits. Other x86 kernels sum pairs in 16, and saturate.
_EXACT = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})
_FILE = Path("/proc/cpuinfo")


def facts() -> dict[str, str]:
    """Return what the system says of its CPU; {} where it has no such file."""
    try:
        lines = _FILE.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


def flags() -> frozenset[str]:
    """Return the names of the CPU's instruction sets, as the system spells them."""
    told = facts()
    return frozenset(told.get("flags", told.get("Features", "")).split())


def saturates() -> bool:
    """Whether int8 products saturate: on x86 without VNNI and AMX, or where the system does not tell."""
    return platform.machine().lower() in _X86 and not flags() & _EXACT


def fitting_target(runtime: str = DEFAULT) -> str:
    """Return the target in a runtime that fits this CPU; '' for none. It never depends on what is installed.

    `--target auto` is that in onnxruntime.
    """
    arm = platform.machine().lower() in _ARM
    able = [t for t in TARGETS.values() if t.runtime == runtime and t.exact != saturates()]
    own = [t.name for t in able if t.arm == arm] or [t.name for t in able if not t.arm]
    return own[0] if own else ""
