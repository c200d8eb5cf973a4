"""The report as GitHub's Markdown, for a CI step's summary: verdict and gates first.

Names come from other people's files. In a code span nothing means anything but what ends it; where a
name holds that, every mark in it is written as a character reference, which Markdown reads as text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence

from qtool.errors import counted, printable
from qtool.evaluate.audit import Audit
from qtool.evaluate.compare import Comparison
from qtool.evaluate.gates import GateResult
from qtool.evaluate.output_metrics import OutputMetrics
from qtool.report.figures import (
    cost_line,
    decibels,
    gain_lines,
    labels_text,
    merged,
    ordered,
    row_text,
    selection_lines,
    share,
    size_text,
    speed_lines,
    trial_speed,
)
from qtool.report.model import FLOAT, CoverageRow, Explained, Report, heading
from qtool.report.verdict import gates_line, tone, verdict_line

_MOST_OUTPUTS = 50
_MOST_REASONS = 3
_MOST_NODES = 50
_LONGEST_NAME = 120
_MARKS = re.compile(r"[!-/:-@\[-`{-~]")
# What GitHub links even where it was written as a reference: @somebody, #1. A break of no width ends that.
_LINKED = {"@": "&#64;&#8203;", "#": "&#35;&#8203;"}
# Marks that may mean something; a decimal point, and what ends a sentence or a clause, never do.
_TELLING = re.compile(r"(?!(?<=\d)\.\d|[.:](?:\s|$))(?:[^\w\s,()%=/'\"-]|_)", re.ASCII)
_ENDS_CODE = re.compile(r"[`|\\]")


def code(text: str) -> str:
    """Foreign text as a code span, safe in a table's cell."""
    clean = printable(text, _LONGEST_NAME)
    if not clean:
        return ""
    if not _ENDS_CODE.search(clean):
        return f"`{clean}`"
    return f"<code>{_MARKS.sub(lambda mark: f'&#{ord(mark[0])};', clean)}</code>"


def prose(text: str) -> str:
    """A sentence that may hold foreign text, safe in a table's cell."""
    return _TELLING.sub(lambda m: _reference(m[0]), printable(text))


def _reference(mark: str) -> str:
    if mark in _LINKED:
        return _LINKED[mark]
    return f"&#{ord(mark)};" if mark.isascii() else mark


