"""The cost of calibration: against plain inference, in memory, and beside onnxruntime.quantization.

    python benchmarks/calibration.py cost ../shared/models/ultraface_rfb320 ../shared/models/lprnet ..
    python benchmarks/calibration.py memory ../shared/models/ultraface_rfb320
    python benchmarks/calibration.py rival ../shared/models/ultraface_rfb320

`cost`: the wall time of calibrating on calib/ as a multiple of plain inference of the prepared FP32 model
(default optimizations, its outputs only) over the same samples, in one process, interleaved, samples in
memory on both sides; the median of the rounds. `memory`: peak RSS of `qtool calibrate` at 100 and at 1,000
samples, made of calib/ by shifting. `rival`: time and peak RSS of percentile calibration on 300 samples, by
`qtool calibrate` and by onnxruntime's PercentileCalibrater, each in a process of its own.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from table import expand, program

if TYPE_CHECKING:
    from qtool.calibration.ranges import Ranges

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

_RIVAL = """
import sys, os
import numpy as np
from onnxruntime.quantization.calibrate import CalibrationDataReader, CalibrationMethod, create_calibrator
files = sorted(os.path.join(sys.argv[2], f) for f in os.listdir(sys.argv[2]))
class Reader(CalibrationDataReader):
    def __init__(self): self.rest = iter(files)
    def get_next(self):
        file = next(self.rest, None)
        return None if file is None else dict(np.load(file))
calibrator = create_calibrator(
    sys.argv[1], None, augmented_model_path=sys.argv[3], calibrate_method=CalibrationMethod.Percentile
)
calibrator.set_execution_providers(["CPUExecutionProvider"])
calibrator.collect_data(Reader())
calibrator.compute_data()
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("cost", "memory", "rival"))
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--samples", type=int, default=300, help="cost: at least this many, calib/ repeated")
    args = parser.parse_args()
    folders = expand(args.folders)
    {"cost": cost, "memory": memory, "rival": rival}[args.what](folders, args)


def cost(folders: Sequence[Path], args: argparse.Namespace) -> None:
    print("| model | samples | values | elements | inference ms | min-max | histograms |")
    print("|---|---|---|---|---|---|---|")
    for folder in folders:
        print(f"| {folder.name} | {' | '.join(costs(folder, args))} |", flush=True)


def costs(folder: Path, args: argparse.Namespace) -> list[str]:
    """Return the cells of a model's row."""
    from qtool.calibration.runner import calibrate
    from qtool.commands.prepare import NO_SAMPLES, prepare_model
    from qtool.data.fit import fit
    from qtool.data.iterables import InMemory
    from qtool.data.open import open_source
    from qtool.graph.for_session import model_for_session
    from qtool.options import Options
    from qtool.plan.draft import draft
    from qtool.plan.rules import rule_based
    from qtool.runtime.session import Session

    prepared = prepare_model(folder / "model.onnx", Options(), sets=NO_SAMPLES)
    plan = draft(prepared.task, rule_based(prepared.task))
    values = [v for v in plan.observed if prepared.view.in_main(prepared.view.values[v])]
    with model_for_session(prepared.model) as model:
        session = Session(model, threads=args.threads)
    read = open_source(folder / "calib").read()
    samples = [fit(s, session.inputs, session.input_dtypes, "calib") for s in read]
    # Opening a session takes as long as some dozen samples: enough samples make that negligible.
    samples *= -(-args.samples // len(samples))
    source = InMemory(samples)

    def plain() -> None:
        for sample in samples:
            session.run(sample)

    def observed(histograms: bool) -> Callable[[], Ranges]:
        model = prepared.model
        return lambda: calibrate(model, values, source, threads=args.threads, histograms=histograms)

    ways = {"plain": plain, "minmax": observed(False), "histograms": observed(True)}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(args.rounds):
        for name, way in ways.items():
            seconds[name].append(timed(way))
    elements = sum(r.count for r in observed(False)().values()) // len(samples)
    ratios = (
        statistics.median(b / a for a, b in zip(seconds["plain"], seconds[name], strict=True))
        for name in ("minmax", "histograms")
    )
    ms = 1e3 * statistics.median(seconds["plain"]) / len(samples)
    cells = [len(samples), len(values), f"{elements:,}", f"{ms:.2f}", *(f"{r:.2f}x" for r in ratios)]
    return [str(cell) for cell in cells]


def memory(folders: Sequence[Path], args: argparse.Namespace) -> None:
    print("| model | samples | peak RSS MB |")
    print("|---|---|---|")
    for folder in folders:
        for count in (100, 1000):
            with tempfile.TemporaryDirectory() as scratch:
                data = more(folder, Path(scratch) / "samples", count)
                peak, _ = measured(ours(folder, data, Path(scratch) / "r.json", args.threads))
            print(f"| {folder.name} | {count} | {peak:.0f} |", flush=True)


def rival(folders: Sequence[Path], args: argparse.Namespace) -> None:
    print("| model | tool | seconds | peak RSS MB |")
    print("|---|---|---|---|")
    for folder in folders:
        with tempfile.TemporaryDirectory() as scratch:
            data = more(folder, Path(scratch) / "samples", 300)
            theirs = [sys.executable, "-c", _RIVAL, folder / "model.onnx", data, Path(scratch) / "a.onnx"]
            ways = {
                "qtool": ours(folder, data, Path(scratch) / "r.json", 0),
                "onnxruntime": theirs,
            }
            for tool, command in ways.items():
                peak, seconds = measured(command)
                print(f"| {folder.name} | {tool} | {seconds:.1f} | {peak:.0f} |", flush=True)


def ours(folder: Path, data: Path, out: Path, threads: int) -> list[object]:
    command = [program(), "calibrate", folder / "model.onnx", "--calib", data, "-o", out, "-q"]
    return [*command, "--threads", threads]


def measured(command: list[object]) -> tuple[float, float]:
    """Peak RSS of a command and its children in MB, and its seconds; its own time for imports included."""
    code = (
        "import resource, subprocess, sys\n"
        "done = subprocess.run(sys.argv[1:], capture_output=True)\n"
        "sys.stderr.buffer.write(done.stderr)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)\n"
        "sys.exit(done.returncode)"
    )
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, command)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return float(done.stdout), time.perf_counter() - start


def more(folder: Path, target: Path, count: int) -> Path:
    """Write this many samples to a new folder: those of calib/, shifted along their last axis."""
    target.mkdir()
    for index, arrays in zip(range(count), shifted(sorted((folder / "calib").glob("*.npz"))), strict=False):
        np.savez(target / f"{index:05d}.npz", **arrays)
    return target


def shifted(files: list[Path]) -> Iterator[dict[str, np.ndarray]]:
    shift = 0
    while True:
        for file in files:
            with np.load(file) as arrays:
                yield {k: np.roll(a, shift, axis=-1) if a.ndim else a for k, a in arrays.items()}
        shift += 1


def timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
