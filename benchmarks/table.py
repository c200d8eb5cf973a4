"""Every mode on folders of models, beside onnxruntime.quantization: one table, from one run.

    python benchmarks/table.py ../shared/models --rival --scorer ../shared/tools/score.py
    python benchmarks/table.py sample_models/cnn --target cpu-avx2

A model's folder holds model.onnx, calib/*.npz and eval/*.npz (and labels.json). The installed program
quantizes each model with default options, one thread; static calibrates on calib/, the other modes see no
samples. The file is then measured on eval/, which quantization never saw. Speed is against the original
FP32 file, interleaved in one process, one thread. With --scorer, an independent scorer's figures are
printed in place of qtool's own. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"


MODES = {
    "static": ["--mode", "static"],
    "dynamic": ["--mode", "dynamic"],
    "weight-only 8": ["--mode", "weight-only"],
    "weight-only 8, speed": ["--mode", "weight-only", "--prefer", "speed"],
    "weight-only 4": ["--mode", "weight-only", "--bits", "4"],
    "fp16": ["--mode", "fp16"],
}
Quantize = Callable[[Path, Path], None]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--rival", action="store_true", help="also quantize with onnxruntime.quantization")
    parser.add_argument(
        "--scorer", type=Path, help="a script that prints one JSON line for FP32 QUANT EVAL_DIR"
    )
    parser.add_argument("--modes", help="only these, separated by semicolons")
    parser.add_argument("--target", default="cpu")
    args = parser.parse_args()
    wanted = MODES if args.modes is None else {m: MODES[m] for m in args.modes.split(";")}
    tools: dict[str, Quantize] = {
        m: partial(by_qtool, [*o, "--target", args.target]) for m, o in wanted.items()
    }
    if args.rival:
        tools |= {"ort static": by_rival_static, "ort dynamic": by_rival_dynamic}
    print("| model | tool | SQNR dB | speed | smaller | top-1 agreement | accuracy | took s |")
    print("|---|---|---|---|---|---|---|---|")
    for folder in expand(args.folders):
        for tool, quantize in tools.items():
            with tempfile.TemporaryDirectory() as scratch:
                target = Path(scratch) / "quantized.onnx"
                print(line(folder, tool, quantize, target, args.scorer), flush=True)


def expand(folders: list[Path]) -> list[Path]:
    """Return the folders of models among some folders and directly below them."""
    models = [sorted(folder.glob("*/model.onnx")) or [folder / "model.onnx"] for folder in folders]
    return [model.parent.resolve() for group in models for model in group]


def line(folder: Path, tool: str, quantize: Quantize, target: Path, scorer: Path | None) -> str:
    start = time.perf_counter()
    try:
        with contextlib.chdir(target.parent):  # the rival leaves files in the current folder
            quantize(folder, target)
        took = time.perf_counter() - start
        figures = score(scorer, folder, target) if scorer else compare(folder, target)
    except Exception as error:  # a tool that fails is a row, not the end of the table
        why = (str(error).strip() or type(error).__name__).splitlines()[0][:80]
        return f"| {folder.name} | {tool} | fails: {why} | | | | | |"
    cells = [
        f"{figures['sqnr']:.1f}",
        f"{figures['speedup']:.2f}x",
        f"{figures['smaller']:.2f}x",
        "" if figures["agree"] is None or math.isnan(figures["agree"]) else f"{figures['agree']:.4f}",
        figures["accuracy"],
        f"{took:.1f}",
    ]
    return f"| {folder.name} | {tool} | {' | '.join(cells)} |"


def by_qtool(options: list[str], folder: Path, target: Path) -> None:
    """Quantize with the installed program."""
    calib = ["--calib", folder / "calib"] if "static" in options else []
    command = [program(), "quantize", folder / "model.onnx", "-o", target, *options, *calib]
    done = subprocess.run([*command, "--threads", "1", "-q"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"exit {done.returncode}: {done.stderr}")


def compare(folder: Path, target: Path) -> dict[str, Any]:
    command = [program(), "compare", folder / "model.onnx", target, "--data", folder / "eval"]
    labels = ["--labels", folder / "labels.json"] if labels_usable(folder) else []
    done = subprocess.run(
        [*command, *labels, "--speed", "--json"], capture_output=True, text=True, check=True
    )
    report = json.loads(done.stdout)
    comparison = report["comparison"]
    accuracy = comparison["accuracy"]
    rows = [o["top1"] for o in comparison["outputs"] if o["rows"]]
    return {
        "sqnr": float(comparison["sqnr"]),
        "speedup": report["speedup"],
        "smaller": 1 / report["size_ratio"],
        "agree": min(map(float, rows)) if rows else None,
        "accuracy": f"{accuracy['fp32']:.3f} -> {accuracy['quantized']:.3f}" if accuracy else "",
    }


def score(scorer: Path, folder: Path, target: Path) -> dict[str, Any]:
    labels = ["--labels", folder / "labels.json"] if (folder / "labels.json").exists() else []
    command = [sys.executable, scorer, folder / "model.onnx", target, folder / "eval", *labels]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the written model can't be run: {done.stderr.strip().splitlines()[-1]}")
    figures = json.loads(done.stdout)
    has_labels = figures["acc_fp32"] is not None
    return {
        "sqnr": figures["sqnr_db_worst"],
        "speedup": figures["speedup"],
        "smaller": figures["size_ratio"],
        "agree": figures["argmax_agree"],
        "accuracy": f"{figures['acc_fp32']:.3f} -> {figures['acc_quant']:.3f}" if has_labels else "",
    }


def labels_usable(folder: Path) -> bool:
    """Return whether the labels are class numbers (a licence plate's are not)."""
    path = folder / "labels.json"
    if not path.exists():
        return False
    values = [v for k, v in json.loads(path.read_text()).items() if not k.startswith("_")]
    return all(
        isinstance(v, int) or (isinstance(v, list) and all(isinstance(x, int) for x in v)) for v in values
    )


def program() -> str:
    return str(Path(sys.executable).parent / "qtool")


def preprocessed(folder: Path, target: Path) -> Path:
    """The rival's own preparation; without symbolic shapes if those fail."""
    import onnxruntime
    from onnxruntime.quantization.shape_inference import quant_pre_process

    onnxruntime.set_default_logger_severity(3)  # a line an initializer, otherwise
    logging.disable(logging.WARNING)
    ready = target.with_suffix(".pre.onnx")
    try:
        quant_pre_process(str(folder / "model.onnx"), str(ready))
    except Exception:
        quant_pre_process(str(folder / "model.onnx"), str(ready), skip_symbolic_shape=True)
    return ready


def by_rival_static(folder: Path, target: Path) -> None:
    """onnxruntime.quantization, the setting its own documentation recommends for speed on x64."""
    import numpy as np
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.files = iter(sorted((folder / "calib").glob("*.npz")))

        def get_next(self) -> dict[str, Any] | None:
            file = next(self.files, None)
            return None if file is None else dict(np.load(file))

    ready = preprocessed(folder, target)
    quantize_static(
        str(ready),
        str(target),
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    ready.unlink()


def by_rival_dynamic(folder: Path, target: Path) -> None:
    """onnxruntime.quantization's dynamic mode: MatMul, Gemm and LSTM, signed weights, per channel."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    ready = preprocessed(folder, target)
    ops = ["MatMul", "Gemm", "LSTM"]
    quantize_dynamic(
        str(ready), str(target), op_types_to_quantize=ops, per_channel=True, weight_type=QuantType.QInt8
    )
    ready.unlink()


if __name__ == "__main__":
    main()
