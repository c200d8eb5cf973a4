"""Deliver a report: stdout, files, GitHub's annotations, stderr, the exit code."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from qtool.cli.command import command_line
from qtool.cli.help import under
from qtool.cli.output_files import reports_of
from qtool.cli.streams import named
from qtool.cli.types import OUTPUT
from qtool.errors import EXIT_GATE, EXIT_OK, UsageError, printable
from qtool.report.formats import FORMATS, Format

if TYPE_CHECKING:
    from qtool.report.model import Report

F = TypeVar("F", bound=Callable[..., Any])

TABLE = "table"
_SUMMARY = "GITHUB_STEP_SUMMARY"

_report = under("Output and running")


def file_options(rows: Mapping[str, Format]) -> Callable[[F], F]:
    """Return what declares --report and --report-format for these formats."""
    formats = "; ".join(f"{row.suffix}: {name}, {row.help}" for name, row in rows.items())

    def declare(command: F) -> F:
        command = _report(
            "--report-format",
            type=click.Choice(list(rows)),
            rare=True,
            help="The format of --report FILE. Default: by its suffix.",
        )(command)
        return _report(
            "--report",
            type=OUTPUT,
            multiple=True,
            metavar="FILE",
            brief=f"Write the result to FILE: {', '.join(f.suffix for f in rows.values())}. Repeatable.",
            help=f"Write the result to FILE, also when a gate fails. By suffix: {formats}. Repeatable.",
        )(command)

    return declare


def report_options(command: F) -> F:
    """Declare --report, --report-format, --github."""
    command = _report(
        "--github",
        is_flag=True,
        rare=True,
        help="In a GitHub workflow: print an ::error line per failed gate and a ::warning line per "
        f"warning, and append the Markdown to ${_SUMMARY}.",
    )(command)
    return file_options(FORMATS)(command)


def form_of(values: Mapping[str, Any]) -> str:
    """Return the form of stdout: a name of FORMATS, the table, or '' for nothing.

    Raises:
        UsageError: --github has no stream of its own left.
    """
    form = "json" if values["as_json"] else "" if values["quiet"] else TABLE
    if values["github"] and form == "json" and sys.stdout is sys.stderr:
        raise UsageError(
            "--github with --json and '-o -' has no stream left", "--report run.json instead of --json"
        )
    return form


def deliver(report: Report, form: str, values: Mapping[str, Any]) -> int:
    """Write the files, print the report, its warnings and failed gates; return the exit code.

    Args:
        report: a result.
        form: of stdout, see `form_of`.
        values: the command's options.
    """
    report = named(report)
    if not report.arguments:  # a saved one has its own
        report = replace(report, arguments=command_line())
    try:
        write_reports(report, values)
    finally:  # print the result even where a file can't be written
        try:
            _print(report, form, values)
        except BrokenPipeError:  # `| head`: the verdict below still counts
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if not (form in FORMATS and sys.stdout is sys.stderr):  # -o -: stderr is one JSON document
        _warn(report)
        if form == TABLE and not values["github"]:  # its annotations come last
            _print_verdict(report)
    return EXIT_GATE if report.failed else EXIT_OK


def write_reports(result: Any, values: Mapping[str, Any], formats: Mapping[str, Format] = FORMATS) -> None:
    """Write the files of --report, each completely or not at all."""
    if not values["report"]:
        return
    from qtool.graph.save import save_text
    from qtool.report.formats import rendered

    for path, name in reports_of(values, formats):
        save_text(path, rendered(result, name, formats))


def _print(report: Report, form: str, values: Mapping[str, Any]) -> None:
    if form in FORMATS:
        from qtool.report.formats import rendered

        click.echo(rendered(report, form), nl=False)
    elif form == TABLE:
        _print_table(report, values)
    if values["github"]:
        _annotate(report, to_stderr=form in FORMATS)
    sys.stdout.flush()


def _print_table(report: Report, values: Mapping[str, Any]) -> None:
    from qtool.report.terminal import TableConsole, render

    if not values["github"]:
        render(report, TableConsole(), values["verbose"])
        return
    from qtool.report.github import muted

    console = TableConsole(io.StringIO())
    render(report, console, values["verbose"])
    click.echo(muted(report, console.file.getvalue()))  # type: ignore[attr-defined]


def _annotate(report: Report, *, to_stderr: bool) -> None:
    """Print GitHub's workflow commands, on either stream, and append to the summary of the step."""
    from qtool.report.formats import rendered
    from qtool.report.github import workflow_commands

    for line in workflow_commands(report):
        click.echo(line, err=to_stderr)
    summary = os.environ.get(_SUMMARY)
    if not summary:
        return
    try:
        with Path(summary).open("a", encoding="utf-8") as stream:
            stream.write(f"{rendered(report, 'markdown')}\n")
    except (OSError, ValueError) as error:  # the verdict counts for more
        reason = getattr(error, "strerror", None) or error
        with contextlib.suppress(OSError):
            click.echo(f"warning: ${_SUMMARY} can't be written: {printable(str(reason))}", err=True)


def _print_verdict(report: Report) -> None:
    """Print the verdict once more: it is the first line, and the last one after the warnings."""
    from qtool.report.terminal import TableConsole, verdict

    with contextlib.suppress(BrokenPipeError):
        TableConsole().print(verdict(report), soft_wrap=True)
        sys.stdout.flush()


def _warn(report: Report) -> None:
    from qtool.report.verdict import gate_text

    for warning in report.warnings:
        click.echo(f"warning: {printable(warning)}", err=True)
    for gate in report.failed:
        click.echo(f"gate failed: {printable(gate_text(report, gate))} ({gate.samples} samples)", err=True)
