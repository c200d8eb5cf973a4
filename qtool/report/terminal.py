"""The report for a person at a terminal."""

from __future__ import annotations

import math

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from qtool.errors import printable
from qtool.report.model import Report
from qtool.validate.compare import OutputMetrics

_MOST_REASONS = 3
_MOST_OUTPUTS = 12


def render(report: Report, console: Console, verbose: bool = False) -> None:
    """Print the report: coverage, then the verdict, then what to know before shipping."""
    if report.coverage:
        _coverage(report, console, verbose)
    if report.comparison is not None:
        _outputs(report, console)
    _summary(report, console)
    if verbose:
        for note in report.prepared:
            console.print(f"prepared: {escape(note)}", style="dim")
        for skip in report.skips:
            console.print(
                f"float: {escape(printable(skip.node))} ({skip.op}): {escape(skip.reason)}", style="dim"
            )


def _coverage(report: Report, console: Console, verbose: bool) -> None:
    table = Table(title="What became of each op", title_justify="left", box=None, pad_edge=False)
    table.add_column("op")
    for column in ("int8", "int8 at run time", "float, stored int8", "float"):
        table.add_column(column, justify="right")
    table.add_column("why not int8", overflow="fold")
    quiet = 0
    for row in report.coverage:
        if (
            not verbose
            and not row.int8 + row.dynamic + row.stored
            and set(row.reasons) == {"no quantized form"}
        ):
            quiet += row.floats
            continue
        reasons = list(row.reasons.items())
        text = "; ".join(
            f"{escape(printable(r))} ({n})" if len(reasons) > 1 else escape(printable(r))
            for r, n in reasons[:_MOST_REASONS]
        )
        if len(reasons) > _MOST_REASONS:
            text += f"; and {len(reasons) - _MOST_REASONS} more (-v)"
        cells = [str(n) if n else "" for n in (row.int8, row.dynamic, row.stored, row.floats)]
        table.add_row(escape(printable(row.op)), *cells, text)
    if quiet:
        table.add_row("others", "", "", "", str(quiet), "no quantized form")
    console.print(table)
    console.print()


def _outputs(report: Report, console: Console) -> None:
    comparison = report.comparison
    if comparison is None:
        return
    table = Table(
        title=f"Against FP32 on {comparison.samples} samples of {escape(printable(comparison.data))}",
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    table.add_column("output")
    for column in ("SQNR dB", "worst sample dB", "cosine", "max error", "mean error", "top-1 agreement"):
        table.add_column(column, justify="right")
    for output in comparison.outputs[:_MOST_OUTPUTS]:
        table.add_row(escape(printable(output.name)), *_cells(output))
    if len(comparison.outputs) > _MOST_OUTPUTS:
        table.add_row(f"and {len(comparison.outputs) - _MOST_OUTPUTS} more (--json)")
    console.print(table)
    console.print()


def _cells(o: OutputMetrics) -> list[str]:
    if o.exact:
        return [f"{o.unequal} of {o.count} differ", "", "", "", "", ""]
    worst = f"{number(o.sqnr_worst)} ({escape(printable(o.worst_sample, 40))})" if o.worst_sample else ""
    return [
        number(o.sqnr),
        worst,
        f"{o.cosine:.5f}",
        f"{o.max_error:.3g}",
        f"{o.mean_error:.3g}",
        f"{o.top1:.4f}" if o.rows else "",
    ]


def number(value: float) -> str:
    """dB with one decimal; inf as 'exact'."""
    if math.isinf(value) and value > 0:
        return "exact"
    return f"{value:.1f}"


def _summary(report: Report, console: Console) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column()
    if report.coverage:
        total = sum(r.total for r in report.coverage)
        table.add_row(
            "quantized", f"{report.quantized_nodes} of {total} nodes ({report.mode}, target {report.target})"
        )
    if report.quantized is not None:
        ratio = report.fp32.bytes / max(report.quantized.bytes, 1)
        table.add_row(
            "size", f"{report.fp32.bytes:,} -> {report.quantized.bytes:,} bytes ({ratio:.2f}x smaller)"
        )
    race = report.race
    if race is not None:
        for against in (n for n in race.seconds if n != "quantized"):
            ratio_ = race.speedup("quantized", against)
            label = "speed" if against == "original" else ""
            name = "the original" if against == "original" else "its prepared FP32 form"
            table.add_row(
                label,
                f"{ratio_.median:.2f}x of {name} ({ratio_.low:.2f}-{ratio_.high:.2f}; "
                f"{race.milliseconds(against):.3g} -> {race.milliseconds('quantized'):.3g} ms, "
                f"{race.threads or 'default'} thread{'' if race.threads == 1 else 's'})",
            )
    comparison = report.comparison
    if comparison is not None:
        if any(not o.exact for o in comparison.outputs):
            table.add_row("SQNR", f"{number(comparison.sqnr)} dB (worst output)")
        if comparison.accuracy is not None:
            a = comparison.accuracy
            table.add_row("accuracy", f"{a.fp32:.4f} -> {a.quantized:.4f} ({a.labels} labels)")
    if report.quantized is not None and report.command == "quantize":
        table.add_row("written", escape(report.quantized.path))
    console.print(table)
