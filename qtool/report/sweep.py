"""The table of a sweep: for a terminal, as Markdown, CSV and JSON."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from qtool.commands.sweep import Sweep, SweepRow
from qtool.errors import EXIT_OK, counted
from qtool.report.columns import Column, Columns, name_of, shown
from qtool.report.csv import csv_text
from qtool.report.markdown import document, prose, section
from qtool.report.table import csv_cells, csv_heads, figures
from qtool.report.tables import bare_table, plain
from qtool.serialize.json_format import JsonFormat

SWEEP = JsonFormat(Sweep, "qtool.sweep/1", "sweep")
to_json = SWEEP.to_json


def columns(sweep: Sweep) -> Columns:
    """Return the columns: a row a model and configuration."""
    return {
        "model": name_of("model"),
        "configuration": Column(lambda row: row.name),
        **figures(lambda row: row.fp32_bytes, sweep.metrics),
        "gates": Column(_gates, foreign=True, good=lambda row: row.exit_code == EXIT_OK),
        "error": Column(lambda row: row.failed, foreign=True, optional=True),
    }


def _gates(row: SweepRow) -> str:
    if row.gates_failed:
        return f"failed: {', '.join(row.gates_failed)}"
    return f"{row.gates} held" if row.gates else ""


def verdict(sweep: Sweep) -> str:
    """Return the outcome in one line."""
    errors = sum(bool(row.failed) for row in sweep.rows)
    gates = sum(bool(row.gates_failed) for row in sweep.rows)
    held = len(sweep.rows) - errors - gates
    parts = [f"{held} of {counted(len(sweep.rows), 'result')} in order"]
    parts += [f"{counted(gates, 'result')} failed a gate"] if gates else []
    parts += [f"{counted(errors, 'error')}"] if errors else []
    parts += [f"{sweep.resumed} of an earlier run"] if sweep.resumed else []
    return ", ".join(parts) + f"; in {sweep.folder}"


def render_sweep(sweep: Sweep, console: Console) -> None:
    """Print the table and the outcome."""
    cells = shown(columns(sweep), sweep.rows)
    drawn = bare_table(*cells)
    drawn.columns[1].justify = "left"
    for row in sweep.rows:
        drawn.add_row(*(plain(column.text(row)) for column in cells.values()))
    console.print(drawn, Text(), plain(verdict(sweep)), sep="\n")


def to_markdown(sweep: Sweep) -> str:
    """Return the table as GitHub's Markdown."""
    rows = section("Sweep", columns(sweep), sweep.rows, len(sweep.rows))
    return document((rows, prose(verdict(sweep))), sweep.warnings, sweep.version)


def to_csv(sweep: Sweep) -> str:
    """Return a row a model and configuration, numbers in full."""
    heads = ["model", "configuration", *csv_heads(sweep.metrics), "gates_failed", "exit_code", "error"]
    rows = []
    for row in sweep.rows:
        ends = ["; ".join(row.gates_failed), row.exit_code, row.failed]
        rows.append([row.model, row.name, *csv_cells(row, sweep.metrics), *ends])
    return csv_text(heads, rows)
