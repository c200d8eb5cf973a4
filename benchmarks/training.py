"""Compare --recover finetune with GPTQ at weights of few bits: accuracy, dB, CPU seconds, memory.

    python benchmarks/training.py ../shared/models/resnet20_cifar10 sample_models/cnn -o training.md
    python benchmarks/training.py ../shared/models/resnet20_cifar10 --weights int2 --augment 1000

A model's folder holds model.onnx, calib/, eval/ and perhaps labels.json. Each run is a whole `quantize` on
calib/ alone, without timing, judged on eval/, in a process of its own. With --augment N shifted and mirrored
copies join the samples of calib/, N in all: only for images. Prints a Markdown table. With -o FILE it is kept
there, and rows that the file has are not run again.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from table import expand

from qtool.commands.quantize import quantize
from qtool.options import Options

FORMS: dict[str, dict[str, Any]] = {
    "int8": {},
    "int4": {"weights": "int4"},
    "int2": {"weights": "int2"},
    "int2, 4 bits on the mean": {"weights": "int2", "target_bits": 4.0},
    "ternary": {"levels": "ternary"},
}
RECOVERIES = ("gptq,bias", "gptq,bias,finetune")
COLUMNS = (
    "model, weights, samples, recovery, FP32's accuracy, accuracy, SQNR dB, bytes, CPU s, peak MB".split(", ")
)
HEAD = f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--weights", nargs="+", default=["int4"], choices=list(FORMS))
    parser.add_argument("--target", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--augment", type=int, default=0, help="images to calibrate and train on, in all")
    parser.add_argument("-o", "--output", type=Path, help="keep the table here, and add what it lacks")
    args = parser.parse_args()
    rows = args.output.read_text().splitlines()[2:] if args.output and args.output.exists() else []
    print(HEAD, *rows, sep="\n", flush=True)
    for folder in expand(args.folders):
        for weights in args.weights:
            for recover in RECOVERIES:
                count = max(args.augment, len(list((folder / "calib").iterdir())))
                name = f"| {folder.name} | {weights} | {count} | {recover} |"
                if any(row.startswith(name) for row in rows):
                    continue
                rows.append(f"{name} {in_a_process(folder, weights, recover, args)}")
                print(rows[-1], flush=True)
                if args.output:
                    args.output.write_text("\n".join([HEAD, *rows]) + "\n")


def in_a_process(*run: Any) -> str:
    """Return the cells of a run; its CPU time and memory are those of a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(cells, *run).result()


def cells(folder: Path, weights: str, recover: str, args: argparse.Namespace) -> str:
    """Return the cells of one run that follow its name."""
    options = Options(
        calib=images(folder / "calib", args.augment) if args.augment else str(folder / "calib"),
        data=str(folder / "eval"),
        labels=labels(folder),
        target=args.target,
        threads=args.threads,
        timing="table",
        recover=recover,
        gate="none",
        **FORMS[weights],
    )
    start = time.process_time()
    with tempfile.TemporaryDirectory() as place:
        report = quantize(folder / "model.onnx", Path(place) / "quantized.onnx", options).report
    seconds = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    comparison = report.comparison
    accuracy = comparison.accuracy if comparison else None
    shares = (f"{accuracy.fp32:.3f}", f"{accuracy.quantized:.3f}") if accuracy else ("", "")
    sqnr = comparison.sqnr if comparison else float("nan")
    size = report.quantized.bytes if report.quantized else 0
    return f"{' | '.join((*shares, f'{sqnr:.1f}', f'{size:,}', f'{seconds:.0f}', f'{peak:.0f}'))} |"


def labels(folder: Path) -> str | None:
    path = folder / "labels.json"
    return str(path) if path.exists() else None


def images(folder: Path, count: int) -> list[dict[str, np.ndarray]]:
    """Return the samples of a folder and, up to this number, copies that are shifted and mirrored."""
    samples = [dict(np.load(path)) for path in sorted(folder.glob("*.npz"))]
    rng = np.random.default_rng(0)
    return [*samples, *copies(samples, count - len(samples), rng)]


def copies(
    samples: list[dict[str, np.ndarray]], count: int, rng: np.random.Generator
) -> Iterator[dict[str, np.ndarray]]:
    for number in range(count):
        sample = samples[number % len(samples)]
        mirrored, shift = bool(rng.integers(2)), rng.integers(-3, 4, size=2)
        yield {name: moved(array, mirrored, shift) for name, array in sample.items()}


def moved(array: np.ndarray, mirrored: bool, shift: np.ndarray) -> np.ndarray:
    """Return an image [N, C, H, W], shifted by repeating its edge; arrays of other ranks stay."""
    if array.ndim != 4:
        return array
    array = array[..., ::-1] if mirrored else array
    padded = np.pad(array, ((0, 0), (0, 0), (3, 3), (3, 3)), mode="edge")
    top, left = 3 + shift
    return np.ascontiguousarray(padded[..., top : top + array.shape[2], left : left + array.shape[3]])


if __name__ == "__main__":
    main()
