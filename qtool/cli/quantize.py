"""`qtool quantize`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qtool.cli.budget import budget_options
from qtool.cli.choices import choice_options
from qtool.cli.command import Command
from qtool.cli.common import gate_options, output_options, progress_bar
from qtool.cli.deliver import deliver, form_of, report_options
from qtool.cli.jobs import check_targets, job_options, options_of, text_file
from qtool.cli.sources import source_options
from qtool.cli.targets import check_reports
from qtool.errors import UsageError

if TYPE_CHECKING:
    from qtool.plan.model import Plan
    from qtool.report.result import Result


@click.command(cls=Command)
@click.argument("model", type=click.Path(path_type=Path, allow_dash=True))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, allow_dash=True),
    help="The file to write; - is stdout, and all else is then on stderr.",
)
@job_options
@choice_options
@budget_options
@gate_options
@click.option(
    "--dry-run",
    is_flag=True,
    help="Say what would be quantized and what not, and why. Needs no samples, writes nothing.",
)
@click.option(
    "--plan",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Replay a saved plan, byte for byte, without calibration.",
)
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Holds the best plan so far, as --plan takes it, until the model is in place.",
)
@click.option("--resume", is_flag=True, help="Go on from --checkpoint, where there is one.")
@output_options
@report_options
@source_options("calib", "data")
def quantize(model: Path, output: Path | None, **given: Any) -> int:
    """Quantize MODEL, write it to OUTPUT, and judge the file that was written.

    The output appears complete, and only when every gate holds. Where int8 turns out slower than FP32,
    the FP32 model is written with its weights stored as int8, and the report says so.

    \b
    qtool quantize model.onnx -o int8.onnx --calib samples/
    qtool quantize model.onnx -o int8.onnx --calib samples/ --data held_out/ --fail-if 'sqnr<20'
    qtool quantize model.onnx -o int8.onnx --mode dynamic
    qtool quantize model.onnx -o half.onnx --mode fp16 --calib samples/
    qtool quantize model.onnx --dry-run -v
    qtool quantize model.onnx -o int8.onnx --calib samples/ --min-sqnr 30 --explain '*/head/*'
    fetch model | qtool quantize - -o - --calib samples/ > int8.onnx
    qtool quantize model.onnx -o int8.onnx --calib samples/ --exclude '*/head/*' --exclude op:Gemm

    \b
    Known limits: nodes inside If, Loop and Scan get int8 weights but no int8 activations.
    """
    from qtool.commands.quantize import dry_run
    from qtool.commands.quantize import quantize as run
    from qtool.plan.serial import to_json

    form = form_of(given)
    options = options_of(given, _read_plan(_resumed(given) or given["plan"]))
    if given["dry_run"]:
        if given["save_plan"]:
            raise UsageError("--save-plan needs a calibrated plan", "leave out --dry-run")
        check_reports(given, [model], [])
        return deliver(dry_run(model, options).report, form, given)
    if output is None:
        raise UsageError("no output", "add -o OUTPUT, or --dry-run")
    checkpoint = None if options.resume else given["checkpoint"]  # who goes on from a plan has read it
    if checkpoint is not None and checkpoint.exists():
        hint = "add --resume to go on from it, or remove it"
        raise UsageError(f"checkpoint '{checkpoint}' is there already", hint)
    written = {"--output": output, "--save-plan": given["save_plan"], "--checkpoint": checkpoint}
    check_targets(model, given, written)
    with text_file(given["save_plan"]) as plan_file:
        with progress_bar(given["quiet"]) as progress:
            result = _run(partial(run, model, output, options, progress), given["checkpoint"])
        if plan_file is not None and result.report.written:
            plan_file.write_text(to_json(result.plan))
            plan_file.commit()
    return deliver(result.report, form, given)


def _run(work: Callable[[], Result], checkpoint: Path | None) -> Result:
    """Do it; who stops it is told where the best plan so far is."""
    try:
        return work()
    except KeyboardInterrupt:
        if checkpoint is not None and checkpoint.exists():
            click.echo(
                f"the best plan so far is in '{checkpoint}': --plan replays it, --resume goes on", err=True
            )
        raise


def _resumed(given: Mapping[str, Any]) -> Path | None:
    """The checkpoint to go on from.

    Raises:
        UsageError: none is named, or a plan beside it.
    """
    if not given["resume"]:
        return None
    if given["checkpoint"] is None or given["plan"]:
        raise UsageError("--resume goes on from --checkpoint FILE", "name it, and no --plan")
    path: Path = given["checkpoint"]
    return path if path.exists() else None


def _read_plan(path: Path | None) -> Plan | None:
    if path is None:
        return None
    from qtool.plan.serial import PLAN

    return PLAN.read(path)
