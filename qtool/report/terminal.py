"""The report for a person at a terminal."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from qtool.errors import counted, printable
from qtool.evaluate.compare import Comparison
from qtool.evaluate.output_metrics import OutputMetrics
from qtool.report import placement
from qtool.report.figures import (
    audit_lines,
    choice_lines,
    cost_line,
    decibels,
    gain_lines,
    labels_text,
    merged,
    row_text,
    selection_lines,
    share,
    size_text,
    speed_lines,
    target_lines,
)
from qtool.report.model import FLOAT, CoverageRow, Report, heading
from qtool.report.tables import plain
from qtool.report.verdict import COLOURS, gate_row, tone, verdict_line
from qtool.tables.forms import HEADINGS
from qtool.tables.runtimes import DEFAULT

_MOST_REASONS = 3
_MOST_OUTPUTS = 12


class TableConsole(Console):
    """stdout: as wide as the terminal, or wide where there is none; a reader that left is an error.

    Args:
        file: in place of stdout.
    """

    def __init__(self, file: TextIO | None = None) -> None:
        super().__init__(highlight=False, file=file)
        if not self.is_terminal:
            self.width = 160

    def on_broken_pipe(self) -> None:
        """rich would exit with 1 here, whatever the verdict."""
        raise BrokenPipeError


def to_html(report: Report) -> str:
    """Return what `render` prints as an HTML element."""
    console = Console(highlight=False, file=io.StringIO(), width=160, record=True)
    render(report, console)
    return console.export_html(inline_styles=True, code_format="<pre>{code}</pre>")


def render(report: Report, console: Console, verbose: bool = False) -> None:
    """Print the report: the verdict, coverage, the figures that matter most, the gates."""
    console.print(verdict(report), soft_wrap=True)
    console.print()
    if report.coverage:
        console.print(_coverage(report, verbose), Text(), sep="\n")
    if len(report.trials) > (report.command != "tune"):
        console.print(placement.raced(report), Text(), sep="\n")
    if report.comparison is not None:
        console.print(_outputs(report.comparison), Text(), sep="\n")
        if verbose and any(not output.exact for output in report.comparison.outputs):
            console.print(_more(report.comparison), Text(), sep="\n")
    console.print(_summary(report))
    for node in report.explained:
        console.print(Text(), placement.title(node), placement.explained(node), sep="\n")
    if verbose:
        if report.regions:
            console.print(Text(), placement.regions(report), Text(), sep="\n")
        for line in audit_lines(report):
            console.print(plain(line, "dim"))
        for note in report.prepared:
            console.print(plain(f"prepared: {note}", "dim"))
        for skip in report.skips:
            console.print(plain(f"float: {skip.node} ({skip.op}): {skip.reason}", "dim"))


def verdict(report: Report) -> Text:
    """Return the verdict as a line in its colour."""
    return plain(verdict_line(report), f"bold {COLOURS[tone(report)]}")


def _table(title: str, *columns: str) -> Table:
    """A bare table whose first column is text and whose others are numbers."""
    table = Table(title=plain(title) if title else None, title_justify="left", box=None, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", overflow="fold")
    return table


def _coverage(report: Report, verbose: bool) -> Table:
    kinds = [k for k in _kinds() if any(row.counts.get(k) for row in report.coverage)]
    kinds += sorted({k for row in report.coverage for k in row.counts} - set(kinds) - {FLOAT})
    table = _table("What became of each op", "op", *map(heading, kinds), FLOAT)
    table.add_column("why in float", overflow="fold")
    others = 0
    for row in report.coverage if verbose else merged(report.coverage):
        if not verbose and row.floats == row.total and all(counted.reason.general for counted in row.reasons):
            others += row.total
            continue
        cells = [str(row.counts[k]) if row.counts.get(k) else "" for k in (*kinds, FLOAT)]
        table.add_row(plain(row.op), *cells, plain(_reasons(row)))
    if others:
        reasons = [c.reason for row in report.coverage for c in row.reasons if c.reason.general]
        cells = ["" for _ in kinds] + [str(others)]
        table.add_row("others", *cells, min(map(str, reasons), default=""))
    return table


def _kinds() -> list[str]:
    return [form.value for form in HEADINGS]


def _reasons(row: CoverageRow) -> str:
    """The commonest reasons, with how many nodes each when there is more than one.

    What is true of the mode, and not of the node, goes without saying beside nodes that are quantized.
    """
    telling = [counted for counted in row.reasons if not counted.reason.general]
    reasons = telling or ([] if row.floats < row.total else list(row.reasons))
    if len(reasons) == 1:
        return str(reasons[0].reason)
    shown = [f"{counted.reason} ({counted.count})" for counted in reasons[:_MOST_REASONS]]
    if len(reasons) > _MOST_REASONS:
        shown.append(f"and {len(reasons) - _MOST_REASONS} more (-v)")
    return "; ".join(shown)


def _outputs(comparison: Comparison) -> Table:
    columns = ("output", "SQNR dB", "worst sample dB", "cosine", "max error", "mean error", "top-1 (95%)")
    table = _table(f"Against FP32 on {counted(comparison.samples, 'sample')} of {comparison.data}", *columns)
    return _fill(table, comparison, _measures)


def _more(comparison: Comparison) -> Table:
    """Return a table of the measures that the first one has no room for."""
    columns = (
        "output",
        "mean dB",
        "centred dB",
        "relative L2",
        "p99 error",
        "mismatch",
        "top-5 (95%)",
        "KL nats",
    )
    return _fill(_table("", *columns), comparison, _more_measures)


def _fill(table: Table, comparison: Comparison, measures: Callable[[OutputMetrics], list[str]]) -> Table:
    for output in comparison.outputs[:_MOST_OUTPUTS]:
        table.add_row(plain(output.name), *map(plain, measures(output)))
    if len(comparison.outputs) > _MOST_OUTPUTS:
        table.add_row(f"and {len(comparison.outputs) - _MOST_OUTPUTS} more (--json)")
    return table


def _measures(o: OutputMetrics) -> list[str]:
    if o.exact:
        return [f"{o.unequal} of {o.count} differ"]
    return [
        decibels(o.sqnr),
        f"{decibels(o.sqnr_worst)} ({printable(o.worst_sample, 40)})" if o.worst_sample else "",
        f"{o.cosine:.5f}",
        f"{o.max_error:.3g}",
        f"{o.mean_error:.3g}",
        share(o.top1, o.top1_interval) if o.rows else "",
    ]


def _more_measures(o: OutputMetrics) -> list[str]:
    if o.exact:
        return []
    return [
        decibels(o.sqnr_mean),
        decibels(o.centred_sqnr),
        f"{o.relative_l2:.3g}",
        f"{o.p99_error:.3g}",
        f"{o.mismatch:.3g}",
        share(o.top5, o.top5_interval) if o.rows else "",
        f"{o.kl:.3g}" if o.rows else "",
    ]


def _summary(report: Report) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for label, text in _figures(report):
        table.add_row(plain(label), plain(text))
    return table


def _figures(report: Report) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    if report.coverage:
        total = sum(row.total for row in report.coverage)
        scheme = f"({report.mode}, target {report.target})"
        rows.append(("quantized", f"{report.quantized_nodes} of {counted(total, 'node')} {scheme}"))
    if report.runtime not in ("", DEFAULT):
        rows.append(("runtime", f"{report.runtime}; FP32 in {DEFAULT}"))
    rows += [("" if index else "targets", text) for index, text in enumerate(target_lines(report))]
    if text := size_text(report):
        rows.append(("size", text))
    rows += [("" if index else "sizes", text) for index, text in enumerate(choice_lines(report))]
    rows += [("" if index else "speed", text) for index, text in enumerate(speed_lines(report))]
    rows += [("" if index else "recovered", text) for index, text in enumerate(gain_lines(report))]
    if text := cost_line(report):
        rows.append(("search", text))
    rows += [("" if index else "SQNR", text) for index, text in enumerate(selection_lines(report))]
    if report.comparison is not None:
        rows += _judged(report.comparison)
    for index, result in enumerate(report.gates):
        rows.append(("" if index else "gates", printable(gate_row(report, result))))
    if report.quantized is not None and report.command != "compare":
        none = "output", "none: a gate failed" if report.failed else "none: -o FILE writes what was chosen"
        rows.append(("written", report.quantized.path) if report.written else none)
        rows += [("" if index else "open with", line) for index, line in enumerate(report.opening)]
    return rows


def _judged(comparison: Comparison) -> list[tuple[str, str]]:
    """Return the figures that the table of outputs lacks."""
    rows = []
    if sum(not o.exact for o in comparison.outputs) > 1:
        rows.append(("worst output", f"{decibels(comparison.sqnr)} dB"))
    for output in comparison.outputs:
        name = printable(output.name, 80)
        if output.matchable:
            rows.append(("rows", f"{name}: {row_text(output)}"))
        if output.nonfinite:
            rows.append(("not finite", f"{output.nonfinite:,} elements of {name}, finite in FP32"))
    if comparison.accuracy is not None:
        a = comparison.accuracy
        rows.append(("accuracy", f"{a.fp32:.4f} -> {a.quantized:.4f} ({labels_text(a, comparison.samples)})"))
    samples = counted(comparison.samples, "sample")
    return rows + [(name, f"{value:.4g} ({samples})") for name, value in comparison.user_metrics.items()]
