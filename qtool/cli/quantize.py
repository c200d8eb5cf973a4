"""`qtool quantize`."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qtool.cli.choices import NAMES, choice_options
from qtool.cli.command import Command
from qtool.cli.common import JUDGING, SRC, gate_options, gates_of, output_options, progress_bar
from qtool.cli.deliver import deliver, form_of, report_options
from qtool.cli.sources import reading_of, source_help, source_options
from qtool.cli.targets import check_reports, files_read, same_name
from qtool.errors import UsageError
from qtool.steps import step
from qtool.tables.modes import MODES
from qtool.tables.targets import TARGETS

if TYPE_CHECKING:
    from qtool.graph.save import Staging

_LARGEST_PLAN = 1 << 30  # bytes; the scales of the blocks of billions of weights take less


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
    help=source_help("Samples that set the ranges") + " Or none: rough ranges, from the model alone.",
)
@click.option(
    "--ranges",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="What qtool calibrate found, instead of samples; add --data to have the result judged.",
)
@click.option(
    "--data",
    type=SRC,
    help="Samples to judge on. Default: every fourth calibration sample, which then sets no range.",
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
@gate_options
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
@click.option("--force", is_flag=True, help="Replace an existing output, plan or report.")
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
    fetch model | qtool quantize - -o - --calib samples/ > int8.onnx
    qtool quantize model.onnx -o int8.onnx --calib samples/ --exclude '*/head/*' --exclude op:Gemm

    \b
    Known limits: nodes inside If, Loop and Scan get int8 weights but no int8 activations.
    """
    from qtool.options import Options
    from qtool.pipeline import dry_run
    from qtool.pipeline import quantize as run
    from qtool.plan.serial import to_json

    form = form_of(given)
    names = (
        "mode", "target", "calib", "calib_format", "ranges", "data", "data_format", *JUDGING, "exclude",
        "include", "require_quantized", "threads", "force", *NAMES,
    )  # fmt: skip
    chosen = {name: given[name] for name in names}
    options = Options(
        **chosen, fail_if=gates_of(given), reading=reading_of(given), plan=_read_plan(given["plan"])
    )
    if given["dry_run"]:
        if given["save_plan"]:
            raise UsageError("--save-plan needs a calibrated plan", "leave out --dry-run")
        check_reports(given, [model], [])
        return deliver(dry_run(model, options).report, form, given)
    if output is None:
        raise UsageError("no output", "add -o OUTPUT, or --dry-run")
    _check_targets(model, output, given)
    with _plan_file(given["save_plan"]) as plan_file:
        with progress_bar(given["quiet"]) as progress:
            result = run(model, output, options, progress)
        if plan_file is not None and result.ok:
            plan_file.write_text(to_json(result.plan))
            plan_file.commit()
    return deliver(result.report, form, given)


def _check_targets(model: Path, output: Path, given: dict[str, Any]) -> None:
    """Before any work is done: no output is an input, by whatever name, nor the other output."""
    from qtool.graph.load import load
    from qtool.graph.save import check_target

    read = [model, *files_read(given)]
    check_target(output, read, given["force"])
    plan: Path | None = given["save_plan"]
    if plan is not None:
        if same_name(plan, output):
            raise UsageError(f"--save-plan '{plan}' is the output")
        check_target(plan, read, given["force"])
        if plan.exists():  # and --force: it may be what holds the model's weights
            check_target(plan, load(model).files, given["force"])
    check_reports(given, [model], [output, plan])


def _read_plan(path: Path | None) -> Any:
    if path is None:
        return None
    from qtool.plan.serial import from_json

    try:
        with step(str(path), "it is read", UsageError), path.open("rb") as stream:
            data = stream.read(_LARGEST_PLAN + 1)
        if len(data) > _LARGEST_PLAN:
            raise UsageError(f"plan '{path}' is larger than {_LARGEST_PLAN:,} bytes", "is it the one?")
        return from_json(data.decode(), str(path))
    except (OSError, ValueError, RecursionError) as error:  # no UTF-8, nesting without end, an odd name
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"plan '{path}' can't be read: {reason}") from error


def _plan_file(path: Path | None) -> AbstractContextManager[Staging | None]:
    """Where the plan will be written; a folder that is missing is known before the work is done."""
    from qtool.graph.save import staged

    return nullcontext() if path is None else staged(path)
