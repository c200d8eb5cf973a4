"""How well placement predicts, and what it costs, on folders of models with samples.

    python benchmarks/placement.py ../shared/models/{ultraface_rfb320,lprnet,resnet20_cifar10} --plans 16

Each model is measured as `qtool quantize` measures it (units timed in float and in int8, a sensitivity for
every tensor). Then random choices of units are built, and run on held-out samples: the table has how the SQNR
that is predicted for them correlates with the one that is measured, the root of the mean squared difference,
and what measuring took, in inferences and seconds.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from qtool.job import open_job, samples_of
from qtool.placing import Measured, labelled, measured
from qtool.planning import Planner
from qtool.trials import tried

from qtool.options import Options, silent
from qtool.placement.pareto import ParetoPoint
from qtool.plan.predict import keys_of


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path, help="each with model.onnx and calib/")
    parser.add_argument("--plans", type=int, default=16, help="random choices of units, of each model")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    print("| model | units | correlation | rms dB | predicted dB | inferences | seconds |")
    print("|---|---|---|---|---|---|---|")
    for folder in args.folders:
        print(row(folder, args.plans, np.random.default_rng(args.seed)), flush=True)


def row(folder: Path, count: int, rng: np.random.Generator) -> str:
    job = open_job(folder / "model.onnx", Options(calib=str(folder / "calib"), threads=1))
    calib, held_out, _ = samples_of(job)
    if held_out is None:
        raise SystemExit(f"{folder}: too few samples to hold some out")
    planner = Planner(job, calib, silent)
    start = time.perf_counter()
    known = measured(job, planner, held_out, job.scheme.floor_db, silent)
    took = time.perf_counter() - start
    plans = {f"{i}": planner.plan(labelled(known, at_random(known, rng))) for i in range(count)}
    predicted = np.array([known.errors.sqnr(keys_of(planned.plan)) for planned in plans.values()])
    found = np.array([t.sqnr for t in tried(job, plans, held_out, False, silent)])
    correlation = float(np.corrcoef(predicted, found)[0, 1])
    rms = float(np.sqrt(np.mean(np.square(predicted - found))))
    return (
        f"| {folder.name} | {len(known.network.regions)} | {correlation:.3f} | {rms:.2f} "
        f"| {predicted.min():.1f} to {predicted.max():.1f} | {known.errors.passes:,} | {took:.1f} |"
    )


def at_random(known: Measured, rng: np.random.Generator) -> ParetoPoint:
    """Any number of units, any of them."""
    units = [u.name for u in known.network.regions]
    chosen = rng.choice(units, size=rng.integers(1, len(units) + 1), replace=False)
    return ParetoPoint(frozenset(map(str, chosen)), 0.0, 0.0, 1.0)


if __name__ == "__main__":
    main()
