"""The figures of `qtool analyze` beside those of models that are built.

    python benchmarks/analyze.py ../shared/models/{resnet20_cifar10,lprnet} sample_models/cnn

A model's folder holds model.onnx, calib/ and eval/. Regions: each region with integers is quantized alone, by
building the model; the table has the SQNR of analyze's first three, and that of the third of all. Advice: the
first command is run as printed, and so is the command without the advice; both are judged on all of eval/.
Costs are inferences of the whole model. Prints a Markdown table of each.
"""

from __future__ import annotations

import argparse
import math
import os
import shlex
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

from table import expand, program

import qtool
from qtool.commands.analyze import rule_based_candidate
from qtool.commands.prepare import prepare_model
from qtool.data.samples import Part, evenly
from qtool.errors import ModelError, QtoolError
from qtool.evaluate.compare import compare
from qtool.graph.for_session import model_for_session
from qtool.plan.candidate import Candidate, make_candidate
from qtool.plan.constraints import Patterns, match_constraints
from qtool.plan.model import WEIGHTS
from qtool.plan.rules import rule_based
from qtool.report.analysis import Analysis
from qtool.report.model import Report
from qtool.rewrite.write import written
from qtool.runtime.session import Session


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--target", default="auto")
    parser.add_argument("--only", choices=["regions", "advice"])
    args = parser.parse_args()
    folders = expand(args.folders)
    made = {}
    for folder in folders:
        options = qtool.Analyzing(calib=str(folder / "calib"), target=args.target, threads=1)
        try:
            made[folder] = qtool.analyze(folder / "model.onnx", None, str(folder / "eval"), options)
        except ModelError as error:
            print(f"{folder.name}: {error.message}")
    if args.only != "advice":
        print("| model | regions | analyze's first three dB | built | third of all | within 1 dB | runs |")
        print("|---|---|---|---|---|---|---|")
        for folder, analysis in made.items():
            print(regions_row(folder, analysis, args.target), flush=True)
        print()
    if args.only != "regions":
        print("| model | advice | predicted gain dB | SQNR before | after | gain dB | runs |")
        print("|---|---|---|---|---|---|---|")
        for folder, analysis in made.items():
            print(advice_row(folder, analysis), flush=True)


def regions_row(folder: Path, analysis: Analysis, target: str) -> str:
    """Build every region alone, and compare the first three with the third of all."""
    calib, data = str(folder / "calib"), str(folder / "eval")
    options = qtool.Options(calib=calib, data=data, target=target, effort="fast", threads=1)
    base = rule_based_candidate(prepare_model(folder / "model.onnx", options))
    stored = {name for s in base.plan.sites if s.kind in WEIGHTS for name, _ in s.uses or ()}
    regions = [r for r in analysis.regions if {*r.nodes} & (base.plan.forms.keys() | stored)]
    built = {r.name: alone(base, r.nodes) for r in regions}
    first = regions[:3]
    third = sorted(built.values())[: len(first)][-1] if built else math.inf
    right = all(built[r.name] <= third + 1 for r in first)
    said = ", ".join(f"{r.sqnr:.1f}" for r in first)
    ours = ", ".join(f"{built[r.name]:.1f}" for r in first)
    cost = f"{analysis.cost.runs:.1f} of {analysis.cost.limit}"
    within = "yes" if right else "no"
    return f"| {folder.name} | {len(built)} | {said} | {ours} | {third:.1f} | {within} | {cost} |"


def alone(base: Candidate, nodes: tuple[str, ...]) -> float:
    """SQNR on 8 samples of eval/ of the model with only these nodes quantized, in the form that they have."""
    prepared = base.model
    others = tuple(n for n in prepared.view.node_by_name if n not in nodes)
    wanted = Patterns(others, tuple(n for n in nodes if n in base.plan.forms), ())
    constraints = match_constraints(prepared.view, prepared.source.model, prepared.scheme, wanted)
    task = replace(prepared.task, constraints=constraints)
    one = make_candidate(replace(prepared, task=task), rule_based(task))
    judge = prepared.samples.judge
    with model_for_session(written(prepared.model, one.plan)) as model:
        session = Session(model, threads=1, name="one region")
    reference = Session(prepared.source.loadable, threads=1, name="FP32")
    return compare(reference, session, Part(judge, evenly(len(judge), 8), judge.name)).sqnr


def advice_row(folder: Path, analysis: Analysis) -> str:
    """Run the first command, and the command without its advice."""
    if not analysis.advice:
        return f"| {folder.name} | none | | | | | |"
    first = analysis.advice[0]
    before, after = (run(folder, command) for command in (analysis.made_by, first.command))
    cost = f"{analysis.cost.runs:.1f} of {analysis.cost.limit}"
    return (
        f"| {folder.name} | `{first.options}` | {first.gain:+.1f} | {before:.1f} | {after:.1f} | "
        f"{after - before:+.1f} | {cost} |"
    )


def run(folder: Path, command: str) -> float:
    """SQNR on all of eval/ of the model that a command makes."""
    with tempfile.TemporaryDirectory() as place:
        words = [str(program()), *shlex.split(command)[1:], "--json", "--threads", "1"]
        done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=place)
        if done.returncode not in (0, 1):
            raise RuntimeError(done.stderr)
        report: Report = qtool.read_report(_saved(Path(place), done.stdout))
    return report.comparison.sqnr if report.comparison else float("nan")


def _saved(place: Path, text: str) -> Path:
    path = place / "run.json"
    path.write_text(text)
    return path


if __name__ == "__main__":
    try:
        main()
    except QtoolError as error:
        sys.exit(error.message)
