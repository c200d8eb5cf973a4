"""The gain of each technique of --recover: dB on samples that no step has used, speed, seconds.

    python benchmarks/recover.py ../shared/models            # every model in the folder
    python benchmarks/recover.py sample_models/cnn --bits 4 --block 32
    python benchmarks/recover.py ../shared/models/minilm_l6_v2 --mode dynamic

A model's folder holds model.onnx, calib/ and eval/. The rule-based candidate is made from three quarters of
calib/. Each technique changes it, and chooses on the last quarter; so do all techniques in their order, each
kept where it helps. All are run on eval/, and raced with FP32. The last rows are whole runs of quantize, with
its placement and outlier columns, for each --effort. Prints a Markdown table: model x technique, SQNR of the
worst output, speed against FP32, seconds.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from table import expand

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from qtool.commands.compare import compare_models
from qtool.commands.prepare import prepare_model
from qtool.commands.quantize import quantize
from qtool.data.samples import Samples
from qtool.evaluate.compare import compare
from qtool.evaluate.criteria import criteria_of
from qtool.evaluate.evaluator import Evaluator
from qtool.evaluate.latency import race_models
from qtool.graph.for_session import model_for_session
from qtool.options import Comparing, Options, silent
from qtool.plan.candidate import Candidate, make_candidate
from qtool.plan.rules import rule_based
from qtool.recover.run import STEPS, recover
from qtool.rewrite.write import written
from qtool.runtime.session import Session
from qtool.tables.efforts import EFFORTS


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--mode", default="static", help="static or dynamic; weight-only with --bits")
    parser.add_argument("--bits", type=int, default=0, help="weight-only with this many bits")
    parser.add_argument("--block", type=int, default=0, help="values per scale")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--efforts", default="balanced", help="whole runs at the end; '' for none")
    args = parser.parse_args()
    form: dict[str, Any] = {"mode": args.mode}
    if args.bits:
        form = {"mode": "weight-only", "bits": args.bits, "block": args.block}
    efforts = [name for name in args.efforts.split(",") if name]
    if unknown := set(efforts) - EFFORTS.keys():
        parser.error(f"no such effort: {', '.join(unknown)}")
    print("| model | technique | SQNR dB | speed | took s |")
    print("|---|---|---|---|---|")
    for folder in expand(args.folders):
        options = {"calib": str(folder / "calib"), "threads": args.threads, **form}
        try:
            for line in lines(folder, options, efforts):
                print(line, flush=True)
        except Exception as error:  # a model that fails is a row, not the end of the table
            print(f"| {folder.name} | failed: {str(error).splitlines()[0][:80]} | | | |", flush=True)


def lines(folder: Path, form: Mapping[str, Any], efforts: list[str]) -> Iterator[str]:
    """A row for each technique, and for each whole run."""
    model = prepare_model(folder / "model.onnx", Options(data=str(folder / "eval"), **form))
    judged = model.samples.judge
    if judged is None or model.samples.select is None:
        raise ValueError("no samples")
    plain = make_candidate(model, rule_based(model.task))
    candidates, took = {"none": plain}, {"none": 0.0}
    with Evaluator(model, criteria_of(model, []), silent) as evaluator:
        for name, step in STEPS.items():
            start = time.perf_counter()
            better = step(plain, evaluator, lambda done, total: None)
            if better.plan != plain.plan:
                candidates[name], took[name] = better, time.perf_counter() - start
        start = time.perf_counter()
        candidates["all that help"] = recover(plain, evaluator)
        took["all that help"] = time.perf_counter() - start
    for name, (sqnr, speed) in measured(candidates, judged).items():
        yield f"| {folder.name} | {name} | {sqnr:.1f} | {speed:.2f}x | {took[name]:.1f} |"
    for effort in efforts:
        yield full_run(folder, form, effort)


def measured(candidates: Mapping[str, Candidate], judged: Samples) -> Mapping[str, tuple[float, float]]:
    """SQNR in dB and speed against prepared FP32, of each candidate."""
    plain = candidates["none"].model
    with ExitStack() as stack:
        models = {"fp32": stack.enter_context(model_for_session(plain.model))}
        for name, candidate in candidates.items():
            model = written(candidate.model.model, candidate.plan)
            models[name] = stack.enter_context(model_for_session(model))
        floats = Session(models["fp32"], threads=plain.threads)
        errors = {
            name: compare(floats, Session(models[name], threads=plain.threads), judged).sqnr
            for name in candidates
        }
        race = race_models(models, judged, plain.threads)
    return {name: (errors[name], race.ratio(name, "fp32").median) for name in candidates}


def full_run(folder: Path, form: Mapping[str, Any], effort: str) -> str:
    """Return the row of a run of quantize, judged on samples that it does not read."""
    with tempfile.TemporaryDirectory() as place:
        output = Path(place) / "quantized.onnx"
        start = time.perf_counter()
        quantize(folder / "model.onnx", output, Options(effort=effort, gate="none", **form))
        seconds = time.perf_counter() - start
        options = Comparing(speed=True, threads=1)
        report = compare_models(folder / "model.onnx", output, folder / "eval", options)
        speed = report.race.speedup["original"].median if report.race else float("nan")
        sqnr = report.comparison.sqnr if report.comparison else float("nan")
    return f"| {folder.name} | quantize --effort {effort} | {sqnr:.1f} | {speed:.2f}x | {seconds:.1f} |"


if __name__ == "__main__":
    main()
