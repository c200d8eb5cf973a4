"""Folders of models: `qtool quantize FOLDER -o FOLDER` and `qtool compare FOLDER FOLDER`."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from qtool.cli.command import command_line
from qtool.cli.deliver import TABLE, form_of, write_reports
from qtool.cli.output_files import check_reports
from qtool.cli.progress import progress_line
from qtool.cli.streams import called, named
from qtool.errors import EXIT_GATE, EXIT_OK, UsageError, printable
from qtool.report.formats import FOLDER_FORMATS

if TYPE_CHECKING:
    from qtool.commands.folder import FolderReport
    from qtool.options import Progress

# The options of one model that only the command line has, or that do not reach commands/folder.py.
_OF_ONE_MODEL = ("plan", "save_plan", "resume", "explain", "github", "load_ref")
_UNSET = (ParameterSource.DEFAULT, None)


def run_folder(
    command: str,
    folder: Path,
    values: Mapping[str, Any],
    work: Callable[[Progress], FolderReport],
) -> int:
    """Run a command on folders of models, deliver its report, and return the exit code.

    Args:
        command: a row of STAGES in cli/progress.py.
        folder: of the FP32 models.
        values: its options.
        work: what it does.

    Raises:
        UsageError: an option that is of one model.
    """
    from qtool.report.folder import render_folder, to_json, verdict_text
    from qtool.report.terminal import TableConsole

    ctx = click.get_current_context()
    for param in ctx.command.params:
        if param.name in _OF_ONE_MODEL and ctx.get_parameter_source(param.name) not in _UNSET:
            raise UsageError(
                f"{param.opts[0]} is of one model, and '{folder}' is a folder", "name a model in it"
            )
    form = form_of(values)
    check_reports(values, [], [], FOLDER_FORMATS)
    with progress_line(command, values["quiet"]) as progress:
        report = _named(work(progress))
    try:
        write_reports(report, values, FOLDER_FORMATS)
    finally:  # print the result even where a file can't be written
        if form == "json":
            click.echo(to_json(report), nl=False)
        elif form == TABLE:
            with contextlib.suppress(BrokenPipeError):
                render_folder(report, TableConsole())
        sys.stdout.flush()
    _warn(report)
    if form == TABLE:
        with contextlib.suppress(BrokenPipeError):
            TableConsole().print(verdict_text(report), soft_wrap=True)
            sys.stdout.flush()
    return EXIT_GATE if report.failed else EXIT_OK


def _named(report: FolderReport) -> FolderReport:
    """Return a report with URLs in place of temporary folders, and with the command line."""
    rows = tuple(replace(row, report=named(row.report)) for row in report.rows)
    source, output = called(report.source), called(report.output)
    return replace(report, source=source, output=output, rows=rows, arguments=command_line())


def _warn(report: FolderReport) -> None:
    from qtool.report.verdict import gate_text

    for warning in report.warnings:
        click.echo(f"warning: {printable(warning)}", err=True)
    for row in report.failed:
        for gate in row.report.failed:
            text = f"{row.name}: {gate_text(row.report, gate)}"
            click.echo(f"gate failed: {printable(text)} ({gate.samples} samples)", err=True)
