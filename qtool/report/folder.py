"""The report of a folder of models: for a terminal, as Markdown and JSON."""

from __future__ import annotations

import math

from rich.console import Console
from rich.text import Text

from qtool.commands.folder import FolderReport, FolderRow
from qtool.errors import bytes_text, counted, printable
from qtool.report.columns import Column, Columns, name_of, number_of, shown
from qtool.report.figures import decibels
from qtool.report.json import REPORT
from qtool.report.markdown import document, prose, section
from qtool.report.tables import bare_table, labelled, plain
from qtool.report.verdict import COLOURS, SIGNS, Tone, gates_line, next_step, smaller, tone
from qtool.serialize.json_format import JsonFormat

FOLDER = JsonFormat(
    FolderReport,
    "qtool.folder/1",
    "report of a folder",
    derived={
        **REPORT.derived,
        FolderReport: {"failed": lambda report: tuple(row.name for row in report.failed)},
    },
)
to_json = FOLDER.to_json
_MOST_FILES = 20


def _size(row: FolderRow) -> float:
    quantized = row.report.quantized
    return quantized.bytes if quantized else math.nan


def _smaller(row: FolderRow) -> float:
    return row.report.fp32.bytes / _size(row)


def _sqnr(row: FolderRow) -> float:
    comparison = row.report.comparison
    return comparison.sqnr if comparison else math.nan


def _speed(row: FolderRow) -> str:
    race = row.report.race
    if race is None:
        return ""
    ratio = race.speedup["original"]
    return f"{ratio.median:.2f}x ({ratio.low:.2f}-{ratio.high:.2f})"


def _quantized(row: FolderRow) -> str:
    total = sum(each.total for each in row.report.coverage)
    return f"{row.report.quantized_nodes} of {total}" if row.report.coverage else ""


COLUMNS: Columns = {
    "model": name_of("name"),
    "role": Column(lambda row: row.role),
    "MB": number_of(lambda row: _size(row) / 1e6, optional=True),
    "smaller": number_of(_smaller, "{:.2f}x", optional=True),
    "speed (95%)": Column(
        _speed, value=lambda row: row.report.speedup if row.report.race else math.nan, optional=True
    ),
    "SQNR dB": Column(
        lambda row: "" if math.isnan(_sqnr(row)) else decibels(_sqnr(row)), value=_sqnr, optional=True
    ),
    "quantized": Column(_quantized, value=lambda row: row.report.quantized_nodes, optional=True),
    "gates": Column(lambda row: gates_line(row.report), good=lambda row: not row.report.failed),
}


def folder_tone(report: FolderReport) -> Tone:
    """Return bad where a gate failed, and good where every model is good."""
    tones = {tone(row.report) for row in report.rows}
    return "bad" if "bad" in tones else "good" if tones == {"good"} else "neutral"


def verdict(report: FolderReport) -> str:
    """Return the result in a line: models, size, the worst SQNR, gates, and the next step."""
    parts = [counted(len(report.rows), "model")]
    if report.output_bytes:
        parts.append(smaller(report.source_bytes, report.output_bytes))
    judged = [row for row in report.rows if not math.isnan(_sqnr(row))]
    if judged:
        worst = min(judged, key=_sqnr)
        parts.append(f"worst {decibels(_sqnr(worst))} dB ({worst.name})")
    if missing := len(report.rows) - len(judged):
        parts.append(f"{missing} not judged" if judged else "not judged")
    parts.append(gates_line(*(row.report for row in report.rows)))
    return ", ".join(parts) + (f"; {step}" if (step := _step(report)) else "")


def _step(report: FolderReport) -> str:
    if report.failed:
        return f"{report.failed[0].name}: {next_step(report.failed[0].report)}"
    return f"written to {printable(report.output)}" if report.written else ""


def facts(report: FolderReport) -> list[tuple[str, str]]:
    """Return what became of the files, as labels and texts."""
    rows = []
    if report.output_bytes:
        rows.append(("size", f"{bytes_text(report.source_bytes)} -> {bytes_text(report.output_bytes)}"))
    if report.shared:
        names = ", ".join(report.shared)
        rows.append(
            ("shared", f"weights of several models, once, in {names}: {bytes_text(report.saved)} less")
        )
    if report.command == "quantize":
        names = ", ".join(report.sidecars[:_MOST_FILES])
        more = len(report.sidecars) - _MOST_FILES
        rows.append(("carried over", (names + (f" and {more} more" if more > 0 else "")) or "no other file"))
        rows += [("left out", f"{name}: {why}") for name, why in report.left_out.items()]
    return rows


def render_folder(report: FolderReport, console: Console) -> None:
    """Print the verdict, a row a model, and what became of the other files."""
    console.print(verdict_text(report), soft_wrap=True)
    cells = shown(COLUMNS, report.rows)
    drawn = bare_table(*cells)
    drawn.columns[1].justify = "left"
    for row in report.rows:
        drawn.add_row(*(plain(column.text(row)) for column in cells.values()))
    console.print(
        Text(), drawn, Text(), labelled([(label, plain(text)) for label, text in facts(report)]), sep="\n"
    )


def verdict_text(report: FolderReport) -> Text:
    """Return the verdict as a line in its colour."""
    return plain(verdict(report), f"bold {COLOURS[folder_tone(report)]}")


def to_markdown(report: FolderReport) -> str:
    """Return the report as GitHub's Markdown."""
    parts = (
        f"## {SIGNS[folder_tone(report)]} qtool {report.command}: {prose(report.source)}",
        prose(verdict(report)),
        section("Models", COLUMNS, report.rows, len(report.rows)),
        "\n".join(f"- **{label}:** {prose(text)}" for label, text in facts(report)),
    )
    return document(parts, report.warnings, report.version)
