"""`qtool quantize`."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qtool.cli.choices import NAMES, choice_options
from qtool.cli.command import Command
from qtool.cli.common import SRC, deliver, gate_option, output_options, progress_bar
from qtool.errors import UsageError
from qtool.tables.modes import MODES
from qtool.tables.targets import TARGETS

if TYPE_CHECKING:
    from qtool.graph.save import Staging


def _described(table: dict[str, Any]) -> str:
    return "; ".join(f"{name}: {row.summary}" for name, row in table.items())


@click.command(cls=Command)
@click.argument("model", type=click.Path(path_type=Path, allow_dash=True))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, allow_dash=True),
    help="The file to write; - is stdout, and all else is then on stderr.",
)
@click.option(
    "--mode",
    type=click.Choice(list(MODES)),
    default="static",
    show_default=True,
    help=_described(MODES) + ".",
)
@click.option(
    "--calib",
    type=SRC,
    help="Samples that set the ranges: a directory of .npz, one sample a file, keys are input names.",
)
@click.option(
    "--data",
    type=SRC,
    help="Samples to judge on. Default: every fourth calibration sample, which then sets no range.",
)
@click.option(
    "--labels",
    type=click.Path(path_type=Path),
    help="JSON, sample file name -> class: true accuracy of both models.",
)
@click.option(
    "--target",
    type=click.Choice(list(TARGETS)),
    default="cpu",
    show_default=True,
    help=_described(TARGETS) + ".",
)
@click.option(
    "--exclude",
    multiple=True,
    metavar="PATTERN",
    help="Keep in float: a node name, a glob, or op:Type. Repeatable.",
)
@click.option(
    "--include",
    multiple=True,
    metavar="PATTERN",
    help="Quantize even where the target would rather not; wins over --exclude. Repeatable.",
)
@choice_options
@gate_option
@click.option("--require-quantized", is_flag=True, help="Exit 1 when nothing ends quantized.")
@click.option(
    "--dry-run",
    is_flag=True,
    help="Say what would be quantized and what not, and why. Needs no samples, writes nothing.",
)
@click.option(
    "--save-plan",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the plan: every scale and every decision, as JSON.",
)
@click.option(
    "--plan",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Replay a saved plan, byte for byte, without calibration.",
)
@click.option("--force", is_flag=True, help="Replace an existing output.")
@output_options
def quantize(model: Path, output: Path | None, **given: Any) -> int:
    """Quantize MODEL to int8, write it to OUTPUT, and judge the file that was written.

    The output appears complete, and only when every gate holds. Where int8 turns out slower than FP32,
    the FP32 model is written with its weights stored as int8, and the report says so.

    \b
    qtool quantize model.onnx -o int8.onnx --calib samples/
    qtool quantize model.onnx -o int8.onnx --calib samples/ --data held_out/ --fail-if 'sqnr<20'
    qtool quantize model.onnx --dry-run -v
    fetch model | qtool quantize - -o - --calib samples/ > int8.onnx
    qtool quantize model.onnx -o int8.onnx --calib samples/ --exclude '*/head/*' --exclude op:Gemm

    \b
    Known limits: samples come from .npz directories; nodes inside If, Loop and Scan get int8 weights
    but no int8 activations.
    """
    from qtool.options import Options
    from qtool.pipeline import dry_run
    from qtool.pipeline import quantize as run
    from qtool.plan.serial import to_json

    show = {key: given[key] for key in ("as_json", "quiet", "verbose")}
    names = (
        "mode", "target", "calib", "data", "labels", "exclude", "include", "fail_if",
        "require_quantized", "threads", "force", *NAMES,
    )  # fmt: skip
    options = Options(**{name: given[name] for name in names}, plan=_read_plan(given["plan"]))
    if given["dry_run"]:
        if given["save_plan"]:
            raise UsageError("--save-plan needs a calibrated plan", "leave out --dry-run")
        return deliver(dry_run(model, options).report, **show)
    if output is None:
        raise UsageError("no output", "add -o OUTPUT, or --dry-run")
    if given["save_plan"]:
        _check_plan_target(given["save_plan"], model, output, given["force"])
    with _plan_file(given["save_plan"]) as plan_file:
        with progress_bar(given["quiet"]) as progress:
            result = run(model, output, options, progress)
        if plan_file is not None and result.ok:
            plan_file.write_text(to_json(result.plan))
            plan_file.commit()
    return deliver(result.report, **show)


def _check_plan_target(path: Path, model: Path, output: Path, force: bool) -> None:
    from qtool.graph.save import check_target

    if path.resolve() == output.resolve():
        raise UsageError(f"--save-plan '{path}' is the output")
    check_target(path, [model], force)


def _read_plan(path: Path | None) -> Any:
    if path is None:
        return None
    from qtool.plan.serial import from_json

    try:
        return from_json(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"plan '{path}' can't be read: {error}") from error


def _plan_file(path: Path | None) -> AbstractContextManager[Staging | None]:
    """Where the plan will be written; a folder that is missing is known before the work is done."""
    from qtool.graph.save import staged

    return nullcontext() if path is None else staged(path)
