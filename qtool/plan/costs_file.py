"""The cost table as a file: what `qtool profile` writes, and what comes with a target.

    {"schema": "qtool.costs/1", "version", "onnxruntime", "machine": {"cpu", "flags": [..]}, "threads",
     "dispatch": seconds, "rows": [{"row", "kind", "kernel", "points": [[work, seconds], ..]}],
     "untimed": [{"row", "kind", "size", "ran"}]}

Rows and kinds are those of tables/kernels.py; work is as plan/work.py counts it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from qtool.errors import DataError, printable
from qtool.tables.kernels import EDGES, KERNELS, Kind

SCHEMA = "qtool.costs/1"
# What `qtool profile` makes takes some 10 KB.
_LARGEST_BYTES = 1 << 22

Point = tuple[int, float]


@dataclass(frozen=True)
class Timed:
    """The times of one row in one kind.

    Args:
        kernel: the op that the runtime ran.
        points: (work, seconds) of each size, by work.
    """

    row: str
    kind: Kind
    kernel: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Untimed:
    """A kernel that this runtime does not run on this machine: `ran`, the ops that were in its place."""

    row: str
    kind: Kind
    size: str
    ran: str


@dataclass(frozen=True)
class Machine:
    """Where a table was made: the processor's name, and what it has of instructions that matter here."""

    cpu: str = ""
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class CostTable:
    """What one machine takes for each kernel. Times are seconds.

    Args:
        version, onnxruntime: of what made it.
        threads: of the runtime.
        dispatch: what every node takes beside its kernel.
    """

    version: str
    onnxruntime: str
    machine: Machine
    threads: int
    dispatch: float
    rows: tuple[Timed, ...]
    untimed: tuple[Untimed, ...] = ()


def read_table(path: Path) -> CostTable:
    """A cost table from its file.

    Raises:
        DataError: it can't be read, is damaged, or is something else.
    """
    try:
        if path.exists() and not path.is_file():
            raise DataError(f"cost table '{path}' is not a regular file")
        if path.stat().st_size > _LARGEST_BYTES:
            raise DataError(f"cost table '{path}' has more than {_LARGEST_BYTES:,} bytes", "is it one?")
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:  # ValueError: no UTF-8; a null character in the name
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"cost table '{path}' can't be read: {reason}") from error
    return from_json(text, str(path))


def to_json(table: CostTable) -> str:
    """The file's text, a row a line."""
    head = {
        "schema": SCHEMA,
        "version": table.version,
        "onnxruntime": table.onnxruntime,
        "machine": {"cpu": table.machine.cpu, "flags": list(table.machine.flags)},
        "threads": table.threads,
        "dispatch": table.dispatch,
    }
    rows = [
        {"row": r.row, "kind": r.kind.value, "kernel": r.kernel, "points": [list(p) for p in r.points]}
        for r in table.rows
    ]
    untimed = [{"row": u.row, "kind": u.kind.value, "size": u.size, "ran": u.ran} for u in table.untimed]
    parts = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
    for name, lines in (("rows", rows), ("untimed", untimed)):
        parts.append(f'  "{name}": [' + ",".join(f"\n    {json.dumps(line)}" for line in lines) + "\n  ]")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def from_json(text: str, name: str) -> CostTable:
    """A table from its text.

    Raises:
        DataError: not such a file, damaged, or of another version.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name}: not a whole cost table: {printable(str(error), 120)}") from error
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise DataError(f"{name}: not a cost table of this version ({SCHEMA})", "qtool profile makes one")
    try:
        return _restored(document)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise DataError(f"{name}: not a whole cost table: {printable(str(error), 120)}") from error


def _restored(document: Mapping[str, Any]) -> CostTable:
    machine, dispatch = document["machine"], _seconds(document["dispatch"])
    rows = tuple(
        Timed(_known(r["row"]), Kind(r["kind"]), str(r["kernel"]), _points(r["points"]))
        for r in document["rows"]
    )
    have = {(r.row, r.kind) for r in rows}
    if len(have) < len(rows):
        raise ValueError("a row is there twice")
    for edge in EDGES:
        for kind in KERNELS[edge].runs:
            if (edge, kind) not in have:
                raise ValueError(f"{edge} ({kind.value}) is missing")
    untimed = tuple(
        Untimed(_known(u["row"]), Kind(u["kind"]), str(u["size"]), str(u["ran"])) for u in document["untimed"]
    )
    return CostTable(
        str(document["version"]),
        str(document["onnxruntime"]),
        Machine(str(machine["cpu"]), tuple(str(flag) for flag in machine["flags"])),
        int(document["threads"]),
        dispatch,
        rows,
        untimed,
    )


def _known(row: Any) -> str:
    if row not in KERNELS:
        raise ValueError(f"no row is called {row!r}")
    return str(row)


def _points(found: Any) -> tuple[Point, ...]:
    points = tuple((int(work), _seconds(seconds)) for work, seconds in found)
    works = [work for work, _ in points]
    if not points or works[0] < 1 or any(a >= b for a, b in pairwise(works)):
        raise ValueError("points that are not in order")
    return points


def _seconds(value: Any) -> float:
    seconds = float(value)
    if not 0 < seconds < math.inf:
        raise ValueError(f"a time of {value}")
    return seconds
