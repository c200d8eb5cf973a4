"""`qtool advise`."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from qtool.cli.command import Command
from qtool.cli.progress import progress_line
from qtool.cli.source_options import reading_of, source_flags, source_help, source_options
from qtool.cli.streams import called
from qtool.cli.types import SRC
from qtool.errors import EXIT_OK
from qtool.tables.architectures import GOALS
from qtool.tables.targets import AUTO, TARGETS


@click.command(cls=Command)
@click.argument("model", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--calib", type=SRC, help=source_help("Samples that are to set the ranges"))
@click.option(
    "--goal", type=click.Choice(GOALS), default="speed", show_default=True, help="What to gain by int8."
)
@click.option(
    "--target",
    type=click.Choice([AUTO, *TARGETS]),
    default=AUTO,
    show_default=True,
    help="Where the result is to run; auto: on this CPU.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@click.option("--threads", type=click.IntRange(min=0), default=0, help="Threads of onnxruntime.")
@source_options("calib")
def advise(model: Path, **values: Any) -> int:
    """Say what a model is, which mode fits it, and the commands to run, in order.

    Looks at the ops, weights and, with --calib, at the activations of at most 8 samples. Nothing is written.

    \b
    qtool advise model.onnx
    qtool advise model.onnx --calib samples/ --goal size
    qtool advise model.onnx --calib samples/ --json | jq -r '.steps[].command'
    """
    from qtool.commands.advise import Advising, advise_on
    from qtool.report.checklist import render_checklist, to_json
    from qtool.report.terminal import TableConsole

    names = ("calib", "calib_format", "goal", "target", "threads")
    options = Advising(
        **{name: values[name] for name in names},
        reading=reading_of(values),
        reading_flags=source_flags(values),
    )
    with progress_line("advise", values["quiet"]) as progress:
        checklist = advise_on(model, options, progress)
    checklist = replace(checklist, model=replace(checklist.model, path=called(checklist.model.path)))
    if values["as_json"]:
        click.echo(to_json(checklist), nl=False)
    else:
        render_checklist(checklist, TableConsole())
    sys.stdout.flush()
    return EXIT_OK
