"""The content of a model as tables for a terminal and as JSON, with the changes between two models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

from rich.console import Console
from rich.table import Table
from rich.text import Text

from qtool.errors import counted, printable
from qtool.graph.inspection.model import (
    CONSTANT,
    CONVERT,
    NO_FORMAT,
    OTHER,
    RECIPE,
    Difference,
    GraphValue,
    Inspection,
    OpCount,
)
from qtool.report.tables import bare_table, labelled, percent, plain
from qtool.serialize.json_format import JsonFormat

_MOST_PORTS = 12
_MOST_OPS = 14
MOST_NAMES = 5
LONGEST_VALUE = 100
# How the kinds that are no number format read in a sentence.
KINDS = {CONVERT: "convert", CONSTANT: "folded at load", OTHER: "other"}


@dataclass(frozen=True)
class _Document:
    """The JSON document: one model, or two and what changed."""

    models: tuple[Inspection, ...]
    difference: Difference | None


_FORMAT = JsonFormat(
    _Document,
    "qtool.inspection/1",
    "inspection",
    derived={
        Inspection: {
            name: attrgetter(name)
            for name in (
                *("nodes", "computes", "stored", "parameters"),
                *("quantized_share", "half_share", "recipe"),
            )
        },
        Difference: {
            name: attrgetter(name) for name in ("identical", "size_ratio", "ops_added", "ops_removed")
        },
    },
    omitted={Difference: ("before", "after")},
)


def to_json(result: Inspection | Difference) -> str:
    """Return one model, or two and what changed, as JSON (schema qtool.inspection/1, docs/report.md)."""
    if isinstance(result, Difference):
        return _FORMAT.to_json(_Document((result.before, result.after), result))
    return _FORMAT.to_json(_Document((result,), None))


def render_inspection(inspection: Inspection, console: Console, verbose: bool = False) -> None:
    """Print the interface, ops, weights and main figures of a model."""
    console.print(heading(inspection), _ports(inspection, verbose), Text(), sep="\n")
    if inspection.ops:
        console.print(_ops(inspection, verbose), Text(), sep="\n")
    if inspection.weights:
        console.print(_weights(inspection), Text(), sep="\n")
    console.print(labelled([(label, plain(text)) for label, text in _figures(inspection, verbose)]))


def heading(inspection: Inspection) -> Text:
    """The name, and what fits behind it on one line."""
    opsets = [f"opset {inspection.opsets['']}"] if "" in inspection.opsets else []
    opsets += [f"{domain} {version}" for domain, version in inspection.opsets.items() if domain]
    facts = [f"{inspection.bytes:,} bytes", f"IR {inspection.ir_version}", *opsets, inspection.producer]
    return Text.assemble(
        plain(inspection.path, "bold"), "  ", plain(", ".join(printable(f, 80) for f in facts if f))
    )


def _ports(inspection: Inspection, verbose: bool) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    for style in ("bold", "", "", ""):
        table.add_column(style=style, overflow="fold")
    for label, ports in (("inputs", inspection.inputs), ("outputs", inspection.outputs)):
        shown = ports if verbose else ports[:_MOST_PORTS]
        for index, port in enumerate(shown):
            table.add_row("" if index else label, plain(port.name), port.dtype, plain(shape_text(port)))
        if len(shown) < len(ports):
            table.add_row("", f"and {len(ports) - len(shown)} more (-v)")
    return table


def shape_text(port: GraphValue) -> str:
    """'[batch, 3, ?]'; a question mark is an axis of unknown size."""
    if port.shape is None:
        return "of any shape"
    return f"[{', '.join('?' if d is None else str(d) for d in port.shape)}]"


def _ops(inspection: Inspection, verbose: bool) -> Table:
    """A row an op: those that compute, then those that convert, then all others in one row."""
    formats = [kind for kind in inspection.computes if kind not in NO_FORMAT]
    table = bare_table("op", "nodes", *formats, *(["on quantized weights"] if inspection.stored else []))
    table.add_column("", overflow="fold")
    computing = [op for op, row in inspection.ops.items() if row.computes.keys() - NO_FORMAT]
    converting = [op for op, row in inspection.ops.items() if op not in computing and CONVERT in row.computes]
    shown = [*computing[:_MOST_OPS], *converting]
    others = [op for op in inspection.ops if op not in shown]
    if verbose or len(others) == 1:
        shown, others = list(inspection.ops), []
    rows = [(op, inspection.ops[op], "") for op in shown]
    if others:
        rows.append(("others", _sum([inspection.ops[op] for op in others]), _names(others)))
    for name, row, note in rows:
        counts = [
            row.nodes,
            *(row.computes.get(f, 0) for f in formats),
            *([row.stored] * bool(inspection.stored)),
        ]
        table.add_row(plain(name), *map(number, counts), plain(note))
    return table


def number(count: int) -> str:
    """Grouped digits; zero is blank, so that what is there stands out."""
    return f"{count:,}" if count else ""


def _sum(rows: Sequence[OpCount]) -> OpCount:
    kinds = {kind for row in rows for kind in row.computes}
    computes = {kind: sum(row.computes.get(kind, 0) for row in rows) for kind in kinds}
    return OpCount(sum(r.nodes for r in rows), computes, sum(r.stored for r in rows))


def _names(names: Sequence[str]) -> str:
    """The first few of many names."""
    more = f", and {len(names) - MOST_NAMES:,} more (-v)" if len(names) > MOST_NAMES else ""
    return ", ".join(printable(name, 80) for name in names[:MOST_NAMES]) + more


def _weights(inspection: Inspection) -> Table:
    table = bare_table("weights", "tensors", "parameters", "bytes", "share")
    for name, w in inspection.weights.items():
        share = percent(w.elements / max(inspection.parameters, 1))
        table.add_row(name, f"{w.tensors:,}", f"{w.elements:,}", f"{w.bytes:,}", share)
    return table


def _figures(inspection: Inspection, verbose: bool) -> list[tuple[str, str]]:
    rows = [("nodes", _computes(inspection)), ("quantized", quantized_text(inspection))]
    rows += _missing(inspection, verbose)
    if inspection.graphs or inspection.functions:
        counts = (counted(inspection.graphs, "nested graph"), counted(inspection.functions, "function"))
        rows.append(("holds", ", ".join(c for c in counts if not c.startswith("0 "))))
    rows += [("data", f"{name} ({size:,} bytes)") for name, size in inspection.external.items()]
    if inspection.recipe:
        rows.append(("made by", recipe_text(inspection.recipe)))
    rows += _metadata(inspection, verbose)
    if verbose:
        rest = ", ".join(f"{t.tensors:,} {name}" for name, t in inspection.constants.items())
        rows += [("constants", f"{rest}, which are no weights")] if rest else []
        rows.append(("sha256", inspection.sha256))
    return rows


def _missing(inspection: Inspection, verbose: bool) -> list[tuple[str, str]]:
    """Return the values that lack Q and DQ, and how to add them."""
    values = inspection.missing
    if not values:
        return []
    shown = values if verbose else values[:MOST_NAMES]
    rows = []
    for each in shown:
        ends = f"from {each.made_by} to" if each.made_by else "read by"
        rows.append(printable(f"{each.value}, {ends} {', '.join(each.read_by)}", 2 * LONGEST_VALUE))
    if len(shown) < len(values):
        rows.append(f"and {counted(len(values) - len(shown), 'other value')} (-v)")
    remedy = f"quantize --mode static {inspection.path} adds them"
    return [("no Q/DQ", text) for text in [*rows, remedy]]


def _computes(inspection: Inspection) -> str:
    """'438: 34 in int8, 177 in float32 (4 on quantized weights), 83 convert, 138 other'."""
    computes = inspection.computes
    parts = [f"{count:,} in {kind}" for kind, count in computes.items() if kind not in NO_FORMAT]
    if inspection.stored and parts:
        parts[-1] += f" ({inspection.stored:,} on quantized weights)"
    parts += [f"{count:,} {KINDS[kind]}" for kind, count in computes.items() if kind in NO_FORMAT]
    return f"{inspection.nodes:,}: {', '.join(parts)}" if parts else "none"


def quantized_text(inspection: Inspection) -> str:
    """Return the shares of quantized and 16-bit weights in words."""
    shares = ((inspection.quantized_share, "8 bits or fewer"), (inspection.half_share, "16-bit floats"))
    told = [f"{percent(share)} of the parameters in {what}" for share, what in shares if share]
    forms = f"({', '.join(inspection.forms)})" if inspection.forms else ""
    return " ".join(filter(None, (", ".join(told) or "nothing", forms)))


def recipe_text(recipe: dict[str, str]) -> str:
    """'qtool 0.1.0 (static, cpu)'."""
    words = [recipe[key] for key in ("mode", "target") if recipe.get(key)]
    version = f"qtool {recipe.get('version', '')}".strip()
    return f"{version} ({', '.join(words)})" if words else version


def _metadata(inspection: Inspection, verbose: bool) -> list[tuple[str, str]]:
    wanted = {k: v for k, v in inspection.metadata.items() if verbose or not k.startswith(RECIPE)}
    shown = list(wanted.items()) if verbose else list(wanted.items())[:MOST_NAMES]
    rows = [("metadata", f"{k} = {printable(v, LONGEST_VALUE)}") for k, v in shown]
    if len(shown) < len(wanted):
        rows.append(("metadata", f"and {len(wanted) - len(shown)} more (-v)"))
    return rows
