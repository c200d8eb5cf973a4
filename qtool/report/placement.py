"""Candidates, regions and explanations as tables for a terminal."""

from __future__ import annotations

import math

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from qtool.errors import printable
from qtool.plan.model import RegionNote
from qtool.report.figures import decibels, ordered, trial_speed
from qtool.report.model import Explained, Report, heading
from qtool.report.tables import plain

_LONGEST_NAME = 60
_MOST_OTHERS = 8


def raced(report: Report) -> Table:
    """A row a plan that was built: the fastest first, the smallest where only weights are quantized."""
    predicted = any(not trial.timed for trial in report.trials)
    table = Table(title="Plans that were built and run", title_justify="left", box=None, pad_edge=False)
    table.add_column("plan", overflow="fold")
    for column in (
        "speed, predicted" if predicted else "speed (95%)",
        "select SQNR dB",
        "bytes",
        "int8 regions",
    ):
        table.add_column(column, justify="right")
    table.add_column("")
    front = set(report.front)
    for trial in ordered(report):
        chosen, dominated = trial.name == report.chosen, trial.name not in front
        cells = [
            trial.name,
            trial_speed(trial),
            decibels(trial.sqnr),
            f"{trial.bytes:,}",
            str(trial.regions),
        ]
        mark = "chosen" if chosen else "dominated" if dominated else ""
        style = "bold" if chosen else "dim" if dominated else ""
        table.add_row(*(plain(cell, style) for cell in (*cells, mark)))
    if not report.regions:
        table.columns.pop(4)
    return table


def regions(report: Report) -> Table:
    """A row a region."""
    title = "What was measured of nodes that stand or fall together"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("nodes", overflow="fold")
    table.add_column("op", overflow="fold")
    for column in ("float us", "int8 us", "isolated dB"):
        table.add_column(column, justify="right")
    table.add_column("is")
    table.add_column("why", overflow="fold")
    for region in report.regions:
        cells = [
            _first(region),
            " ".join(region.ops),
            _us(region.float_us),
            _us(region.int8_us),
            "-" if math.isnan(region.sqnr) else decibels(region.sqnr),
        ]
        table.add_row(*map(plain, (*cells, _label(region), region.why)))
    return table


def _first(region: RegionNote) -> str:
    first = printable(region.nodes[0], _LONGEST_NAME) if region.nodes else ""
    return f"{first} (+{len(region.nodes) - 1})" if len(region.nodes) > 1 else first


def _us(microseconds: float) -> str:
    return f"{microseconds:.1f}" if math.isfinite(microseconds) else "?"


def _label(region: RegionNote) -> str:
    return "int8" if region.quantized else "float"


def explained(node: Explained) -> Table:
    """All that is known of one node."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for label, text in facts(node):
        table.add_row(Padding(plain(label), (0, 0, 0, 2)), plain(text))
    return table


def title(node: Explained) -> Text:
    """Return name, op and outcome of a node."""
    kind = heading(node.kind) if node.kind else "as it was"
    return Text.assemble(plain(node.node, "bold"), " ", plain(f"({node.op}): {kind}"))


def facts(node: Explained) -> list[tuple[str, str]]:
    """A label and a text each, the decision first."""
    rows = [("why", node.why)]
    region = node.region
    if region is None:
        return rows
    others = [name for name in region.nodes if name != node.node]
    more = f" and {len(others) - _MOST_OTHERS} more" if len(others) > _MOST_OTHERS else ""
    one = f"as one with {', '.join(others[:_MOST_OTHERS])}{more}" if others else "by itself"
    alone = "changes nothing" if region.sqnr == math.inf else f"{decibels(region.sqnr)} dB"
    if math.isnan(region.sqnr):
        alone = "not measured: int8 can't pay here"
    return [
        *rows,
        ("region", f"{_label(region)}, {one}"),
        ("time", f"{_us(region.float_us)} us in float, {_us(region.int8_us)} us in int8"),
        ("error", f"quantized alone: {alone} at the outputs"),
    ]
