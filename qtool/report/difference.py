"""The changes from one model to another, as tables for a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from qtool.errors import printable
from qtool.graph.inspection.model import RECIPE, Change, Difference, GraphValue, TensorChange, Tensors
from qtool.report.inspection import (
    KINDS,
    LONGEST_VALUE,
    MOST_NAMES,
    heading,
    number,
    quantized_text,
    recipe_text,
    shape_text,
)
from qtool.report.tables import bare_table, labelled, plain

_MOST_OPS = 20
_MOST_PORTS = 8
_MOST_TENSORS = 8


def render_difference(difference: Difference, console: Console, verbose: bool = False) -> None:
    """Print what changed from one model to another, then the figures of both side by side."""
    both = (("before", difference.before), ("after", difference.after))
    console.print(labelled([(label, heading(each)) for label, each in both]), Text(), sep="\n")
    if difference.identical:
        console.print("the same file, byte for byte")
        return
    if difference.ops:
        console.print(_ops(difference, verbose), Text(), sep="\n")
    if difference.weights:
        console.print(_weights(difference), Text(), sep="\n")
    console.print(labelled([(label, plain(text)) for label, text in _figures(difference, verbose)]))


def _ops(difference: Difference, verbose: bool) -> Table:
    table = bare_table("op", "before", "after", "change")
    rows = list(difference.ops.items())
    shown = rows if verbose or len(rows) <= _MOST_OPS else rows[:_MOST_OPS]
    for op, (a, b) in shown:
        table.add_row(plain(op), *map(number, (a, b)), f"{b - a:+,}")
    if len(shown) < len(rows):
        table.add_row(f"and {len(rows) - len(shown)} more (-v)")
    return table


def _weights(difference: Difference) -> Table:
    table = bare_table("weights", "parameters before", "after", "bytes before", "after")
    before, after = difference.before.weights, difference.after.weights
    for name in dict.fromkeys((*before, *after)):
        pair = before.get(name, Tensors(0)), after.get(name, Tensors(0))
        table.add_row(name, *(number(t.elements) for t in pair), *(number(t.bytes) for t in pair))
    return table


def _figures(difference: Difference, verbose: bool) -> list[tuple[str, str]]:
    a, b = difference.before, difference.after
    rows = [("size", f"{a.bytes:,} -> {b.bytes:,} bytes ({_factor(difference.size_ratio)})")]
    nodes = f"{a.nodes:,} -> {b.nodes:,}" if a.nodes != b.nodes else f"{a.nodes:,}"
    changes = [f"{KINDS.get(kind, kind)} {x:,} -> {y:,}" for kind, (x, y) in difference.computes.items()]
    rows.append(("nodes", f"{nodes} ({', '.join(changes) or 'computing in the same formats'})"))
    rows.append(("quantized", f"{quantized_text(a)} -> {quantized_text(b)}"))
    if a.ir_version != b.ir_version:
        rows.append(("IR", f"{a.ir_version} -> {b.ir_version}"))
    for domain, (x, y) in difference.opsets.items():
        rows.append(("opset", f"{domain} {x or 'none'} -> {y or 'none'}".strip()))
    for label, ports in (("inputs", difference.inputs), ("outputs", difference.outputs)):
        shown = ports if verbose else ports[:_MOST_PORTS]
        rows += [(label, _changed_port(change)) for change in shown]
        if len(shown) < len(ports):
            rows.append((label, f"and {len(ports) - len(shown)} more (-v)"))
    if not (difference.inputs or difference.outputs):
        rows.append(("interface", "unchanged"))
    rows.append(("constants", _constants(difference)))
    rows += _changed_tensors(difference, verbose)
    return rows + _changed_metadata(difference, verbose)


def _factor(ratio: float) -> str:
    """Return a size ratio in words."""
    if ratio == 1:
        return "the same"
    return f"{1 / ratio:.2f}x smaller" if 0 < ratio < 1 else f"{ratio:.2f}x larger"


def _changed_port(change: Change[GraphValue]) -> str:
    before, after = (
        None if p is None else f"{printable(p.name, 80)} {p.dtype} {shape_text(p)}" for p in change
    )
    if before is None:
        return f"added: {after}"
    return f"removed: {before}" if after is None else f"{before} -> {after}"


def _constants(difference: Difference) -> str:
    """Return the numbers of equal, changed, added and removed constants in words."""
    counts = (
        (difference.same_tensors, "the same"),
        (len(difference.tensors), "differ"),
        (len(difference.only_before), "only before"),
        (len(difference.only_after), "only after"),
    )
    return ", ".join(f"{n:,} {what}" for n, what in counts if n) or "none"


def _changed_tensors(difference: Difference, verbose: bool) -> list[tuple[str, str]]:
    shown = difference.tensors if verbose else difference.tensors[:_MOST_TENSORS]
    rows = [("", _changed_tensor(change)) for change in shown]
    if len(shown) < len(difference.tensors):
        rows.append(("", f"and {len(difference.tensors) - len(shown):,} more differ (-v)"))
    return rows


def _changed_tensor(change: TensorChange) -> str:
    name = printable(change.name, 120)
    if change.before == change.after:
        return f"{name}: {change.before}, other numbers"
    return f"{name}: {change.before} -> {change.after}"


def _changed_metadata(difference: Difference, verbose: bool) -> list[tuple[str, str]]:
    """The recipe of the second model in a line; other keys one by one."""
    rows = []
    recipes = [recipe_text(i.recipe) for i in (difference.before, difference.after) if i.recipe]
    if any(key.startswith(RECIPE) for key in difference.metadata):
        rows.append(("made by", " -> ".join(dict.fromkeys(recipes))))
    wanted = {k: v for k, v in difference.metadata.items() if verbose or not k.startswith(RECIPE)}
    shown = list(wanted.items()) if verbose else list(wanted.items())[:MOST_NAMES]
    for key, change in shown:
        a, b = ("none" if v is None else printable(v, LONGEST_VALUE) for v in change)
        rows.append(("metadata", f"{printable(key, 80)}: {a} -> {b}"))
    if len(shown) < len(wanted):
        rows.append(("metadata", f"and {len(wanted) - len(shown)} more (-v)"))
    return rows
