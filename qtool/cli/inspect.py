"""`qtool inspect`."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from qtool.cli.command import Command
from qtool.cli.streams import called
from qtool.errors import EXIT_OK

if TYPE_CHECKING:
    from qtool.graph.inspection.model import Difference, Inspection


@click.command(cls=Command)
@click.argument("model", type=click.Path(path_type=Path, allow_dash=True))
@click.argument("other", type=click.Path(path_type=Path, allow_dash=True), required=False)
@click.option("-v", "--verbose", is_flag=True, help="Show all ops, all constants that differ, all metadata.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of tables.")
def inspect(model: Path, other: Path | None, as_json: bool, verbose: bool) -> int:
    """Show what is in a model, or what changed from one model to another.

    One model: inputs and outputs, ops with their precision, weights by type, the quantized share and its
    form, and the recipe if qtool wrote the model. Two models: only the differences, and constants of the
    same name with different values. One of them may be -, a model on stdin.

    \b
    qtool inspect model.onnx
    qtool inspect model.onnx int8.onnx
    qtool inspect int8.onnx --json | jq '.models[0].quantized_share'
    qtool inspect before.onnx after.onnx --json | jq '.difference.tensors[].name'

    \b
    A node counts as int8 if its op computes in integers, or if it is between DequantizeLinear and
    QuantizeLinear; whether the runtime has a kernel for it is not in the file. A node whose weights are
    only stored as int8 computes in floats. JSON: schema qtool.inspection/1, docs/report.md.

    \b
    Exit codes: 0 done; 2 usage; 3 a model is missing, corrupt, invalid or unsupported.
    """
    from qtool.graph.inspection.change import difference
    from qtool.graph.inspection.read import inspect_model

    inspection = inspect_model(model) if other is None else difference(model, other)
    _print(_named(inspection), as_json, verbose)
    return EXIT_OK


def _print(inspection: Inspection | Difference, as_json: bool, verbose: bool) -> None:
    from qtool.graph.inspection.model import Inspection

    if as_json:
        from qtool.report.inspection import to_json

        click.echo(to_json(inspection), nl=False)
    else:
        from qtool.report.difference import render_difference
        from qtool.report.inspection import render_inspection
        from qtool.report.terminal import TableConsole

        if isinstance(inspection, Inspection):
            render_inspection(inspection, TableConsole(), verbose)
        else:
            render_difference(inspection, TableConsole(), verbose)
    sys.stdout.flush()


def _named(inspection: Inspection | Difference) -> Inspection | Difference:
    """Name stdin in place of its temporary file."""
    from qtool.graph.inspection.model import Inspection

    def told(one: Inspection) -> Inspection:
        return replace(one, path=called(one.path))

    if isinstance(inspection, Inspection):
        return told(inspection)
    return replace(inspection, before=told(inspection.before), after=told(inspection.after))
