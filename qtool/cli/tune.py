"""`qtool tune`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from qtool.cli.command import Command, command_line
from qtool.cli.common_options import gate_options, output_options, worker_options
from qtool.cli.deliver import deliver, form_of, report_options, write_reports
from qtool.cli.help import Option
from qtool.cli.job_options import options_of, tune_options
from qtool.cli.output_files import check_reports, check_targets, text_file
from qtool.cli.progress import progress_line
from qtool.cli.source_options import source_options
from qtool.cli.streams import called
from qtool.cli.types import OUTPUT, OUTPUT_OR_STDOUT
from qtool.errors import EXIT_OK, UsageError, printable
from qtool.report.formats import TABLE_FORMATS

if TYPE_CHECKING:
    from qtool.options import Options


@click.command(cls=Command)
@click.argument("model", type=click.Path(path_type=Path, allow_dash=True))
@click.option(
    "-o",
    "--output",
    cls=Option,
    topic="Model and samples",
    type=OUTPUT_OR_STDOUT,
    help="The model to write, of the chosen point; - is stdout. Default: none.",
)
@click.option(
    "--points",
    cls=Option,
    topic="Pareto front",
    type=click.IntRange(1, 64),
    default=8,
    show_default=True,
    metavar="N",
    help="Maximum number of Pareto points to build, beside the rule-based, all-int8 and float candidates.",
)
@click.option(
    "--svg",
    cls=Option,
    topic="Pareto front",
    type=OUTPUT,
    metavar="FILE",
    help="Write a picture of speed against SQNR as SVG. It needs matplotlib.",
)
@click.option(
    "--table",
    is_flag=True,
    cls=Option,
    topic="Pareto front",
    help="Quantize in every mode instead (FP16, int8 dynamic and static, weights of 8 and 4 bits), and print "
    "one table of size, speed, SQNR and, with --labels or --metric, the metrics of the task.",
)
@tune_options
@gate_options
@source_options("calib", "data")
@report_options
@worker_options(
    "Candidates and the sensitivities of tensors are divided among them; times are measured here. As many "
    "threads read and write weights in side files (default: all usable cores)"
)
@output_options
def tune(model: Path, output: Path | None, points: int, **values: Any) -> int:
    """Measure what speed, size and accuracy a model can have, and choose one.

    The candidates that trade error for time best are built, compared with FP32 and timed side by side;
    with --mode weight-only they trade error for size. --min-sqnr, --min-speedup, --max-size and the gates
    decide which one is chosen. -o writes it under the gates of quantize.

    \b
    qtool tune model.onnx --calib samples/ --report tune.html
    qtool tune model.onnx --calib samples/ -o int8.onnx --save-plan plan.json --min-sqnr 30
    qtool tune model.onnx --calib samples/ --mode weight-only --max-size 25MB -o small.onnx
    qtool tune model.onnx --calib samples/ --labels labels.json --table --report table.md
    qtool tune model.onnx --calib samples/ --json | jq '.trials[] | {name, speedup, sqnr, bytes}'
    """
    from qtool.commands.tune import tune as run
    from qtool.plan.serial import to_json
    from qtool.report.html.charts import require_matplotlib, to_svg

    form = form_of(values)
    options = options_of(values)
    if values["table"]:
        return _table(model, options, form, values)
    written = {"--output": output, "--save-plan": values["save_plan"], "--svg": values["svg"]}
    check_targets(model, values, written)
    if values["svg"] is not None:
        require_matplotlib()
    with text_file(values["save_plan"]) as plan_file, text_file(values["svg"]) as svg_file:
        with progress_line("tune", values["quiet"]) as progress:
            result = run(model, output, options, points, progress)
        if plan_file is not None and (result.ok or result.report.written):
            plan_file.write_text(to_json(result.plan))
            plan_file.commit()
        if svg_file is not None:  # also where a gate failed: it shows what is possible
            svg_file.write_text(to_svg(result.report))
            svg_file.commit()
    return deliver(result.report, form, values)


# What says what to choose, judge or write of one model: a table has none.
_OF_ONE_MODEL = (
    "output", "points", "svg", "save_plan", "mode", "bits", "min_sqnr", "min_speedup", "max_size", "fail_if",
    "gates", "gate", "github", "explain",
)  # fmt: skip


def _table(model: Path, options: Options, form: str, values: Mapping[str, Any]) -> int:
    """Print the table of all modes, and write it to the files of --report."""
    from qtool.commands.table import tune_table
    from qtool.report.table import render_table, to_json
    from qtool.report.terminal import TableConsole

    ctx = click.get_current_context()
    for param in ctx.command.params:
        if (
            param.name in _OF_ONE_MODEL
            and ctx.get_parameter_source(param.name) is ParameterSource.COMMANDLINE
        ):
            raise UsageError(
                f"{param.opts[-1]} is of one model, and --table shows every mode", "leave one out"
            )
    check_reports(values, [model], [], TABLE_FORMATS)
    with progress_line("tune", values["quiet"]) as progress:
        table = tune_table(model, options, progress)
    table = replace(table, fp32=replace(table.fp32, path=called(table.fp32.path)), arguments=command_line())
    try:
        write_reports(table, values, TABLE_FORMATS)
    finally:  # print the result even where a file can't be written
        if form == "json":
            click.echo(to_json(table), nl=False)
        elif form:
            render_table(table, TableConsole())
    for warning in table.warnings:
        click.echo(f"warning: {printable(warning)}", err=True)
    return EXIT_OK
