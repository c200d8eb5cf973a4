"""The page of the table of all modes."""

from __future__ import annotations

from qtool.commands.table import FP32, ModeTable
from qtool.report.html import charts
from qtool.report.html.page import Page, Section, render_page, reproduce, table
from qtool.report.table import caption, columns


def to_html(modes: ModeTable) -> str:
    """Return the table as one HTML file that needs nothing beside it.

    Raises:
        EnvironmentFailure: jinja2 or matplotlib is missing.
    """
    speeds = {
        row.name: (row.speedup.low, row.speedup.median, row.speedup.high)
        for row in modes.rows
        if row.speedup is not None and row.name != FP32
    }
    label = "times as fast as FP32, with 95% intervals"
    return render_page(
        Page(
            title="qtool tune --table",
            tone="neutral",
            verdict=f"{modes.fp32.path} in every mode",
            models=(modes.fp32.path,),
            warnings=modes.warnings,
            sections=(
                Section("Every mode", caption(modes), table=table(columns(modes), modes.rows)),
                Section("Speed", charts=(charts.intervals(speeds, label),) if speeds else ()),
                reproduce(modes.arguments, {"FP32": modes.fp32.sha256, "qtool": modes.version}),
            ),
            version=modes.version,
        )
    )
