"""Quantize models for Qualcomm's NPU and judge them on its simulator: one row of docs/targets.md a model.

    pip install onnxruntime-qnn       # in an environment of its own, beside qtool
    python benchmarks/qnn.py ../shared/models/* sample_models/cnn

A folder holds model.onnx, calib/ and eval/, as those of sample_models/ do. Free axes get the lengths of the
first sample. A simulator tells the outputs, not the speed.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

import qtool
from qtool.data.model_inputs import inputs_of
from qtool.data.reading import Reading
from qtool.errors import QtoolError
from qtool.graph.load import load
from qtool.plan.model import Kind

SAMPLES = 48


def row(folder: Path, effort: str) -> str:
    """Return a row of the table: dB on the NPU and on the CPU, and the type of the activations."""
    model = folder / "model.onnx"
    first = sorted((folder / "calib").glob("*.npz"))[0]
    with np.load(first) as sample:
        shapes = {name: sample[name].shape for name in sample.files}
    free = {
        n: shapes[n] for n, i in inputs_of(load(model).model).items() if n in shapes and not is_fixed(i.shape)
    }
    options = qtool.Options(
        target="qnn",
        calib=folder / "calib",
        reading=Reading(shape=free, samples=SAMPLES),
        effort=effort,
        keep_failed=True,
        gate="none",
        recover="wide" if effort == "fast" else "auto",
        threads=1,
    )
    with tempfile.TemporaryDirectory() as scratch:
        try:
            done = qtool.quantize(model, Path(scratch) / "qnn.onnx", options)
        except QtoolError as error:
            return f"| {folder.name} | refused | | | {error.message} |"
    comparison, plan = done.report.comparison, done.plan
    npu = float("nan") if comparison is None else comparison.sqnr
    types = {s.spec.qtype.name for s in plan.sites if s.kind is Kind.ACTIVATION}
    floats = ", ".join(sorted({s.op for s in plan.skips}))
    cpu = done.report.cpu_sqnr or float("nan")
    acts = ", ".join(sorted(types)) or "none"
    return f"| {folder.name} | {npu:.1f} | {cpu:.1f} | {acts} | {floats or 'none'} |"


def is_fixed(shape: tuple[int | str | None, ...] | None) -> bool:
    """Return whether an input has a length on every axis."""
    return shape is not None and all(isinstance(axis, int) and axis > 0 for axis in shape)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--effort", default="fast", help="fast: of recovery, the choice of 16 bits alone")
    args = parser.parse_args()
    print("| model | dB on the NPU | dB on the CPU | activations | in float16, or what the NPU lacks |")
    print("|---|---|---|---|---|")
    for folder in args.folders:
        print(row(folder, args.effort), flush=True)


if __name__ == "__main__":
    main()
