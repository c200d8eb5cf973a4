"""`qtool data`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qtool.cli.command import Command
from qtool.cli.progress import progress_line
from qtool.cli.source_options import reading_of, source_options
from qtool.cli.types import SRC
from qtool.errors import EXIT_OK, printable

if TYPE_CHECKING:
    from qtool.commands.data import Survey


@click.command(cls=Command)
@click.argument("src", type=SRC)
@click.option(
    "--model",
    type=click.Path(path_type=Path),
    required=True,
    help="The model that the samples are for. It is opened but not run.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of tables.")
@click.option("-q", "--quiet", is_flag=True, help="No table and no progress; errors and warnings only.")
@source_options("data", named="SRC", rare=False)
def data(src: str, model: Path, as_json: bool, quiet: bool, **values: Any) -> int:
    """Show how samples are read, and what each input of the model gets.

    SRC and the options are those of --calib and --data in the other commands. Each sample is checked
    against the model's inputs as in those commands; one that does not fit is an error. At most 100 samples
    are read, evenly spaced, or those that --samples and --seed choose.

    \b
    qtool data samples/ --model model.onnx
    qtool data photos/ --model model.onnx --preset imagenet
    qtool data texts.txt --model model.onnx --tokenizer tokenizer.json
    qtool data samples/ --model model.onnx --json | jq '.inputs[] | {name, figures}'

    \b
    JSON: schema qtool.data/1, docs/report.md. Exit codes: 0 every sample fits, also with warnings;
    2 usage; 3 the model; 4 the data; 5 a library is missing.
    """
    from qtool.commands.data import survey

    with progress_line("data", quiet) as progress:
        inputs = survey(
            src,
            model,
            reading=reading_of(values),
            data_format=values["data_format"],
            progress=progress,
        )
    _print(inputs, as_json, quiet)
    for warning in inputs.warnings:
        click.echo(f"warning: {printable(warning)}", err=True)
    return EXIT_OK


def _print(inputs: Survey, as_json: bool, quiet: bool) -> None:
    if as_json:
        from qtool.report.survey import SURVEY

        click.echo(SURVEY.to_json(inputs), nl=False)
    elif not quiet:
        from qtool.report.survey import render_survey
        from qtool.report.terminal import TableConsole

        render_survey(inputs, TableConsole())
    sys.stdout.flush()
