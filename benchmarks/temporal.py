"""Scales that follow the step of a diffusion model, beside constant ones: the table in docs/diffusion.md.

    python benchmarks/temporal.py

For sample_models/diffusion: SQNR on eval/ over all steps, and at the steps of least and of most noise;
the distance of 500 generated images from real ones by the features of a classifier (as FID does); speed
against the dynamic model, all timed in turns on one thread, with the 95% interval. Prints a Markdown table.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "sample_models"))
from sampler import distance, sample  # noqa: E402

from qtool.commands.quantize import quantize  # noqa: E402
from qtool.data.model_inputs import inputs_of  # noqa: E402
from qtool.data.open import open_source  # noqa: E402
from qtool.data.reading import Reading  # noqa: E402
from qtool.data.samples import Samples  # noqa: E402
from qtool.evaluate.latency import race_models  # noqa: E402
from qtool.graph.load import load  # noqa: E402
from qtool.options import Options  # noqa: E402
from qtool.runtime.session import Session  # noqa: E402

FOLDER = ROOT / "sample_models" / "diffusion"
GENERATED, RUNS = 500, 25
WAYS: dict[str, dict[str, Any]] = {
    "dynamic": {"mode": "dynamic"},
    "static": {"format": "qoperator"},
    "static, all int8": {"format": "qoperator", "gate": "none"},
    "2 buckets": {"timestep": "step", "buckets": 2},
    "8 buckets": {"timestep": "step"},
    "25 buckets": {"timestep": "step", "buckets": 25},
}


def main() -> None:
    original = FOLDER / "model.onnx"
    with tempfile.TemporaryDirectory() as scratch:
        paths, counts = {"FP32": original}, {"FP32": 0}
        for way, choices in WAYS.items():
            paths[way] = Path(scratch, f"{len(paths)}.onnx")
            sources = {"calib": FOLDER / "calib", "data": FOLDER / "eval"}
            options = Options(**sources, threads=1, timing="table", keep_failed=True, **choices)
            counts[way] = len(quantize(original, paths[way], options).plan.forms)
        samples = open_source(FOLDER / "eval", inputs_of(load(original).model), Reading())
        race = race_models(paths, samples, 1)
        print("| model | int8 nodes | bytes | SQNR dB | least noise | most noise | distance | speed (95%) |")
        print("|---|---|---|---|---|---|---|---|")
        for way, path in paths.items():
            ratio = race.ratio(way, "dynamic")
            speed = f"{ratio.median:.2f}x ({ratio.low:.2f}-{ratio.high:.2f})"
            cells = [way, counts[way], f"{path.stat().st_size:,}", *noises(original, path, samples)]
            print(f"| {' | '.join(map(str, cells))} | {judged(path):.1f} | {speed} |", flush=True)


def noises(original: Path, quantized: Path, samples: Samples) -> list[str]:
    """SQNR in dB over all samples, over those of the least step and over those of the greatest."""
    sessions = [Session(path, threads=1) for path in (original, quantized)]
    rows = []
    for each in samples.read():
        a, b = (session.run(dict(each.inputs))[0].astype(np.float64) for session in sessions)
        rows.append((int(each.inputs["step"][0]), np.square(a).sum(), np.square(a - b).sum()))
    table = np.asarray(rows)
    steps = table[:, 0]
    parts = [table, table[steps == steps.min()], table[steps == steps.max()]]
    return [f"{10 * np.log10(p[:, 1].sum() / p[:, 2].sum()):.1f}" if p[:, 2].any() else "-" for p in parts]


def judged(path: Path) -> float:
    """The distance of images that a model generates from real ones."""
    model, judge = Session(path, threads=1), Session(FOLDER / "judge.onnx", threads=1)

    def run(x: NDArray[np.float32], step: NDArray[np.int64]) -> NDArray[np.float32]:
        return np.asarray(model.run({"x": x, "step": step})[0])

    images = np.clip(sample(run, GENERATED, RUNS, seed=7), -1, 1)
    real = np.load(FOLDER / "real.npz")
    return distance(judge.run({"x": images})[1], real["mean"], real["covariance"])


if __name__ == "__main__":
    main()
