"""`qtool compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from qtool.cli.command import Command
from qtool.cli.common import SRC, deliver, gate_option, output_options, progress_bar
from qtool.cli.sources import reading_of, source_help, source_options


@click.command(cls=Command)
@click.argument("fp32", type=click.Path(path_type=Path, allow_dash=True))
@click.argument("quantized", type=click.Path(path_type=Path, allow_dash=True))
@click.option(
    "--data",
    type=SRC,
    required=True,
    help=source_help("Samples"),
)
@click.option(
    "--labels",
    type=click.Path(path_type=Path),
    help="JSON or .csv, sample file name -> class: true accuracy of both models.",
)
@gate_option
@click.option("--speed", is_flag=True, help="Time both, interleaved.")
@output_options
@source_options("data")
def compare(fp32: Path, quantized: Path, data: str, **given: Any) -> int:
    """Run FP32 and QUANTIZED over the same samples, measure how far apart they are, and judge gates.

    One of the two may be -, a model on stdin.

    \b
    qtool compare model.onnx int8.onnx --data held_out/
    qtool compare model.onnx int8.onnx --data held_out/ --fail-if 'sqnr<20' && ship int8.onnx
    qtool compare model.onnx int8.onnx --data eval/ --labels labels.json --fail-if 'accuracy_drop>0.005'
    """
    from qtool.pipeline import compare_models

    with progress_bar(given["quiet"]) as progress:
        report = compare_models(
            fp32,
            quantized,
            data,
            reading=reading_of(given),
            data_format=given["data_format"],
            labels=given["labels"],
            fail_if=given["fail_if"],
            speed=given["speed"],
            threads=given["threads"],
            progress=progress,
        )
    return deliver(report, **{key: given[key] for key in ("as_json", "quiet", "verbose")})
