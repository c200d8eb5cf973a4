"""Time, memory, accuracy and speed of `qtool quantize` with default options, beside onnxruntime's quantizer.

    python benchmarks/quick.py ../shared/models sample_models/cnn

A model's folder holds model.onnx, calib/ and eval/. Each tool quantizes in a process of its own, with one
thread of the runtime: qtool by its installed program, with --data eval/ as the judge set; onnxruntime with
the settings that its documentation recommends (table.py). Then FP32 and both results are timed together, in
turns, on samples of eval/; each speed is against FP32, with the 95% interval. SQNR is of the worst output on
all of eval/. Memory is the peak of the largest process. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

from table import by_rival_static, expand, program

from qtool.data.model_inputs import inputs_of
from qtool.data.open import open_source
from qtool.data.reading import Reading
from qtool.data.samples import Samples
from qtool.errors import ModelError
from qtool.evaluate.compare import compare
from qtool.evaluate.latency import Race, race_models
from qtool.graph.load import load
from qtool.runtime.session import Session

RIVAL = "onnxruntime"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--target", default="auto")
    args = parser.parse_args()
    tools = {"qtool": lambda f, t: by_qtool(f, t, args.target), RIVAL: by_rival_static}
    print("| model | tool | took s | peak MB | SQNR dB | speed (95%) | smaller |")
    print("|---|---|---|---|---|---|---|")
    for folder in expand(args.folders):
        with tempfile.TemporaryDirectory() as scratch:
            for line in lines(folder, Path(scratch), tools):
                print(line, flush=True)


Quantize = Callable[[Path, Path], None]


def lines(folder: Path, scratch: Path, tools: dict[str, Quantize]) -> list[str]:
    """Quantize with every tool, and measure the results together: a row of the table each."""
    original = folder / "model.onnx"
    samples = open_source(str(folder / "eval"), inputs_of(load(original).model), Reading())
    costs: dict[str, tuple[float, float]] = {}
    failed: dict[str, str] = {}
    models: dict[str, Path | bytes] = {"FP32": original}
    for tool, quantize in tools.items():
        target = scratch / f"{tool}.onnx"
        start = time.perf_counter()
        failed[tool], peak = in_process(quantize, folder, target)
        costs[tool] = time.perf_counter() - start, peak
        failed[tool] = failed[tool] or refusal(target)
        if not failed[tool]:
            models[tool] = target
    race = race_models(models, samples, 1)
    return [row(folder, tool, failed[tool], costs[tool], models, samples, race) for tool in tools]


def row(
    folder: Path,
    tool: str,
    failed: str,
    cost: tuple[float, float],
    models: dict[str, Path | bytes],
    samples: Samples,
    race: Race,
) -> str:
    """Return a row of the table."""
    start = f"| {folder.name} | {tool} | {cost[0]:.1f} | {cost[1]:.0f} |"
    if failed:
        return f"{start} fails: {failed} | | |"
    path = models[tool]
    assert isinstance(path, Path)
    sessions = [Session(m, threads=1, name=n) for n, m in (("FP32", models["FP32"]), (tool, path))]
    sqnr = compare(sessions[0], sessions[1], samples).sqnr
    ratio = race.ratio(tool, "FP32")
    smaller = (folder / "model.onnx").stat().st_size / path.stat().st_size
    return f"{start} {sqnr:.1f} | {ratio.median:.2f}x ({ratio.low:.2f}-{ratio.high:.2f}) | {smaller:.2f}x |"


def refusal(path: Path) -> str:
    """Return the reason that the runtime does not open a model; '' where it does."""
    try:
        Session(path, threads=1, name="the result")
    except ModelError:
        return "the runtime refuses the result"
    return ""


def in_process(quantize: Quantize, folder: Path, target: Path) -> tuple[str, float]:
    """Quantize in a process of its own; return the error, '' for none, and its peak memory in MB."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)

    def work() -> None:
        os.chdir(target.parent)  # the rival leaves files in the current folder
        error = ""
        try:
            quantize(folder, target)
        except Exception as problem:  # a tool that fails is a row, not the end of the table
            error = (str(problem).strip() or type(problem).__name__).splitlines()[0][:80]
        usage = (
            resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        )
        theirs.send((error, max(usage) / 1024))

    process = context.Process(target=work)
    process.start()
    error, peak = ours.recv()
    process.join()
    return error, peak


def by_qtool(folder: Path, target: Path, device: str) -> None:
    """Quantize with the installed program and its default options."""
    command = [program(), "quantize", folder / "model.onnx", "-o", target, "--calib", folder / "calib"]
    options = ["--data", folder / "eval", "--target", device, "--threads", "1", "-q"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"exit {done.returncode}: {done.stderr}")


if __name__ == "__main__":
    sys.exit(main())
