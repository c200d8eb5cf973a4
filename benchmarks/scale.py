"""Time and memory of quantizing large models: weight-only, fp16 and dynamic, without samples.

    python benchmarks/scale.py /data/scale --sizes 3 12

Makes transformer-like models of these sizes (GB) in the folder, if it has none (large_models.py). The program
quantizes each in every way below. The source is read once before, so that the page cache holds what
fits of it. Memory is the peak of the largest process, mapped pages included (ru_maxrss);
the speed is in bytes of float32 weights. The result is opened and run on one sequence of 8 tokens where its
weights, as the runtime holds them, fit in the memory. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import onnxruntime as ort
from large_models import make, shape_of
from table import program

WAYS = {
    "4 bits, blocks of 32": ["--mode", "weight-only", "--bits", "4", "--block", "32"],
    "4 bits, MatMulNBits": ["--mode", "weight-only", "--bits", "4", "--block", "32", "--prefer", "speed"],
    "8 bits": ["--mode", "weight-only"],
    "dynamic": ["--mode", "dynamic"],
    "fp16": ["--mode", "fp16"],
}
# The runtime unpacks stored weights to floats when it loads a model.
PACKED = {"4 bits, MatMulNBits", "dynamic"}
OPENED_GB = 4.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sizes", nargs="+", type=float, default=[3.0], metavar="GB")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    args = parser.parse_args()
    args.folder.mkdir(exist_ok=True)
    print("| model | way | took s | CPU s | MB/s | peak MB | result MB | runs |")
    print("|---|---|---|---|---|---|---|---|")
    for size in args.sizes:
        shape = shape_of(int(size * 1e9))
        model = args.folder / f"{size:g}gb.onnx"
        if not model.exists():
            make(model, shape)
        for way in args.ways:
            print(row(model, shape.weights * 4, way), flush=True)


def row(model: Path, weight_bytes: int, way: str) -> str:
    """Quantize a model in one way: a row of the table."""
    read_once(model.with_name(model.name + ".data"))
    with tempfile.TemporaryDirectory(dir=model.parent) as scratch:
        result = Path(scratch, "result.onnx")
        command = [program(), "quantize", str(model), "-o", str(result), *WAYS[way], "--quiet"]
        start = time.perf_counter()
        with subprocess.Popen(command) as process:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        took = time.perf_counter() - start
        if process.returncode:
            return f"| {model.stem} | {way} | exit {process.returncode} | | | | | |"
        size = sum(f.stat().st_size for f in Path(scratch).iterdir())
        peak = usage.ru_maxrss / 1e3 * 1.024
        runs = "yes" if way in PACKED or weight_bytes < OPENED_GB * 1e9 else "not tried"
        if runs == "yes":
            in_process(run, result)
    return (
        f"| {model.stem} | {way} | {took:.1f} | {usage.ru_utime + usage.ru_stime:.1f} "
        f"| {weight_bytes / took / 1e6:.0f} | {peak:.0f} | {size / 1e6:.0f} | {runs} |"
    )


def read_once(file: Path) -> None:
    """Read a file, so that the page cache holds it."""
    with file.open("rb") as stream:
        while stream.read(1 << 24):
            pass


def in_process(work: Callable[[Path], None], model: Path) -> None:
    """Do it in a process of its own: a child's peak of memory begins with that of its parent."""
    process = multiprocessing.get_context("spawn").Process(target=work, args=(model,))
    process.start()
    process.join()
    if process.exitcode:
        sys.exit(f"{model} does not run")


def run(model: Path) -> None:
    """Run a model on one sequence; exit if a result is not finite."""
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"input_ids": np.arange(8, dtype=np.int64)[None]})
    if not np.isfinite(logits).all():
        sys.exit(f"{model}: a result is not finite")


if __name__ == "__main__":
    main()
