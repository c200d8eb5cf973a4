"""A cost table, for a person at a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from qtool.errors import counted
from qtool.plan.cost_table import CostTable
from qtool.report.tables import bare_table, labelled, plain
from qtool.tables.kernels import Kind

_HEADS = {
    Kind.FLOAT: "float us",
    Kind.INT8: "int8 us",
    Kind.DYNAMIC: "int8 at run time us",
    Kind.NBITS8: "8-bit blocks us",
    Kind.NBITS4: "4-bit blocks us",
}
_STEPS = (("G", 1e9), ("M", 1e6), ("k", 1e3))


def render_profile(costs: CostTable, console: Console) -> None:
    """Print what each kernel takes in each kind, and how many times as fast int8 is as float."""
    console.print(_times(costs), Text(), sep="\n")
    console.print(labelled([(label, plain(text)) for label, text in _facts(costs)]))


def _times(costs: CostTable) -> Table:
    kinds = [kind for kind in _HEADS if any(row.kind is kind for row in costs.rows)]
    table = bare_table("op", "work", *(_HEADS[kind] for kind in kinds), "int8 / float speed")
    points = {(row.row, row.kind): dict(row.points) for row in costs.rows}
    for name in dict.fromkeys(row.row for row in costs.rows):
        works = sorted({work for kind in kinds for work in points.get((name, kind), {})})
        for place, work in enumerate(works):
            times = {kind: points.get((name, kind), {}).get(work) for kind in kinds}
            cells = [_us(times[kind]) for kind in kinds]
            ratio = _ratio(times.get(Kind.FLOAT), times.get(Kind.INT8))
            table.add_row(plain("" if place else name), plain(_count(work)), *cells, ratio)
    return table


def _us(seconds: float | None) -> Text:
    return plain("" if seconds is None else f"{seconds * 1e6:#.3g}".rstrip("."))


def _ratio(floats: float | None, integers: float | None) -> Text:
    if floats is None or integers is None:
        return Text()
    return plain(f"{floats / integers:.2f}x", "green" if floats > integers else "red")


def _count(number: int) -> str:
    for letter, step in _STEPS:
        if number >= step:
            return f"{number / step:.3g}{letter}"
    return str(number)


def _facts(costs: CostTable) -> list[tuple[str, str]]:
    threads = f"{counted(costs.threads, 'thread')}"
    return [
        ("machine", f"{costs.machine.cpu}, {threads}"),
        ("runtime", f"onnxruntime {costs.onnxruntime}"),
        ("work", "multiply-accumulates where weights or activations are multiplied, else elements"),
        ("a node", f"{costs.dispatch * 1e6:.2f} us beside its kernel"),
    ]
