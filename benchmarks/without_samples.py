"""Ranges without samples (--calib none) on folders of models: SQNR on eval/, and widths against calib/.

    python benchmarks/without_samples.py sample_models ../shared/models

Float inputs are declared as wide as calib/ has them. Nothing is timed or recovered, so int8 stays where it is
slower. The output is Markdown: SQNR in dB of the worst output without samples and with those of calib/; then
the 5% and 95% quantiles of the width of the estimated ranges, as multiples of the observed ones.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from table import expand

import qtool
from qtool.calibration.analytic import estimate_ranges
from qtool.commands.calibrate import Calibrating, calibrate_model
from qtool.graph.load import load
from qtool.graph.prepare import prepare


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--target", default="cpu")
    args = parser.parse_args()
    ratios: dict[str, list[float]] = defaultdict(list)
    print("| model | without samples | with samples |\n|---|---|---|")
    for folder in expand(args.folders):
        declared = input_ranges(folder)
        words = tuple(f"{name}={lo!r},{hi!r}" for name, (lo, hi) in declared.items())
        without = sqnr(folder, qtool.Options(calib="none", input_range=words, target=args.target))
        with_samples = sqnr(folder, qtool.Options(calib=folder / "calib", target=args.target))
        print(f"| {folder.name} | {without:.1f} | {with_samples:.1f} |", flush=True)
        for basis, ratio in width_ratios(folder, declared, args.target):
            ratios[basis].append(ratio)
    print("\n| estimated from | ranges | 5% | 95% |\n|---|---|---|---|")
    for basis, values in ratios.items():
        low, high = np.quantile(values, [0.05, 0.95])
        print(f"| {basis} | {len(values)} | {low:.2f} | {high:.2f} |")


def input_ranges(folder: Path) -> dict[str, tuple[float, float]]:
    """Return the extremes of the float inputs over calib/."""
    values: dict[str, list[np.ndarray]] = defaultdict(list)
    for file in sorted((folder / "calib").glob("*.npz")):
        for name, array in np.load(file).items():
            if array.dtype.kind == "f" and array.size:  # a cache may begin empty
                values[name].append(array)
    return {
        name: (min(float(a.min()) for a in arrays), max(float(a.max()) for a in arrays))
        for name, arrays in values.items()
    }


def sqnr(folder: Path, options: qtool.Options) -> float:
    """Return the SQNR on eval/ in dB of the model that these options give, by the rules alone."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "q.onnx"
        plain = replace(options, timing="table", effort="fast", gate="none")
        qtool.quantize(folder / "model.onnx", out, plain)
        comparison = qtool.compare(
            folder / "model.onnx", out, folder / "eval", qtool.Comparing(gate="none")
        ).comparison
    assert comparison is not None
    return comparison.sqnr


def width_ratios(
    folder: Path, declared: dict[str, tuple[float, float]], target: str
) -> list[tuple[str, float]]:
    """Return what each range was estimated from, and its width as a multiple of the observed one."""
    observed = calibrate_model(folder / "model.onnx", folder / "calib", Calibrating(target=target)).ranges
    source = load(folder / "model.onnx")
    prepared = prepare(source.model, onnxruntime=True).model
    estimated, basis = estimate_ranges(source.model, prepared, list(observed), declared)
    return [
        (basis[name], (estimate.hi - estimate.lo) / (observed[name].hi - observed[name].lo))
        for name, estimate in estimated.items()
        if observed[name].hi > observed[name].lo
    ]


if __name__ == "__main__":
    main()
