"""Every model on every runtime that is installed here: the table in docs/targets.md, from one run.

    python benchmarks/targets.py sample_models ../shared/models
    python benchmarks/targets.py sample_models/cnn --effort fast
    python benchmarks/targets.py ../shared/models/minilm_l6_v2 --merge targets.json   # this one again

A model's folder holds model.onnx, calib/*.npz and eval/*.npz. `qtool quantize --target best` runs once a
model: the best plan of each target is raced against the original in onnxruntime, on the select set (a fourth
of calib/), one thread. The last column is the chosen file on eval/. Prints a Markdown table.

`--merge FILE` keeps the rows of each model in FILE, with their date, machine and commit, and prints those of
all models in it: a long table can be made in parts. The published table is of one run, and has no note below.
`--files FOLDER` keeps each result and its report there, and takes those that are there already: a run that
was stopped goes on, and nncf.py compares the same files with other tools'.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from datetime import date
from pathlib import Path
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--effort", default="balanced")
    parser.add_argument("--target", default="best", help="best, or targets separated by commas")
    parser.add_argument("--merge", type=Path, help="a JSON file that keeps the rows of every model")
    parser.add_argument("--files", type=Path, help="a folder that keeps results and reports")
    args = parser.parse_args()
    kept = json.loads(args.merge.read_text()) if args.merge and args.merge.is_file() else {}
    run = f"{date.today()}, {platform.node()}, {commit()}, --effort {args.effort} --target {args.target}"
    for folder in models(args.folders):
        report = quantized(folder, args.target, args.effort, args.files)
        speed = report["race"]["speedup"]["original"]["median"] if report.get("race") else None
        kept[folder.name] = {"run": run, "speed": speed, "rows": list(rows(folder.name, report))}
        print("\n".join(kept[folder.name]["rows"]), file=sys.stderr, flush=True)
        if args.merge:
            args.merge.write_text(json.dumps(kept, indent=1))
    print(table(kept))


def commit() -> str:
    """Return the commit of this tree."""
    words = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip() or "no commit"


def table(kept: dict[str, Any]) -> str:
    """Return the table of all models, the geometric mean, and a note where the rows are of several runs."""
    lines = [
        "| model | target | runtime | speed | SQNR dB | in int8 | accepted | chosen, on eval |",
        "|---|---|---|---|---|---|---|---|",
        *(line for model in kept.values() for line in model["rows"]),
    ]
    speeds = [max(model["speed"], 1e-9) for model in kept.values() if model["speed"]]
    if speeds:
        mean = math.exp(math.fsum(map(math.log, speeds)) / len(speeds))
        lines += ["", f"Geometric mean of the chosen files on eval, {len(speeds)} models: {mean:.2f}x"]
    runs: dict[str, list[str]] = {}
    for name, model in kept.items():
        runs.setdefault(model["run"], []).append(name)
    if len(runs) > 1:
        lines += ["", "Of several runs:", *(f"- {run}: {', '.join(names)}" for run, names in runs.items())]
    return "\n".join(lines)


def models(folders: Sequence[Path]) -> Iterator[Path]:
    """Yield the folders of models, in those named and right below them."""
    for folder in folders:
        below = sorted(p.parent for p in folder.glob("*/model.onnx"))
        yield from [folder] if (folder / "model.onnx").is_file() else below


def quantized(folder: Path, target: str, effort: str, files: Path | None = None) -> dict[str, Any]:
    """Return the report of a run; {"error": ..} where it ends in an error.

    Args:
        folder: of the model.
        files: keeps MODEL.TARGET.onnx and MODEL.TARGET.json; where both are there, nothing runs.
    """
    with tempfile.TemporaryDirectory() if files is None else nullcontext(files) as place:
        Path(place).mkdir(parents=True, exist_ok=True)
        out = Path(place, f"{folder.name}.{target}.onnx")
        report = out.with_suffix(".json")
        if not (report.is_file() and out.is_file()):
            command = [sys.executable, "-m", "qtool", "quantize", folder / "model.onnx", "-o", out, "--force"]
            command += ["--calib", folder / "calib", "--data", folder / "eval", "--target", target, "--quiet"]
            command += ["--effort", effort, "--threads", "1", "--keep-failed", "--report", report]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if not report.is_file():
                errors = [line for line in done.stderr.splitlines() if line.startswith("error")]
                return {"error": errors[0] if errors else "no report"}
        loaded: dict[str, Any] = json.loads(report.read_text())
        return loaded


def rows(name: str, report: dict[str, Any]) -> Iterator[str]:
    """Yield the rows of a model: one for each target."""
    if "error" in report:
        yield f"| {name} | | | {report['error']} | | | | |"
        return
    for raced in report["targets"]:
        if raced["speedup"] is None:
            yield f"| {name} | {raced['target']} | {raced['runtime']} | {raced['why'][:100]} | | | no | |"
            continue
        speed, judged = f"{raced['speedup']['median']:.2f}x", ""
        if raced["chosen"]:
            ratio, sqnr = report["race"]["speedup"]["original"], float(report["comparison"]["sqnr"])
            judged = f"{ratio['median']:.2f}x ({ratio['low']:.2f}-{ratio['high']:.2f}), {sqnr:.1f} dB"
            judged += ", a gate failed" if report["failed"] else ""
        cells = (
            name, raced["target"], raced["runtime"], speed, f"{float(raced['sqnr']):.1f}",
            f"{raced['coverage']:.0%}", "yes" if raced["accepted"] else "no", judged,
        )  # fmt: skip
        yield f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
