"""`qtool compare`."""

from __future__ import annotations

from pathlib import Path

import click

from qtool.cli.command import Command
from qtool.cli.common import SRC, deliver, gate_option, output_options, progress_bar


@click.command(cls=Command)
@click.argument("fp32", type=click.Path(path_type=Path, allow_dash=True))
@click.argument("quantized", type=click.Path(path_type=Path, allow_dash=True))
@click.option(
    "--data",
    type=SRC,
    required=True,
    help="Samples: a directory of .npz, one sample a file, keys are input names.",
)
@click.option(
    "--labels",
    type=click.Path(path_type=Path),
    help="JSON, sample file name -> class: true accuracy of both models.",
)
@gate_option
@click.option("--speed", is_flag=True, help="Time both, interleaved.")
@output_options
def compare(
    fp32: Path,
    quantized: Path,
    data: str,
    labels: Path | None,
    fail_if: tuple[str, ...],
    speed: bool,
    threads: int,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> int:
    """Run FP32 and QUANTIZED over the same samples, measure how far apart they are, and judge gates.

    One of the two may be -, a model on stdin.

    \b
    qtool compare model.onnx int8.onnx --data held_out/
    qtool compare model.onnx int8.onnx --data held_out/ --fail-if 'sqnr<20' && ship int8.onnx
    qtool compare model.onnx int8.onnx --data eval/ --labels labels.json --fail-if 'accuracy_drop>0.005'
    """
    from qtool.pipeline import compare_models

    with progress_bar(quiet) as progress:
        report = compare_models(
            fp32,
            quantized,
            data,
            labels=labels,
            fail_if=fail_if,
            speed=speed,
            threads=threads,
            progress=progress,
        )
    return deliver(report, as_json=as_json, quiet=quiet, verbose=verbose)
