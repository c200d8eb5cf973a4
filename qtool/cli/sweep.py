"""`qtool sweep`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qtool.cli import config_file, config_values
from qtool.cli.command import Command, command_line, flags_of
from qtool.cli.common_options import worker_options
from qtool.cli.config import checked_table
from qtool.cli.deliver import file_options, write_reports
from qtool.cli.job_options import JOB, options_of
from qtool.cli.output_files import check_reports
from qtool.cli.progress import progress_line
from qtool.cli.quantize import quantize
from qtool.cli.types import part_of
from qtool.errors import UsageError, printable
from qtool.report.formats import SWEEP_FORMATS

if TYPE_CHECKING:
    from qtool.options import Options

# Of a sweep as a whole: no configuration sets them.
_OF_THE_SWEEP = {"force", "checkpoint", "resume", "jobs", "ray"}


@click.command(cls=Command)
@click.argument("models", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--configs",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE",
    help="The configurations, as TOML: a table each, with the options of qtool quantize. Options above the "
    "tables are for all of them. {folder} and {stem} in a value are the model's folder, and the name of its "
    "file without the suffix.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FOLDER",
    help="The folder of the results: MODEL/CONFIG.onnx, .json (the report) and .plan.json.",
)
@worker_options("A worker takes a model and configuration at a time; speeds are exact with one")
@click.option(
    "--resume",
    is_flag=True,
    help="Skip what an earlier run has done, with the same models, samples, options and version.",
)
@click.option(
    "--part",
    metavar="I/N",
    callback=part_of,
    help="Run only pairs I, I+N, ..: one of N parts, such as a job of an array. Then --resume gathers all.",
)
@click.option("--force", is_flag=True, help="Replace results in FOLDER.")
@file_options(SWEEP_FORMATS)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of a table.")
@click.option("-q", "--quiet", is_flag=True, help="No table and no progress; errors only.")
def sweep(models: tuple[Path, ...], configs: Path, output: Path, **values: Any) -> int:
    """Quantize every model in every configuration, and show one table.

    An error of one model ends no other. The exit code is that of the first error, else 1 where a gate
    failed.

    \b
    qtool sweep a.onnx b.onnx --configs configs.toml -o results/ --report sweep.md
    qtool sweep models/*.onnx --configs configs.toml -o results/ --resume -j 4
    qtool sweep models/*.onnx --configs configs.toml -o results/ --part 2/8
    """
    from qtool.commands.sweep import run_sweep, sweep_items
    from qtool.report.sweep import render_sweep, to_json
    from qtool.report.terminal import TableConsole

    items = sweep_items(models, _configurations(configs), output)
    check_reports(values, [*models, configs], [item.output for item in items], SWEEP_FORMATS)
    with progress_line("sweep", values["quiet"]) as progress:
        result = run_sweep(
            items,
            output,
            progress=progress,
            **{name: values[name] for name in ("jobs", "ray", "resume", "force", "part")},
        )
    result = replace(result, arguments=command_line())
    try:
        write_reports(result, values, SWEEP_FORMATS)
    finally:  # print the result even where a file can't be written
        if values["as_json"]:
            click.echo(to_json(result), nl=False)
        elif not values["quiet"]:
            render_sweep(result, TableConsole())
    for warning in result.warnings:
        click.echo(f"warning: {printable(warning)}", err=True)
    for row in result.rows:
        if row.failed:
            click.echo(f"error: {printable(f'{row.model}, {row.name}: {row.failed}', 600)}", err=True)
    return result.exit_code


_Arguments = Callable[[Path, Path], tuple[str, ...]]


def _configurations(path: Path) -> Mapping[str, tuple[Callable[[Path], Options], _Arguments]]:
    """Return the configurations of a file: name -> functions that return a model's options, and its command.

    Raises:
        UsageError: it can't be read, or a value is none of an option of quantize.
    """
    file = config_file.read(path)
    tables = {name: table for name, table in file.table.items() if isinstance(table, dict)}
    shared = {key: value for key, value in file.table.items() if key not in tables}
    if not tables:
        raise UsageError(f"{file.name}: no configuration", "add a table for each, such as [int8]")
    checked = checked_table(file.name, shared, quantize, JOB - _OF_THE_SWEEP)
    entries = {
        name: {**checked, **checked_table(f"{file.name}: [{name}]", table, quantize, JOB - _OF_THE_SWEEP)}
        for name, table in tables.items()
    }

    def functions(own: Mapping[str, tuple[str, click.Option, Any]]) -> tuple[Any, _Arguments]:
        def settings(model: Path) -> Iterator[tuple[click.Option, Any]]:
            ctx = click.get_current_context()
            for where, option, value in own.values():
                filled = _filled(value, model)
                yield option, config_values.from_file(ctx, option, filled, file.base, where)

        def options(model: Path) -> Options:
            defaults = {str(option.name): value for option, value in settings(model)}
            return options_of(_values(model, defaults))

        def arguments(model: Path, output: Path) -> tuple[str, ...]:
            words = ["qtool", "quantize", str(model), "-o", str(output)]
            return (*words, *(w for option, value in settings(model) for w in flags_of(option, value)))

        return options, arguments

    return {name: functions(own) for name, own in entries.items()}


def _filled(value: Any, model: Path) -> Any:
    """Return a value with the model's folder and stem in place of their names in braces."""
    if isinstance(value, list):
        return [_filled(item, model) for item in value]
    if not isinstance(value, str):
        return value
    return value.replace("{folder}", str(model.parent.absolute())).replace("{stem}", model.stem)


def _values(model: Path, settings: dict[str, Any]) -> Mapping[str, Any]:
    """Return the values of all options of quantize, where some are set and the others have their defaults."""
    parent = click.get_current_context()
    kept = dict(parent.meta)
    try:
        ctx = quantize.make_context("quantize", [str(model)], parent, default_map=settings)
    finally:  # contexts share it
        parent.meta.clear()
        parent.meta.update(kept)
    return {name: value for name, value in ctx.params.items() if name not in _OF_THE_SWEEP}
