"""`qtool quantize`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qtool.cli.command import Command
from qtool.cli.common_options import gate_options, output_options, worker_options
from qtool.cli.deliver import deliver, form_of, report_options
from qtool.cli.folder import run_folder
from qtool.cli.help import Option, under
from qtool.cli.job_options import options_of, quantize_options
from qtool.cli.output_files import check_reports, check_targets, text_file
from qtool.cli.progress import progress_line
from qtool.cli.source_options import source_options
from qtool.cli.types import OUTPUT, OUTPUT_OF_QUANTIZE
from qtool.errors import UsageError

if TYPE_CHECKING:
    from qtool.plan.model import Plan

_plan = under("What to quantize")


@click.command(cls=Command)
@click.argument("model", type=click.Path(path_type=Path, allow_dash=True))
@click.option(
    "-o",
    "--output",
    cls=Option,
    topic="Model and samples",
    type=OUTPUT_OF_QUANTIZE,
    brief="The model, or folder, to write; - is stdout.",
    help="The model to write; - is stdout, and tables then go to stderr. Of a folder of models: a folder.",
)
@quantize_options
@_plan(
    "--plan",
    rare=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Replay a saved plan, byte for byte, without calibration.",
)
@_plan(
    "--dry-run",
    is_flag=True,
    brief="Show what would be quantized, and why the rest would not. Needs no samples.",
    help="Show what would be quantized, and why the rest would not. Needs no samples, writes nothing.",
)
@_plan(
    "--checkpoint",
    type=OUTPUT,
    metavar="FILE",
    rare=True,
    help="Keep the best plan so far in FILE, as --plan takes it, and finished weights of a large model in "
    "OUTPUT.part, until the model is in place.",
)
@_plan(
    "--resume",
    is_flag=True,
    rare=True,
    help="Continue from --checkpoint, if it exists: with the same options.",
)
@gate_options
@source_options("calib", "data")
@report_options
@worker_options(
    "Candidates and the sensitivities of tensors are divided among them; times are measured here. As many "
    "threads read and write weights in side files (default: all usable cores)"
)
@output_options
def quantize(model: Path, output: str | None, **values: Any) -> int:
    """Quantize a model, or every model of a folder, and judge what was written.

    OUTPUT is written only when every gate holds. Where int8 is slower than FP32 here, it is FP32 with
    weights stored as int8.

    \b
    qtool quantize model.onnx -o int8.onnx --calib samples/
    qtool quantize model.onnx -o int8.onnx --calib samples/ --data held_out/ --min-sqnr 30
    qtool quantize model.onnx -o int8.onnx --mode dynamic
    qtool quantize whisper/ -o whisper-int8/ --mode dynamic
    """
    from qtool.graph.save import target_path

    if model.is_dir():
        return _folder(model, output, values)
    return _model(model, None if output is None else target_path(output), values)


def _folder(folder: Path, output: str | None, values: Mapping[str, Any]) -> int:
    """Quantize a folder of models."""
    from qtool.commands.folder import quantize_folder

    if output is None and not values["dry_run"]:
        raise UsageError("no output", "add -o FOLDER, or --dry-run")
    target = None if values["dry_run"] else output
    return run_folder(
        "quantize",
        folder,
        values,
        lambda progress: quantize_folder(folder, target, options_of(values), progress),
    )


def _model(model: Path, output: Path | None, values: Mapping[str, Any]) -> int:
    """Quantize one model."""
    from qtool.commands.quantize import dry_run
    from qtool.commands.quantize import quantize as run
    from qtool.plan.serial import to_json

    form = form_of(values)
    options = options_of(values, _read_plan(_resumed(values) or values["plan"]))
    if values["dry_run"]:
        if values["save_plan"]:
            raise UsageError("--save-plan needs a calibrated plan", "leave out --dry-run")
        check_reports(values, [model], [])
        return deliver(dry_run(model, options).report, form, values)
    if output is None:
        raise UsageError("no output", "add -o OUTPUT, or --dry-run")
    checkpoint = None if options.resume else values["checkpoint"]  # --resume has read it
    if checkpoint is not None and checkpoint.exists():
        hint = "add --resume to go on from it, or remove it"
        raise UsageError(f"checkpoint '{checkpoint}' is there already", hint)
    written = {"--output": output, "--save-plan": values["save_plan"], "--checkpoint": checkpoint}
    check_targets(model, values, written)
    with text_file(values["save_plan"]) as plan_file:
        with progress_line("quantize", values["quiet"]) as progress:
            result = run(model, output, options, progress)
        if plan_file is not None and result.report.written:
            plan_file.write_text(to_json(result.plan))
            plan_file.commit()
    return deliver(result.report, form, values)


def _resumed(values: Mapping[str, Any]) -> Path | None:
    """Return the checkpoint to continue from.

    Raises:
        UsageError: none is named, or a plan beside it.
    """
    if not values["resume"]:
        return None
    if values["checkpoint"] is None or values["plan"]:
        raise UsageError("--resume goes on from --checkpoint FILE", "name it, and no --plan")
    path: Path = values["checkpoint"]
    return path if path.exists() else None


def _read_plan(path: Path | None) -> Plan | None:
    if path is None:
        return None
    from qtool.plan.serial import PLAN

    return PLAN.read(path)
