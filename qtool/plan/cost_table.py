"""The cost table: kernel times of one machine, as `qtool profile` writes them and targets ship them.

Rows and kinds are those of tables/kernels.py; plan/work.py counts the work.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from qtool.serialize.json_format import JsonFormat
from qtool.tables.kernels import EDGES, KERNELS, Kind

SCHEMA = "qtool.costs/1"

Point = tuple[int, float]


@dataclass(frozen=True)
class Timed:
    """The times of one row in one kind.

    Args:
        row, kind: as in tables/kernels.py.
        kernel: the op that the runtime ran.
        points: (work, seconds) of each size, in rising order of work.
    """

    row: str
    kind: Kind
    kernel: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Untimed:
    """A kernel that the runtime did not run on this machine; `ran` names the ops that ran instead."""

    row: str
    kind: Kind
    size: str
    ran: str


@dataclass(frozen=True)
class Machine:
    """The machine of a table: the processor's name, and its instruction sets that matter here."""

    cpu: str = ""
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class CostTable:
    """The kernel times of one machine, in seconds.

    Args:
        version, onnxruntime: the versions of qtool and the runtime.
        machine: the machine.
        threads: intra-op threads of the runtime.
        dispatch: the time of every node beside its kernel.
        rows: kernels with their times.
        untimed: kernels without times.
    """

    version: str
    onnxruntime: str
    machine: Machine
    threads: int
    dispatch: float
    rows: tuple[Timed, ...]
    untimed: tuple[Untimed, ...] = ()


def _check(table: CostTable) -> None:
    """Check what types can't express.

    Raises:
        ValueError: a row that is unknown, missing or there twice, points that are not in order, or a
            time that is not positive.
    """
    _check_seconds(table.dispatch, "dispatch")
    for name in (*(row.row for row in table.rows), *(row.row for row in table.untimed)):
        if name not in KERNELS:
            raise ValueError(f"no row is called {name!r}")
    for row in table.rows:
        works = [work for work, _ in row.points]
        if not works or works[0] < 1 or any(a >= b for a, b in pairwise(works)):
            raise ValueError(f"{row.row} ({row.kind.value}): the work of its points does not grow")
        for _, seconds in row.points:
            _check_seconds(seconds, row.row)
    have = {(row.row, row.kind) for row in table.rows}
    if len(have) < len(table.rows):
        raise ValueError("a row is there twice")
    for edge in EDGES:
        for kind in KERNELS[edge].runs:
            if (edge, kind) not in have:
                raise ValueError(f"{edge} ({kind.value}) is missing")


def _check_seconds(seconds: float, place: str) -> None:
    if not 0 < seconds < math.inf:
        raise ValueError(f"{place}: a time of {seconds}")


COSTS = JsonFormat(
    CostTable,
    SCHEMA,
    "cost table",
    hint="qtool profile makes one",
    largest=1 << 22,  # `qtool profile` writes some 10 KB
    levels=2,
    check=_check,
)
to_json = COSTS.to_json
from_json = COSTS.from_json
read_table = COSTS.read
