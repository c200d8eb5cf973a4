"""The table of all modes: for a terminal, as Markdown, CSV, JSON and HTML."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from qtool.commands.table import FP32, ModeRow, ModeTable
from qtool.errors import counted
from qtool.report.columns import Column, Columns, shown
from qtool.report.csv import csv_text
from qtool.report.figures import decibels
from qtool.report.markdown import document, prose, section
from qtool.report.tables import bare_table, plain
from qtool.serialize.json_format import JsonFormat

TABLE = JsonFormat(ModeTable, "qtool.table/1", "table")
to_json = TABLE.to_json


def columns(table: ModeTable) -> Columns:
    """Return the columns: a row a mode."""
    return {
        "model": Column(lambda row: row.name),
        **figures(lambda row: table.fp32.bytes, table.metrics),
        "no such model": Column(lambda row: row.failed, foreign=True, optional=True),
    }


def figures(size: Callable[[Any], int], metrics: Sequence[str]) -> Columns:
    """Return the columns of a model's figures.

    Args:
        size: a row -> the bytes of the FP32 model.
        metrics: the names of those that some row has.
    """

    def metric(name: str) -> Column:
        return Column(
            lambda row: f"{row.metrics[name]:.4g}" if name in row.metrics else "",
            value=lambda row: row.metrics.get(name, math.nan),
            optional=True,
        )

    return {
        "MB": Column(lambda row: f"{row.bytes / 1e6:.3g}" if row.bytes else "", value=lambda row: row.bytes),
        "smaller": Column(
            lambda row: f"{size(row) / row.bytes:.2f}x" if row.bytes else "",
            value=lambda row: size(row) / row.bytes if row.bytes else math.nan,
        ),
        "speed (95%)": Column(
            _speed, value=lambda row: row.speedup.median if row.speedup else math.nan, optional=True
        ),
        "SQNR dB": Column(_sqnr, value=lambda row: row.sqnr, optional=True),
        **{name: metric(name) for name in metrics},
        "quantized": Column(
            lambda row: f"{row.quantized} of {row.nodes}" if row.nodes and row.name != FP32 else "",
            value=lambda row: row.quantized,
        ),
    }


def _speed(row: ModeRow) -> str:
    if row.speedup is None:
        return ""
    ends = "" if row.name == FP32 else f" ({row.speedup.low:.2f}-{row.speedup.high:.2f})"
    return f"{row.speedup.median:.2f}x{ends}"


def _sqnr(row: ModeRow) -> str:
    return "" if row.name == FP32 or math.isnan(row.sqnr) else decibels(row.sqnr)


def caption(table: ModeTable) -> str:
    """Return what the table was measured on."""
    threads = f", timed with {counted(table.threads, 'thread')}" if table.threads else ""
    judged = f"judged on {counted(table.samples, 'sample')} of {table.data} that no choice used"
    return f"{table.fp32.path}, target {table.target}: {judged}{threads}"


def render_table(table: ModeTable, console: Console) -> None:
    """Print the table, and what it was measured on."""
    cells = shown(columns(table), table.rows)
    drawn = bare_table(*cells)
    for row in table.rows:
        drawn.add_row(*(plain(column.text(row)) for column in cells.values()))
    console.print(drawn, Text(), plain(caption(table)), sep="\n")


def to_markdown(table: ModeTable) -> str:
    """Return the table as GitHub's Markdown."""
    rows = section("Every mode", columns(table), table.rows, len(table.rows))
    return document((rows, prose(caption(table))), table.warnings, table.version)


def to_csv(table: ModeTable) -> str:
    """Return a row a mode, numbers in full."""
    rows = ([row.name, *csv_cells(row, table.metrics), row.failed] for row in table.rows)
    return csv_text(["model", *csv_heads(table.metrics), "failed"], rows)


def csv_heads(metrics: Sequence[str]) -> list[str]:
    """Return the titles of `csv_cells`."""
    heads = ["bytes", "speed", "speed_low", "speed_high", "sqnr", "sqnr_low", "sqnr_high"]
    return [*heads, *metrics, "quantized", "nodes"]


def csv_cells(row: ModeRow, metrics: Sequence[str]) -> list[Any]:
    """Return the figures of a row, numbers in full."""
    speed = (row.speedup.median, row.speedup.low, row.speedup.high) if row.speedup else ("", "", "")
    values = [row.metrics.get(name, "") for name in metrics]
    return [row.bytes, *speed, row.sqnr, *row.sqnr_interval, *values, row.quantized, row.nodes]
