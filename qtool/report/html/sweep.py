"""The page of a sweep."""

from __future__ import annotations

from qtool.commands.sweep import Sweep
from qtool.report.html import charts
from qtool.report.html.page import Page, Section, render_page, reproduce, table
from qtool.report.sweep import columns, verdict


def to_html(sweep: Sweep) -> str:
    """Return the sweep as one HTML file that needs nothing beside it.

    Raises:
        EnvironmentFailure: jinja2 or matplotlib is missing.
    """
    speeds = {
        f"{row.model} {row.name}": (row.speedup.low, row.speedup.median, row.speedup.high)
        for row in sweep.rows
        if row.speedup is not None
    }
    label = "times as fast as FP32, with 95% intervals"
    return render_page(
        Page(
            title="qtool sweep",
            tone="bad" if sweep.exit_code else "good",
            verdict=verdict(sweep),
            models=tuple(dict.fromkeys(row.model for row in sweep.rows)),
            warnings=sweep.warnings,
            sections=(
                Section("Every model and configuration", table=table(columns(sweep), sweep.rows)),
                Section("Speed", charts=(charts.intervals(speeds, label),) if speeds else ()),
                reproduce(sweep.arguments, {"qtool": sweep.version}),
            ),
            version=sweep.version,
        )
    )
