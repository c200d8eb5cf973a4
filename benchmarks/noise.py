"""Decisions under noise: the plans that one command makes while other programs keep the machine busy.

    python benchmarks/noise.py ../shared/models/mnist_opset8 sample_models/cnn --runs 20 --loads 0,20

A model's folder holds model.onnx, calib/ and eval/. `qtool quantize` runs with its default options and one
thread of the runtime, one run after another, beside a number of endless loops. A run is settled if its
assignment is the most frequent one of the model, over all loads, or if it says that its timing was
unreliable. Under load 19 runs in 20 should be settled; on an idle machine none should say that. Prints a
Markdown table, a row a model and load.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from table import expand, program

from qtool.plan.serial import from_json

UNRELIABLE = "timing unreliable"

Assignment = frozenset[tuple[str, str]]
"""Of quantized nodes and their forms."""


@dataclass(frozen=True)
class Run:
    """The outcome of one command: its assignment, and whether it said that timing was unreliable."""

    assignment: Assignment
    unreliable: bool


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--runs", type=int, default=20, help="for each model and load")
    parser.add_argument("--loads", default="0,20", help="numbers of endless loops, with commas between")
    parser.add_argument("--target", default="auto")
    args = parser.parse_args()
    loads = [int(load) for load in args.loads.split(",")]
    print("| model | load | runs | assignments | as most | unreliable | settled |")
    print("|---|---|---|---|---|---|---|")
    for folder in expand(args.folders):
        runs: dict[int, list[Run]] = {}
        for load in loads:
            with busy(load):
                runs[load] = [run(folder, args.target) for _ in range(args.runs)]
        for row in rows(folder.name, runs):
            print(row, flush=True)


def rows(model: str, runs: dict[int, list[Run]]) -> Iterator[str]:
    """Yield a row for each load."""
    every = Counter(r.assignment for part in runs.values() for r in part)
    usual = every.most_common(1)[0][0]
    for load, part in runs.items():
        alike = sum(r.assignment == usual for r in part)
        said = sum(r.unreliable for r in part)
        settled = sum(r.unreliable or r.assignment == usual for r in part)
        distinct = len({r.assignment for r in part})
        yield f"| {model} | {load} | {len(part)} | {distinct} | {alike} | {said} | {settled} |"


@contextlib.contextmanager
def busy(loops: int) -> Iterator[None]:
    """Keep the processors busy."""
    processes = [multiprocessing.Process(target=endless, daemon=True) for _ in range(loops)]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        for process in processes:
            process.terminate()
            process.join()


def endless() -> None:
    while True:
        pass


def run(folder: Path, target: str) -> Run:
    """Quantize once."""
    with tempfile.TemporaryDirectory() as scratch:
        out, plan = Path(scratch, "q.onnx"), Path(scratch, "plan.json")
        command = [program(), "quantize", folder / "model.onnx", "-o", out, "--save-plan", plan]
        samples = ["--calib", folder / "calib", "--data", folder / "eval"]
        options = ["--target", target, "--threads", "1", "--keep-failed"]
        done = subprocess.run([*command, *samples, *options], capture_output=True, text=True, check=False)
        if not plan.is_file():
            sys.exit(f"{folder}: exit {done.returncode}: {done.stderr}")
        forms = from_json(plan.read_text(), plan.name).forms
        said = UNRELIABLE in done.stdout + done.stderr
        return Run(frozenset((node, form.value) for node, form in forms.items()), said)


if __name__ == "__main__":
    main()
