"""`qtool calibrate`."""

from __future__ import annotations

import json
from functools import reduce
from pathlib import Path
from typing import Any

import click

from qtool.cli.command import Command
from qtool.cli.common_options import worker_options
from qtool.cli.output_files import files_read
from qtool.cli.progress import progress_line
from qtool.cli.source_options import reading_of, source_help, source_options
from qtool.cli.streams import called
from qtool.cli.types import BYTES, OUTPUT, SRC, part_of
from qtool.errors import EXIT_OK, UsageError, counted, printable
from qtool.tables.targets import AUTO, TARGETS


@click.command(cls=Command)
@click.argument(
    "files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="MODEL | RANGES..."
)
@click.option("-o", "--output", type=OUTPUT, required=True, help="The ranges file to write.")
@click.option("--calib", type=SRC, help=source_help("Samples"))
@click.option(
    "--target",
    type=click.Choice([AUTO, *TARGETS]),
    default=AUTO,
    show_default=True,
    help="The target that the ranges are for; auto: by this CPU.",
)
@click.option(
    "--shard",
    metavar="I/N",
    callback=part_of,
    help="Read only samples I, I+N, ..: one of N parts for --merge.",
)
@worker_options("Each reads a part of the samples")
@click.option(
    "--memory",
    type=BYTES,
    callback=lambda ctx, param, size: size or None,
    help="Memory limit for the observed activations of one sample, such as 2GB. If they need more, the "
    "samples are run several times.",
)
@click.option(
    "--checkpoint",
    type=OUTPUT,
    metavar="FILE",
    help="Save progress to FILE, so that --resume can continue a killed run. It is removed at the end.",
)
@click.option("--resume", is_flag=True, help="Continue from --checkpoint, if it exists.")
@click.option("--merge", is_flag=True, help="Merge ranges files of one model.")
@click.option("--force", is_flag=True, help="Replace an existing output.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of a line.")
@click.option("-q", "--quiet", is_flag=True, help="No progress; errors only.")
@click.option(
    "--threads",
    type=click.IntRange(min=0),
    default=0,
    show_default="the runtime's choice",
    help="Threads of the runtime.",
)
@source_options("calib")
def calibrate(files: tuple[Path, ...], output: Path, **values: Any) -> int:
    """Run samples through a model, and write the ranges of its tensors to a file.

    The file holds the extremes and a histogram of every tensor that could be quantized. `qtool quantize
    --ranges FILE` then needs no samples, with any --method. Merged shards equal the file of one run over
    all samples.

    \b
    qtool calibrate model.onnx --calib samples/ -o ranges.json
    qtool quantize model.onnx -o int8.onnx --ranges ranges.json --method mse --data held_out/
    qtool calibrate model.onnx --calib samples/ --shard 2/8 -o part2.json
    qtool calibrate --merge part*.json -o ranges.json
    """
    from qtool.calibration.ranges_file import read, to_json
    from qtool.commands.calibrate import Calibrating, Shard, calibrate_model
    from qtool.graph.save import check_target, save_text

    check_target(output, [*files, *files_read(values)], values["force"])
    if values["checkpoint"] is not None and values["checkpoint"].resolve() == output.resolve():
        raise UsageError(f"--checkpoint '{output}' is the output")
    if values["merge"]:
        if values["calib"] or values["shard"] != (1, 1):
            raise UsageError("--merge takes ranges files only", "leave out --calib and --shard")
        calibration = reduce(lambda a, b: a.merge(b), map(read, files))
    elif len(files) > 1:
        raise UsageError(f"one model at a time, not {len(files)}", "--merge makes one of many ranges files")
    elif values["calib"] is None:
        raise UsageError("no samples", "add --calib SRC, such as a directory of .npz files")
    else:
        doubts: list[str] = []
        with progress_line("calibrate", values["quiet"]) as progress:
            names = ("calib_format", "target", "threads", "memory", "jobs", "ray", "checkpoint", "resume")
            options = Calibrating(
                reading=reading_of(values),
                shard=Shard(*values["shard"]),
                **{name: values[name] for name in names},
            )
            calibration = calibrate_model(files[0], values["calib"], options, progress, doubts.append)
        for doubt in doubts:
            click.echo(f"warning: {printable(doubt)}", err=True)
    save_text(output, to_json(calibration))
    if values["as_json"]:
        counts = {
            "model_sha256": calibration.model_sha256,
            "samples": calibration.samples,
            "tensors": len(calibration.ranges),
        }
        click.echo(json.dumps({"command": "calibrate", "output": called(str(output)), **counts}))
    elif not values["quiet"]:
        tensors = counted(len(calibration.ranges), "tensor")
        click.echo(f"{tensors} over {counted(calibration.samples, 'sample')} -> {called(str(output))}")
    return EXIT_OK
