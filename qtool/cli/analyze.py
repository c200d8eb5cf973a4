"""`qtool analyze`."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qtool.cli.command import Command, command_line
from qtool.cli.common_options import output_options, runtime_option
from qtool.cli.deliver import file_options, write_reports
from qtool.cli.help import under
from qtool.cli.output_files import check_reports
from qtool.cli.progress import progress_line
from qtool.cli.source_options import reading_of, source_flags, source_help, source_options
from qtool.cli.streams import called
from qtool.cli.types import SRC
from qtool.errors import EXIT_OK, printable
from qtool.report.formats import ANALYSIS_FORMATS
from qtool.tables.modes import MODES
from qtool.tables.targets import AUTO, TARGETS

if TYPE_CHECKING:
    from qtool.report.analysis import Analysis

_default = under("The model to analyze where QUANTIZED is left out")
_MODES = [name for name in MODES if name != "fp16"]


@click.command(cls=Command)
@click.argument("fp32", type=click.Path(path_type=Path, allow_dash=True))
@click.argument("quantized", type=click.Path(path_type=Path, allow_dash=True), required=False)
@click.option("--data", type=SRC, required=True, help=source_help("Samples; at most 8 are run"))
@click.option(
    "--try", "try_best", is_flag=True, help="Build the best three pieces of advice, and measure them."
)
@click.option(
    "--advice/--no-advice",
    "advise",
    default=True,
    help="Look for changes that lower the error. Default: yes; it takes about as long as the rest.",
)
@_default(
    "--calib",
    type=SRC,
    help=source_help("Samples that set ranges, here and in the advice") + " Default: half of --data.",
    brief="Samples that set ranges, here and in the advice. Default: half of --data.",
)
@_default("--mode", type=click.Choice(_MODES), default="static", show_default=True, help="Its mode.")
@_default(
    "--target", type=click.Choice([AUTO, *TARGETS]), default=AUTO, show_default=True, help="Its target."
)
@runtime_option(
    "Runtime that runs QUANTIZED; without QUANTIZED, the model that qtool would make",
    "that of the target of QUANTIZED; without QUANTIZED, nothing but a simulation is run",
)
@click.option("--force", is_flag=True, help="Replace existing files of --report.")
@output_options
@file_options(ANALYSIS_FORMATS)
@source_options("data", "calib")
def analyze(fp32: Path, quantized: Path | None, data: str, **values: Any) -> int:
    """Show which tensors and nodes carry the error of a quantized model, and what would lower it.

    QUANTIZED is a model of qtool or of another tool (QDQ, integer operators, run-time or weight-only);
    without it, the model that qtool would make by its rules (--effort fast --timing table). Advice is
    printed as commands that can be pasted, each with its predicted gain.

    \b
    qtool analyze model.onnx int8.onnx --data held_out/
    qtool analyze model.onnx --calib samples/ --data held_out/ --try
    qtool analyze model.onnx int8.onnx --data held_out/ --json | jq '.regions[:3]'

    \b
    local dB: SQNR of the outputs with this alone quantized. accumulated dB: SQNR at this point of the
    quantized model. share: of the error at the outputs. RMSE/scale: 0.289 is rounding alone.
    """
    from qtool.commands.analyze import Analyzing, analyze_model

    models = [model for model in (fp32, quantized) if model is not None]
    check_reports({**values, "data": data}, models, [], ANALYSIS_FORMATS)
    names = (
        "calib",
        "calib_format",
        "data_format",
        "mode",
        "target",
        "advise",
        "try_best",
        "runtime",
        "threads",
    )
    options = Analyzing(
        **{name: values[name] for name in names},
        reading=reading_of(values),
        reading_flags=source_flags(values),
    )
    with progress_line("analyze", values["quiet"]) as progress:
        analysis = _named(analyze_model(fp32, quantized, data, options, progress))
    analysis = replace(analysis, arguments=command_line())
    try:
        write_reports(analysis, values, ANALYSIS_FORMATS)
    finally:  # print the result even where a file can't be written
        _print(analysis, values)
    for warning in analysis.warnings:
        click.echo(f"warning: {printable(warning)}", err=True)
    return EXIT_OK


def _print(analysis: Analysis, values: dict[str, Any]) -> None:
    if values["as_json"]:
        from qtool.report.analysis import to_json

        click.echo(to_json(analysis), nl=False)
    elif not values["quiet"]:
        from qtool.report.analysis_terminal import render_analysis
        from qtool.report.terminal import TableConsole

        render_analysis(analysis, TableConsole(), values["verbose"])
    sys.stdout.flush()


def _named(analysis: Analysis) -> Analysis:
    """Name stdin in place of its temporary file."""
    files = (analysis.fp32, analysis.quantized)
    fp32, quantized = (f and replace(f, path=called(f.path)) for f in files)
    return replace(analysis, fp32=fp32 or analysis.fp32, quantized=quantized)
