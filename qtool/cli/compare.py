"""`qtool compare`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qtool.cli.command import Command
from qtool.cli.common_options import JUDGING, gate_options, gates_of, output_options, runtime_option
from qtool.cli.deliver import deliver, form_of, report_options
from qtool.cli.folder import run_folder
from qtool.cli.output_files import check_reports, files_read
from qtool.cli.progress import progress_line
from qtool.cli.source_options import reading_of, source_help, source_options
from qtool.cli.types import OUTPUT, SRC
from qtool.errors import UsageError
from qtool.tables.judging import TASK

if TYPE_CHECKING:
    from qtool.evaluate.reference_outputs import ReferenceOutputs
    from qtool.options import Comparing


@click.command(cls=Command)
@click.argument("fp32", type=click.Path(path_type=Path, allow_dash=True))
@click.argument("quantized", type=click.Path(path_type=Path, allow_dash=True), required=False)
@click.option(
    "--data",
    type=SRC,
    required=True,
    help=source_help("Samples"),
)
@gate_options
@click.option(
    "--save-ref",
    type=OUTPUT,
    metavar="FILE",
    help="Save the outputs of FP32, to judge models later without it.",
)
@click.option(
    "--load-ref",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Use the FP32 outputs that --save-ref saved for these samples.",
)
@click.option("--force", is_flag=True, help="Replace existing files of --save-ref and --report.")
@click.option("--speed", is_flag=True, help="Time both models, in turns.")
@runtime_option("Runtime that runs QUANTIZED", "onnxruntime, which runs FP32 in any case")
@output_options
@report_options
@source_options("data")
def compare(fp32: Path, quantized: Path | None, data: str, **values: Any) -> int:
    """Compare a quantized model with FP32 on the same samples, and judge gates.

    One of the two may be -, a model on stdin. With --load-ref, the outputs of FP32 come from a file that
    --save-ref wrote, and QUANTIZED is the only model. Of two folders, models of the same name are compared.

    \b
    qtool compare model.onnx int8.onnx --data held_out/
    qtool compare model.onnx int8.onnx --data held_out/ --fail-if 'sqnr<20' && ship int8.onnx
    qtool compare model.onnx int8.onnx --data eval/ --labels labels.json --fail-if 'accuracy_drop>0.005'
    qtool compare model.onnx int8.onnx --data eval/ --metric metrics.py:f1 --fail-if 'f1<0.98'
    qtool compare model.onnx int8.onnx --data eval/ --save-ref golden.npz
    qtool compare int8.onnx --data eval/ --load-ref golden.npz --gates gates.txt
    qtool compare model.onnx int8.onnx --data eval/ --gates gates.txt --github --report junit.xml
    """
    from qtool.commands.compare import compare_models
    from qtool.graph.save import check_target

    if fp32.is_dir():
        return _folders(fp32, quantized, data, values)
    form = form_of(values)
    models = [model for model in (fp32, quantized) if model is not None]
    read = {**values, "data": data}
    if values["save_ref"] is not None:
        check_target(values["save_ref"], [*models, *files_read(read)], values["force"])
    check_reports(read, models, [values["save_ref"]])
    reference, model = _models(fp32, quantized, values["load_ref"])
    options = _options(values)
    with progress_line("compare", values["quiet"]) as progress:
        report = compare_models(reference, model, data, options, progress)
    return deliver(report, form, values)


def _options(values: Mapping[str, Any]) -> Comparing:
    from qtool.options import Comparing

    names = ("data_format", "speed", "runtime", "threads", "save_ref", "force", *JUDGING)
    return Comparing(
        **{name: values[name] for name in names},
        gate=values["gate"] or TASK,
        fail_if=gates_of(values),
        reading=reading_of(values),
    )


def _folders(fp32: Path, quantized: Path | None, data: str, values: Mapping[str, Any]) -> int:
    """Compare the models of two folders."""
    from qtool.commands.folder import compare_folders

    if quantized is None:
        raise UsageError("compare needs two folders", "qtool compare FOLDER QUANTIZED --data SRC")
    return run_folder(
        "compare",
        fp32,
        values,
        lambda progress: compare_folders(fp32, quantized, data, _options(values), progress),
    )


def _models(fp32: Path, quantized: Path | None, kept: Path | None) -> tuple[Path | ReferenceOutputs, Path]:
    """Return the reference, a model or its recorded outputs, and the model to compare."""
    if kept is None:
        if quantized is None:
            raise UsageError("compare needs two models", "qtool compare FP32 QUANTIZED --data SRC")
        return fp32, quantized
    if quantized is not None:
        raise UsageError("--load-ref takes the place of FP32: one model only", f"leave out '{fp32}'")
    from qtool.evaluate.reference_outputs import ReferenceOutputs

    return ReferenceOutputs(kept), fp32
