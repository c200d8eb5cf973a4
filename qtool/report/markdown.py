"""The report as GitHub's Markdown, for a CI step's summary: verdict and gates first.

Names come from other people's files. In a code span nothing means anything but what ends it; where a
name holds that, every mark in it is written as a character reference, which Markdown reads as text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from qtool.errors import counted, printable
from qtool.evaluate.audit import Audit
from qtool.evaluate.compare import Comparison
from qtool.report.columns import (
    DEVIATIONS,
    EXPLAINED,
    GATES,
    OUTPUTS,
    Column,
    Columns,
    coverage_columns,
    shown,
    trial_columns,
)
from qtool.report.figures import (
    choice_lines,
    cost_line,
    gain_lines,
    labels_text,
    merged,
    ordered,
    selection_lines,
    size_text,
    speed_lines,
    target_lines,
)
from qtool.report.model import CoverageRow, Report
from qtool.report.verdict import SIGNS, gates_line, tone, verdict_line

_MOST_OUTPUTS = 50
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
    parts = [
        f"## {SIGNS[tone(report)]} qtool {report.command}: {gates_line(report)}",
        prose(verdict_line(report)),
        " → ".join(models),
        _table(GATES, report.gates),
        _figures(report),
        _outputs(report.comparison),
        _coverage(report.coverage),
        _trials(report),
        section("Why", EXPLAINED, report.explained, _MOST_NODES),
        _audit(report.audit),
    ]
    return document(parts, report.warnings, report.version)


def document(parts: Sequence[str], warnings: Sequence[str], version: str, note: str = "") -> str:
    """Return a document of the parts that are not empty, with warnings and a footer.

    Args:
        parts: in Markdown.
        warnings: plain texts.
        version: of qtool, for the footer.
        note: the end of the footer, in Markdown.
    """
    signed = "\n".join(f"- ⚠️ {prose(warning)}" for warning in warnings)
    footer = f"<sub>qtool {prose(version)}{note}</sub>"
    return "\n\n".join(part for part in (*parts, signed, footer) if part) + "\n"


def _table(columns: Columns, rows: Sequence[Any]) -> str:
    """A row an object; optional columns are left out where no row has something in them."""
    if not rows:
        return ""
    columns = shown(columns, rows)
    cells = [[_cell(column, row) for column in columns.values()] for row in rows]
    lines = [[prose(title) for title in columns], ["---"] + ["--:"] * (len(columns) - 1), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(column: Column, row: Any) -> str:
    text = column.text(row)
    if column.good is not None:
        text = f"{'✅' if column.good(row) else '❌'} {text}"
    return code(text) if column.name else prose(text) if column.foreign else text


def _figures(report: Report) -> str:
    lines = []
    if report.coverage:
        total = sum(row.total for row in report.coverage)
        scheme = f"{prose(report.mode)}, target {prose(report.target)}"
        lines.append(f"**Quantized:** {report.quantized_nodes} of {total} nodes ({scheme})")
    if text := size_text(report):
        lines.append(f"**Size:** {text}")
    lines += [f"**Size in {text}".replace(":", ":**", 1) for text in choice_lines(report)]
    lines += [f"**Target:** {prose(text)}" for text in target_lines(report)]
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


def _outputs(comparison: Comparison | None) -> str:
    if comparison is None:
        return ""
    samples = f"{counted(comparison.samples, 'sample')}"
    title = f"Against FP32 on {samples} of {code(comparison.data)}"
    return section(title, OUTPUTS, comparison.outputs, _MOST_OUTPUTS)


def _coverage(rows: Sequence[CoverageRow]) -> str:
    return section("What became of each op", coverage_columns(rows), merged(rows), len(rows))


def _trials(report: Report) -> str:
    """The plans that were raced, where there was a choice."""
    rows = ordered(report) if len(report.trials) > 1 else []
    return section("Plans that were built and run", trial_columns(report), rows, len(rows))


def _audit(audit: Audit | None) -> str:
    rows = audit.deviations if audit else ()
    return section("Not run as planned", DEVIATIONS, rows, _MOST_NODES)


def section(title: str, columns: Columns, rows: Sequence[Any], most: int) -> str:
    """Return a heading, a table, and how many rows it leaves out; '' where there are none."""
    rest = f"\n\nand {len(rows) - most} more" if len(rows) > most else ""
    return f"### {title}\n\n{_table(columns, rows[:most])}{rest}" if rows else ""
