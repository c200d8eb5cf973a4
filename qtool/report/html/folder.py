"""The page of a folder of models."""

from __future__ import annotations

from qtool.commands.folder import FolderReport
from qtool.report.columns import GATES, OUTPUTS
from qtool.report.folder import COLUMNS, facts, folder_tone, verdict
from qtool.report.html.page import Page, Section, render_page, reproduce, table
from qtool.report.verdict import verdict_line


def to_html(report: FolderReport) -> str:
    """Return the report as one HTML file that needs nothing beside it.

    Raises:
        EnvironmentFailure: jinja2 or matplotlib is missing.
    """
    models = Section("Models", table=table(COLUMNS, report.rows))
    files = Section("Files", facts=tuple(facts(report)))
    each = [
        section
        for row in report.rows
        for section in (
            Section(
                row.name,
                verdict_line(row.report),
                table=table(OUTPUTS, row.report.comparison.outputs if row.report.comparison else ()),
            ),
            Section(f"{row.name}: gates", table=table(GATES, row.report.gates)),
        )
    ]
    digests = {row.name: row.report.fp32.sha256 for row in report.rows}
    return render_page(
        Page(
            title=f"qtool {report.command}: {report.source}",
            tone=folder_tone(report),
            verdict=verdict(report),
            models=tuple(path for path in (report.source, report.output) if path),
            warnings=report.warnings,
            sections=(
                models,
                files,
                *each,
                reproduce(report.arguments, {**digests, "qtool": report.version}),
            ),
            version=report.version,
        )
    )
