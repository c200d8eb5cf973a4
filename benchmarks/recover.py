"""What each technique of --recover buys: dB on samples that nothing was fitted to, speed, seconds.

    python benchmarks/recover.py ../shared/models            # every model in the folder
    python benchmarks/recover.py sample_models/cnn --bits 4 --block 32
    python benchmarks/recover.py ../shared/models/minilm_l6_v2 --mode dynamic

A model's folder holds model.onnx, calib/ and eval/. The rules' plan is made from three quarters of calib/;
each technique makes a better one from it, choosing by the last quarter where it chooses, as do all of them
in their order, each kept where it helps. All are run on eval/, and raced with FP32. The last rows are whole
runs of quantize, with its placement (and columns, which bear on that), for each --effort. Prints a Markdown
table: model x technique, SQNR of the worst output, speed of FP32's, seconds.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from qtool.job import open_job, read_for, samples_of
from qtool.planning import Planned, Planner
from qtool.recipe import written
from qtool.recovering import STEPS, Given, recovered

from qtool.commands.compare import compare_models
from qtool.commands.quantize import quantize
from qtool.data.samples import Source
from qtool.evaluate.compare import compare
from qtool.evaluate.latency import race_models
from qtool.graph.save import model_for_session
from qtool.options import Comparing, Options, silent
from qtool.session import Session
from qtool.tables.efforts import EFFORTS


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--mode", default="static", help="static or dynamic; weight-only with --bits")
    parser.add_argument("--bits", type=int, default=0, help="weight-only, in so many bits")
    parser.add_argument("--block", type=int, default=0, help="values a scale")
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
    for folder in (f for given in args.folders for f in expand(given.resolve())):
        options = {"calib": str(folder / "calib"), "threads": args.threads, **form}
        try:
            for line in lines(folder, options, efforts):
                print(line, flush=True)
        except Exception as error:  # a model that fails is a row, not the end of the table
            print(f"| {folder.name} | failed: {str(error).splitlines()[0][:80]} | | | |", flush=True)


def expand(folder: Path) -> list[Path]:
    """The folder itself when it is a model's, else those in it that are."""
    if (folder / "model.onnx").exists():
        return [folder]
    return sorted(f for f in folder.iterdir() if (f / "model.onnx").exists())


def lines(folder: Path, form: Mapping[str, Any], efforts: list[str]) -> Iterator[str]:
    """A row for each technique, and for each whole run."""
    job = open_job(folder / "model.onnx", Options(**form))
    calib, held_out, _ = samples_of(job)
    judged = read_for(job.source, str(folder / "eval"), job.options.reading)
    if calib is None or held_out is None:
        raise ValueError("no samples")
    plain = Planner(job, calib, silent).plan(job.wish)
    plans, took = {"none": plain}, {"none": 0.0}
    given = Given(calib, held_out, lambda done, total: None)
    for name, step in STEPS.items():
        start = time.perf_counter()
        better = step(given, plain)
        if better.plan != plain.plan:
            plans[name], took[name] = better, time.perf_counter() - start
    start = time.perf_counter()
    plans["all that help"] = recovered(plain, calib, held_out, silent)[0]
    took["all that help"] = time.perf_counter() - start
    for name, (sqnr, speed) in measured(plans, judged, job.options.threads).items():
        yield f"| {folder.name} | {name} | {sqnr:.1f} | {speed:.2f}x | {took[name]:.1f} |"
    for effort in efforts:
        yield whole(folder, form, effort)


def measured(plans: Mapping[str, Planned], judged: Source, threads: int) -> Mapping[str, tuple[float, float]]:
    """SQNR in dB and speed against prepared FP32, of each plan."""
    with ExitStack() as stack:
        job = plans["none"].job
        models = {"fp32": stack.enter_context(model_for_session(job.prepared.model))}
        for name, planned in plans.items():
            model = written(planned.job.prepared.model, planned.plan)
            models[name] = stack.enter_context(model_for_session(model))
        floats = Session(models["fp32"], threads=threads)
        errors = {
            name: compare(floats, Session(models[name], threads=threads), judged).sqnr for name in plans
        }
        race = race_models(models, judged, threads)
    return {name: (errors[name], race.ratio(name, "fp32").median) for name in plans}


def whole(folder: Path, form: Mapping[str, Any], effort: str) -> str:
    """A run of quantize, which never sees what it is judged on here before its model is written."""
    with tempfile.TemporaryDirectory() as place:
        output = Path(place) / "quantized.onnx"
        start = time.perf_counter()
        quantize(folder / "model.onnx", output, Options(effort=effort, gate="none", **form))
        seconds = time.perf_counter() - start
        how = Comparing(speed=True, threads=1)
        found = compare_models(folder / "model.onnx", output, folder / "eval", how)
        speed = found.race.speedup["original"].median if found.race else float("nan")
        sqnr = found.comparison.sqnr if found.comparison else float("nan")
    return f"| {folder.name} | quantize --effort {effort} | {sqnr:.1f} | {speed:.2f}x | {seconds:.1f} |"


if __name__ == "__main__":
    main()