def to_markdown(report: Report) -> str:
    """The verdict, the gates, the figures, a row an output, coverage, warnings."""
    models = [code(m.path) for m in (report.fp32, report.quantized) if m is not None]
    sign = {"bad": "❌", "good": "✅", "neutral": "⚪"}[tone(report)]
    parts = [
        f"## {sign} qtool {report.command}: {gates_line(report)}",
        prose(verdict_line(report)),
        " → ".join(models),
        _table(_GATES, report.gates),
        _figures(report),
        _outputs(report.comparison),
        _coverage(report.coverage),
        _trials(report),
        _explained(report.explained),
        _audit(report.audit),
        "\n".join(f"- ⚠️ {prose(warning)}" for warning in report.warnings),
        f"<sub>qtool {prose(report.version)}</sub>",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


Columns = dict[str, Callable[..., str]]


def _table(columns: Columns, rows: Sequence[object], *, optional: Iterable[str] = ()) -> str:
    """A row an object; optional columns are left out where no row has something in them."""
    cells = {title: [cell(row) for row in rows] for title, cell in columns.items()}
    cells = {t: column for t, column in cells.items() if t not in optional or any(column)}
    if not rows:
        return ""
    lines = [cells.keys(), ["---"] + ["--:"] * (len(cells) - 1), *zip(*cells.values(), strict=True)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _gate_value(gate: GateResult) -> str:
    value = "nothing to judge" if math.isnan(gate.value) else f"{gate.value:.4g}"
    return f"{value} ({gate.interval[0]:.4g} to {gate.interval[1]:.4g})" if gate.interval else value


def _gate_verdict(gate: GateResult) -> str:
    if gate.synthetic:
        return "❌ random data"
    return "❌ inconclusive" if gate.inconclusive else "❌ failed" if gate.failed else "✅ held"


_GATES: Columns = {
    "fails if": lambda g: code(g.gate.text),
    "value": _gate_value,
    "threshold": lambda g: f"{g.gate.threshold:g}",
    "samples": lambda g: f"{g.samples}",
    "verdict": _gate_verdict,
}


def _figures(report: Report) -> str:
    lines = []
    if report.coverage:
        total = sum(row.total for row in report.coverage)
        scheme = f"{prose(report.mode)}, target {prose(report.target)}"
        lines.append(f"**Quantized:** {report.quantized_nodes} of {total} nodes ({scheme})")
    if text := size_text(report):
        lines.append(f"**Size:** {text}")
    lines += [f"**Speed:** {text}" for text in speed_lines(report)]
    lines += [f"**Recovered:** {text}" for text in gain_lines(report)]
    if text := cost_line(report):
        lines.append(f"**Search:** {text}")
    lines += [f"**SQNR, {text}".replace(":", ":**", 1) for text in selection_lines(report)]
    comparison = report.comparison
    if comparison is not None and comparison.accuracy is not None:
        a = comparison.accuracy
        lines.append(f"**Accuracy:** {a.fp32:.4f} → {a.quantized:.4f} ({labels_text(a, comparison.samples)})")
    if comparison is not None:
        lines += [f"**{prose(name)}:** {value:.4g}" for name, value in comparison.user_metrics.items()]
    return "\n".join(f"- {line}" for line in lines)


def _measure(text: Callable[[OutputMetrics], str]) -> Callable[[OutputMetrics], str]:
    """A measure of floats, which other outputs lack."""
    return lambda o: "" if o.exact else text(o)


_OUTPUTS: Columns = {
    "output": lambda o: code(o.name),
    "SQNR dB": _measure(lambda o: decibels(o.sqnr)),
    "worst sample": _measure(
        lambda o: f"{decibels(o.sqnr_worst)} ({code(o.worst_sample)})" if o.worst_sample else ""
    ),
    "mean dB": _measure(lambda o: decibels(o.sqnr_mean)),
    "centred dB": _measure(lambda o: decibels(o.centred_sqnr)),
    "cosine": _measure(lambda o: f"{o.cosine:.5f}"),
    "rel. L2": _measure(lambda o: f"{o.relative_l2:.3g}"),
    "max error": _measure(lambda o: f"{o.max_error:.3g}"),
    "mean": _measure(lambda o: f"{o.mean_error:.3g}"),
    "p99": _measure(lambda o: f"{o.p99_error:.3g}"),
    "mismatch": _measure(lambda o: f"{o.mismatch:.3g}"),
    "top-1": _measure(lambda o: share(o.top1, o.top1_interval) if o.rows else ""),
    "top-5": _measure(lambda o: share(o.top5, o.top5_interval) if o.rows else ""),
    "KL": _measure(lambda o: f"{o.kl:.3g}" if o.rows else ""),
    "rows": lambda o: row_text(o) if o.matchable else "",
    "not finite": lambda o: f"{o.nonfinite}" if o.nonfinite else "",
    "differ": lambda o: f"{o.unequal} of {o.count}" if o.exact else "",
}


def _outputs(comparison: Comparison | None) -> str:
    if comparison is None:
        return ""
    table = _table(_OUTPUTS, comparison.outputs[:_MOST_OUTPUTS], optional=_OUTPUTS.keys() - {"output"})
    more = len(comparison.outputs) - _MOST_OUTPUTS
    rest = f"\n\nand {more} more" if more > 0 else ""
    samples = f"{counted(comparison.samples, 'sample')}"
    return f"### Against FP32 on {samples} of {code(comparison.data)}\n\n{table}{rest}"


def _coverage(rows: Sequence[CoverageRow]) -> str:
    if not rows:
        return ""
    kinds = [k for k in dict.fromkeys(k for row in rows for k in row.counts) if k != FLOAT]
    columns: Columns = {"op": lambda r: code(r.op)}
    for kind in (*kinds, FLOAT):
        columns[prose(heading(kind))] = lambda r, kind=kind: str(r.counts.get(kind) or "")
    columns["why in float"] = _reasons
    return f"### What became of each op\n\n{_table(columns, merged(rows), optional=(FLOAT, 'why in float'))}"


_TRIALS: Columns = {
    "plan": lambda t: code(t.name),
    "speed": lambda t: trial_speed(t) if t.timed else f"{t.speedup:.2f}x (predicted)",
    "select SQNR dB": lambda t: decibels(t.sqnr),
    "bytes": lambda t: f"{t.bytes:,}",
    "int8 regions": lambda t: str(t.regions or ""),
}


def _trials(report: Report) -> str:
    """The plans that were raced, where there was a choice."""
    if len(report.trials) < 2:
        return ""
    front = set(report.front)
    columns = dict(_TRIALS)
    columns[""] = lambda t: (
        "**chosen**" if t.name == report.chosen else "" if t.name in front else "dominated"
    )
    table = _table(columns, ordered(report), optional=("int8 regions",))
    return f"### Plans that were built and run\n\n{table}"


_EXPLAINED: Columns = {
    "node": lambda e: code(e.node),
    "op": lambda e: code(e.op),
    "is": lambda e: prose(heading(e.kind)) if e.kind else "",
    "float µs": lambda e: f"{e.region.float_us:.1f}" if e.region else "",
    "int8 µs": lambda e: f"{e.region.int8_us:.1f}" if e.region else "",
    "isolated dB": lambda e: decibels(e.region.sqnr) if e.region and not math.isnan(e.region.sqnr) else "",
    "why": lambda e: prose(e.why),
}


def _explained(nodes: Sequence[Explained]) -> str:
    table = _table(_EXPLAINED, nodes[:_MOST_NODES], optional=("float µs", "int8 µs", "isolated dB"))
    more = f"\n\nand {len(nodes) - _MOST_NODES} more" if len(nodes) > _MOST_NODES else ""
    return f"### Why\n\n{table}{more}" if nodes else ""


_DEVIATIONS: Columns = {
    "node": lambda d: code(d.node),
    "op": lambda d: code(d.op),
    "planned": lambda d: prose(d.planned),
    "kernels": lambda d: code(", ".join(d.kernels)),
    "what": lambda d: prose(d.what),
}


def _audit(audit: Audit | None) -> str:
    if audit is None or not audit.deviations:
        return ""
    count = len(audit.deviations)
    more = f"\n\nand {count - _MOST_NODES} more" if count > _MOST_NODES else ""
    return f"### Not run as planned\n\n{_table(_DEVIATIONS, audit.deviations[:_MOST_NODES])}{more}"


def _reasons(row: CoverageRow) -> str:
    shown = [f"{prose(str(c.reason))} ({c.count})" for c in row.reasons[:_MOST_REASONS]]
    more = len(row.reasons) - _MOST_REASONS
    return "; ".join([*shown, *([f"and {more} more"] if more > 0 else [])])
