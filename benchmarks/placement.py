"""The accuracy of placement's predictions, and their cost, on folders of models with samples.

    python benchmarks/placement.py ../shared/models/{ultraface_rfb320,lprnet,resnet20_cifar10} --plans 16

Each model is measured as `qtool quantize` measures it: regions timed in float and in int8, a sensitivity for
every tensor. Then random choices of regions are built, and run on the select set. The table has how the
predicted SQNR correlates with the measured one, the root of the mean squared difference, and what measuring
took, in inferences (calibration included) and seconds.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

from qtool.commands.prepare import prepare_model
from qtool.evaluate.criteria import criteria_of
from qtool.evaluate.evaluator import Evaluator
from qtool.options import Options, silent
from qtool.placement.cost_model import CostModel, build_cost_model
from qtool.placement.pareto import ParetoPoint
from qtool.placement.timing import measure_timing, obstacle
from qtool.plan.predict import keys_of


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path, help="each with model.onnx and calib/")
    parser.add_argument("--plans", type=int, default=16, help="random choices of regions, of each model")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    print("| model | regions | correlation | rms dB | predicted dB | inferences | seconds |")
    print("|---|---|---|---|---|---|---|")
    for folder in args.folders:
        print(row(folder, args.plans, np.random.default_rng(args.seed)), flush=True)


def row(folder: Path, count: int, rng: np.random.Generator) -> str:
    model = prepare_model(folder / "model.onnx", Options(calib=str(folder / "calib"), threads=1))
    start = time.perf_counter()
    timing = measure_timing(model)
    if timing is None:
        raise SystemExit(f"{folder}: {obstacle(model)}")
    with Evaluator(model, criteria_of(model, []), silent) as evaluator:
        costs = build_cost_model(timing.all_int8, timing, evaluator)
        took, inferences = time.perf_counter() - start, evaluator.budget.spent
        points = [at_random(costs, rng) for _ in range(count)]
        candidates = [costs.base.changed(assignment=costs.assignment(point)) for point in points]
        predicted = np.array([costs.errors.sqnr(keys_of(c.plan)) for c in candidates])
        measured = np.array([evaluator.error(c).sqnr for c in candidates])
    correlation = float(np.corrcoef(predicted, measured)[0, 1])
    rms = float(np.sqrt(np.mean(np.square(predicted - measured))))
    return (
        f"| {folder.name} | {len(costs.network.regions)} | {correlation:.3f} | {rms:.2f} "
        f"| {predicted.min():.1f} to {predicted.max():.1f} | {inferences:,} | {took:.1f} |"
    )


def at_random(costs: CostModel, rng: np.random.Generator) -> ParetoPoint:
    """Return a random set of regions."""
    regions = [r.name for r in costs.network.regions]
    chosen = rng.choice(regions, size=rng.integers(1, len(regions) + 1), replace=False)
    return ParetoPoint(frozenset(map(str, chosen)), 0.0, 0.0, 1.0)


if __name__ == "__main__":
    main()
