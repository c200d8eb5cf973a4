"""What each technique of qtool/recover buys: SQNR of the worst output on samples that nothing was fitted to.

    python benchmarks/recover.py ../shared/models            # every model in the folder
    python benchmarks/recover.py sample_models/cnn --bits 4 --block 32

A model's folder holds model.onnx, calib/ and eval/. A plan is made from calib/ as the program makes its
first one (nothing is timed or searched), each technique makes a better one from it, and all of them are
run on up to 24 samples of eval/. Without --bits the plan is static int8, else weight-only. Prints a
Markdown table: model x technique, dB before and after, seconds.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np

from qtool.data.fit import fit
from qtool.data.samples import Source, evenly
from qtool.graph.save import to_bytes
from qtool.graph.view import View
from qtool.job import Job, open_job, read_for
from qtool.options import Options, silent
from qtool.plan.model import Plan
from qtool.planning import Planner
from qtool.recover.gptq import improved as gptq
from qtool.recover.hqq import half_quadratic_plan
from qtool.rewrite.write import rewrite
from qtool.session import Session

Technique = Callable[[View, Plan, Source, int], Plan]
TECHNIQUES: dict[str, Technique] = {
    "hqq": lambda view, plan, source, threads: half_quadratic_plan(view, plan),
    "gptq": gptq,
    "hqq, gptq": lambda view, plan, source, threads: gptq(
        view, half_quadratic_plan(view, plan), source, threads
    ),
}
_JUDGED_BY = 24


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--bits", type=int, default=0, help="weight-only, in so many bits")
    parser.add_argument("--block", type=int, default=0, help="values a scale")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    weights = {"mode": "weight-only", "bits": args.bits, "block": args.block} if args.bits else {}
    print("| model | technique | dB before | dB after | gain | took s |")
    print("|---|---|---|---|---|---|")
    for folder in (f for given in args.folders for f in expand(given.resolve())):
        options = Options(calib=str(folder / "calib"), threads=args.threads, **weights)
        try:
            for line in lines(folder, options):
                print(line, flush=True)
        except Exception as error:  # a model that fails is a row, not the end of the table
            print(f"| {folder.name} | failed: {str(error).splitlines()[0][:80]} | | | | |", flush=True)


def expand(folder: Path) -> list[Path]:
    """The folder itself when it is a model's, else those in it that are."""
    if (folder / "model.onnx").exists():
        return [folder]
    return sorted(f for f in folder.iterdir() if (f / "model.onnx").exists())


def lines(folder: Path, options: Options) -> list[str]:
    """A row of the table for each technique."""
    job = open_job(folder / "model.onnx", options)
    calib = read_for(job.source, str(folder / "calib"), options.reading)
    judged = read_for(job.source, str(folder / "eval"), options.reading)
    plan = Planner(job, calib, silent).plan(job.wish).plan
    plans, took = [plan], []
    for technique in TECHNIQUES.values():
        start = time.perf_counter()
        plans.append(technique(job.view, plan, calib, options.threads))
        took.append(time.perf_counter() - start)
    before, *after = sqnr(job, plans, judged)
    return [
        f"| {folder.name} | {name} | {before:.2f} | {db:.2f} | {db - before:+.2f} | {seconds:.1f} |"
        for name, db, seconds in zip(TECHNIQUES, after, took, strict=True)
    ]


def sqnr(job: Job, plans: Sequence[Plan], source: Source) -> list[float]:
    """dB of the worst float output of each plan, pooled over samples."""
    float_model, *others = (
        Session(to_bytes(m), threads=job.options.threads)
        for m in (job.prepared.model, *(rewrite(job.prepared.model, p) for p in plans))
    )
    signal: dict[str, float] = {}
    noise: list[dict[str, float]] = [{} for _ in others]
    for sample in source.read(evenly(len(source), _JUDGED_BY)):
        inputs = fit(sample, float_model.inputs, float_model.input_dtypes, source.name)
        wanted = dict(zip(float_model.outputs, float_model.run(inputs), strict=True))
        floats = {n: np.asarray(a, np.float64) for n, a in wanted.items() if a.dtype.kind == "f"}
        for name, array in floats.items():
            signal[name] = signal.get(name, 0.0) + float(np.square(array).sum())
        for session, lost in zip(others, noise, strict=True):
            for name, array in zip(session.outputs, session.run(inputs), strict=True):
                if name in floats:
                    lost[name] = lost.get(name, 0.0) + float(np.square(array - floats[name]).sum())
    return [min(float(10 * np.log10(signal[n] / max(lost[n], 1e-300))) for n in signal) for lost in noise]


if __name__ == "__main__":
    main()
