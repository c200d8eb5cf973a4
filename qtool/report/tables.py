"""Texts and tables for a terminal, shared by the renderers."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from qtool.errors import printable


def plain(text: str, style: str = "") -> Text:
    """Return foreign text without markup, emoji codes and control characters."""
    return Text(printable(text), style=style)


def bare_table(*columns: str) -> Table:
    """A table whose first column is text and whose others are numbers."""
    table = Table(box=None, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", overflow="fold")
    return table


def labelled(rows: Sequence[tuple[str, Text]]) -> Table:
    """A label and a text a row; a label is not repeated."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    last = ""
    for label, text in rows:
        table.add_row("" if label == last else label, text)
        last = label
    return table


def percent(share: float) -> str:
    """One decimal, and never a whole that is not quite one."""
    text = f"{100 * share:.1f}%"
    if text == "100.0%" and share < 1:
        return ">99.9%"
    return "<0.1%" if text == "0.0%" and share > 0 else text
