"""An analysis for a person at a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from qtool.errors import printable
from qtool.report.analysis import Analysis
from qtool.report.analysis_figures import (
    BLOCKS,
    REGIONS,
    TENSORS,
    cost_text,
    gain_text,
    subject,
    verdict,
)
from qtool.report.columns import Columns, shown
from qtool.report.tables import bare_table, labelled, plain

_MOST_ROWS = 10
_MOST_BLOCKS = 6
_LONGEST_NAME = 60
_LONGEST_COMMAND = 10_000


def render_analysis(analysis: Analysis, console: Console, verbose: bool = False) -> None:
    """Print the verdict, faults, regions, blocks, tensors and the advice."""
    console.print(plain(verdict(analysis), "bold"), soft_wrap=True)
    console.print(plain(subject(analysis)), Text(), sep="\n", soft_wrap=True)
    for tensor in analysis.problems:
        place = f" (scale {tensor.scale})" if tensor.scale else ""
        console.print(plain(f"fault: {tensor.name}{place}: {tensor.problem}", "red"), soft_wrap=True)
    if analysis.problems:
        console.print()
    parts = (
        ("regions, the most sensitive first", REGIONS, analysis.regions, _MOST_ROWS),
        ("blocks", BLOCKS, analysis.blocks, _MOST_BLOCKS),
        ("tensors", TENSORS, analysis.tensors, _MOST_ROWS),
    )
    for title, columns, rows, most in parts:
        if rows:
            console.print(_table(title, columns, rows, len(rows) if verbose else most), Text(), sep="\n")
    for advice in analysis.advice:
        console.print(Text(printable(advice.command, _LONGEST_COMMAND), "cyan"), soft_wrap=True)
        console.print(Text("    "), plain(f"{gain_text(advice)}: {advice.why}"), sep="", soft_wrap=True)
    if not analysis.advice:
        console.print(plain("no advice: no simulated change raises the SQNR by 0.3 dB across the samples"))
    console.print(Text(), labelled([("cost", plain(cost_text(analysis)))]), sep="\n")


def _table(title: str, columns: Columns, rows: Sequence[object], most: int) -> Table:
    """A row an object, without columns that are empty."""
    columns = shown(columns, rows[:most])
    table = bare_table(*columns)
    table.title, table.title_justify, table.title_style = plain(title), "left", "italic"
    for row in rows[:most]:
        table.add_row(*(plain(printable(column.text(row), _LONGEST_NAME)) for column in columns.values()))
    if len(rows) > most:
        table.add_row(plain(f"and {len(rows) - most} more (-v)", "dim"))
    return table
