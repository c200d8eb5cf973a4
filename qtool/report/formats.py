"""The forms that a report can be written in, one file each: a row here is all that a new one needs.

Only names are here, so that the command line can offer them without importing what renders.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from qtool.errors import UsageError, did_you_mean


@dataclass(frozen=True)
class Format:
    """A form of a report.

    Args:
        suffix: of its files.
        function: 'module:function' that renders a report as text.
        help: what it is for.
        needs: 'module:function' that raises an EnvironmentFailure where a library is missing; '' for none.
    """

    suffix: str
    function: str
    help: str
    needs: str = ""


def _html(function: str) -> Format:
    help_ = "one page with charts that needs nothing beside it"
    return Format(".html", function, help_, "qtool.report.html.page:require_html")


FORMATS = {
    "html": _html("qtool.report.html.report:to_html"),
    "json": Format(".json", "qtool.report.json:to_json", "all of it, for qtool report and other programs"),
    "markdown": Format(".md", "qtool.report.markdown:to_markdown", "for a CI step's summary"),
    "junit": Format(".xml", "qtool.report.junit:to_junit", "a test case a gate, for CI's list of tests"),
    "csv": Format(".csv", "qtool.report.csv:to_csv", "a row an output, all measures"),
}
# Those of `qtool bench`.
BENCH_FORMATS = {
    "html": _html("qtool.report.html.bench:to_html"),
    "json": Format(".json", "qtool.report.bench:to_json", "all of it, for other programs"),
}
# Those of `qtool tune --table`.
TABLE_FORMATS = {
    "html": _html("qtool.report.html.table:to_html"),
    "json": Format(".json", "qtool.report.table:to_json", "all of it, for other programs"),
    "markdown": Format(".md", "qtool.report.table:to_markdown", "for a README"),
    "csv": Format(".csv", "qtool.report.table:to_csv", "a row a mode, numbers in full"),
}
# Those of a folder of models.
FOLDER_FORMATS = {
    "html": _html("qtool.report.html.folder:to_html"),
    "json": Format(".json", "qtool.report.folder:to_json", "all of it, for other programs"),
    "markdown": Format(".md", "qtool.report.folder:to_markdown", "for a CI step's summary"),
}
# Those of `qtool sweep`.
SWEEP_FORMATS = {
    "html": _html("qtool.report.html.sweep:to_html"),
    "json": Format(".json", "qtool.report.sweep:to_json", "all of it, for other programs"),
    "markdown": Format(".md", "qtool.report.sweep:to_markdown", "for a CI step's summary"),
    "csv": Format(".csv", "qtool.report.sweep:to_csv", "a row a model and configuration, numbers in full"),
}
# Those of `qtool analyze`.
ANALYSIS_FORMATS = {
    "html": _html("qtool.report.html.analysis:to_html"),
    "json": Format(".json", "qtool.report.analysis:to_json", "all of it, for other programs"),
    "markdown": Format(".md", "qtool.report.analysis_markdown:to_markdown", "for a CI step's summary"),
    "csv": Format(".csv", "qtool.report.analysis_csv:to_csv", "a row a tensor, all measures"),
}


def rendered(report: Any, name: str, formats: Mapping[str, Format] = FORMATS) -> str:
    """A report in the format of that name, with a final newline."""
    text: str = _function(formats[name].function)(report)
    return text if text.endswith("\n") else f"{text}\n"


def save(report: Any, path: str | Path, formats: Mapping[str, Format] = FORMATS) -> None:
    """Write a report to a file, in the format of its suffix.

    Raises:
        UsageError: a suffix that no format has.
        EnvironmentFailure: the file can't be written.
    """
    from qtool.graph.save import save_text

    path = Path(path)
    save_text(path, rendered(report, format_of(path, formats), formats))


def check_libraries(row: Format) -> None:
    """Check that a format can be written.

    Raises:
        EnvironmentFailure: a library is missing.
    """
    if row.needs:
        _function(row.needs)()


def format_of(path: Path, formats: Mapping[str, Format] = FORMATS) -> str:
    """The format that a file's suffix stands for.

    Raises:
        UsageError: none.
    """
    by_suffix = {row.suffix: name for name, row in formats.items()}
    suffix = path.suffix.lower()
    if suffix not in by_suffix:
        hint = did_you_mean(suffix, by_suffix) if suffix else ""
        every = ", ".join(f"{row.suffix} ({name})" for name, row in formats.items())
        message = f"report '{path}': the suffix names no format (there are: {every})"
        raise UsageError(message, hint or f"name it '{path.stem or 'run'}.json', or add --report-format")
    return by_suffix[suffix]


def _function(text: str) -> Any:
    module, name = text.split(":")
    return getattr(import_module(module), name)
