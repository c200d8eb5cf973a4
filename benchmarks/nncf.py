"""qtool's `--target best` and `--target openvino` beside NNCF's int8, and OpenVINO's own precisions.

    python benchmarks/nncf.py ../shared/models --files build/nncf --effort fast

A model's folder holds model.onnx, calib/*.npz and eval/*.npz. NNCF quantizes with its default settings, in an
environment of its own (build/nncf-env, made by the first run; `--python` names the Python of another one).
What each tool makes is kept in `--files`; so are the results of a model, and a run that was stopped goes on
there (those of targets.py with the same `--files` are taken, too). Then all files of a model run in turns in
one race, one thread, by the processor's time, on samples of eval/. Speeds are against FP32 in onnxruntime,
with the 95% interval; SQNR is that of `qtool compare --samples 100` on eval/. *Accepted*: at least 20 dB.
A rival *beats* `best` if it is accepted, faster beyond the interval, and more accurate by over 1 dB.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

from environments import environment
from targets import models, quantized

from qtool.data.model_inputs import inputs_of
from qtool.data.open import open_source
from qtool.data.reading import Reading
from qtool.errors import ModelError
from qtool.evaluate.compare import compare
from qtool.evaluate.float_io import session_inputs
from qtool.evaluate.latency import Limits, Race, per_inference, race, single_times
from qtool.graph.load import load
from qtool.runtime.cpu import fitting_target
from qtool.runtime.providers import precisions_here, properties_of
from qtool.runtime.session import Model, Session
from qtool.tables.runtimes import RUNTIMES

ROOT = Path(__file__).parent
PACKAGES = ("nncf", "openvino", "onnx")
OPENVINO = RUNTIMES["openvino"]
FP32, BEST, NNCF = "FP32, onnxruntime", "qtool, best", "NNCF"
GATE, CLEARER = 20.0, 1.0  # dB: the default gate; by how much a rival must be more accurate
JUDGED = 100  # samples of eval/ for SQNR, at most
SAMPLES, LEAST_TURN = 4, 0.01  # samples of a turn, and the seconds that it takes at least
LIMITS = Limits(seconds=12.0)


@dataclass(frozen=True)
class Row:
    """A model that one tool made; `error` says why there is none.

    Args:
        speed: against FP32 in onnxruntime: median, and the 95% interval.
        ahead: the lower end of its speed against `best`.
    """

    tool: str
    error: str = ""
    sqnr: float = math.nan
    speed: tuple[float, float, float] = (math.nan, math.nan, math.nan)
    ahead: float = math.nan

    @property
    def accepted(self) -> bool:
        return self.sqnr >= GATE

    def beats(self, best: Row) -> bool:
        """Whether it is accepted, faster than `best` beyond the interval, and more accurate by over 1 dB."""
        return self.accepted and self.ahead > 1 and self.sqnr > best.sqnr + CLEARER


class Compiled:
    """A model in OpenVINO's own format, with the inputs and outputs of the FP32 session."""

    def __init__(self, name: str, file: Path, fp32: Session) -> None:
        self.name = name
        self.outputs, self.output_shapes = fp32.outputs, fp32.output_shapes
        self.inputs, self.input_dtypes = fp32.inputs, fp32.input_dtypes
        properties = properties_of(OPENVINO, OPENVINO.default, 1)
        compiled = import_module("openvino").compile_model(str(file), OPENVINO.device, properties)
        self._request = compiled.create_infer_request()

    def run(self, sample: Mapping[str, Any], outputs: Sequence[str] | None = None) -> list[Any]:
        arrays = dict(
            zip(self.outputs, self._request.infer(dict(sample), share_inputs=True).values(), strict=True)
        )
        return [arrays[name] for name in outputs or self.outputs]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--files", type=Path, default=ROOT.parent / "build" / "nncf")
    parser.add_argument("--effort", default="balanced")
    parser.add_argument("--python", type=Path, help="of an environment with NNCF")
    args = parser.parse_args()
    python = args.python or environment(ROOT.parent / "build" / "nncf-env", PACKAGES)
    measured = {}
    for folder in models(args.folders):
        kept = args.files / f"{folder.name}.rows.json"
        if not kept.is_file():
            rows = measure(folder, args.files, args.effort, python)
            kept.write_text(json.dumps([asdict(row) for row in rows], indent=1))
        measured[folder.name] = [Row(**row) for row in json.loads(kept.read_text())]
        print("\n".join(lines(folder.name, measured[folder.name])), file=sys.stderr, flush=True)
    print(table(measured))


def measure(folder: Path, files: Path, effort: str, python: Path) -> list[Row]:
    """Quantize with every tool, and measure all results in one race."""
    original, failed = folder / "model.onnx", dict[str, str]()
    fp32 = Session(original, threads=1, name=FP32)
    sessions: dict[str, Model] = {FP32: fp32}

    def opened(tool: str, file: Path, runtime: str) -> None:
        try:
            sessions[tool] = Session(file, threads=1, name=tool, runtime=runtime)
        except ModelError as error:
            failed[tool] = error.message

    for precision in precisions_here(OPENVINO):
        opened(f"OpenVINO {precision}", original, f"{OPENVINO.name}:{precision}")
    by_nncf = files / f"{folder.name}.nncf.xml"
    if failed_there := nncf(folder, by_nncf, python):
        failed[NNCF] = failed_there
    else:
        try:
            sessions[NNCF] = Compiled(NNCF, by_nncf, fp32)
        except RuntimeError as error:
            failed[NNCF] = str(error).strip().splitlines()[-1][:100]
    for tool, target in (("qtool, openvino", fitting_target(OPENVINO.name)), (BEST, "best")):
        report = quantized(folder, target, effort, files)
        if "error" in report:
            failed[tool] = report["error"]
        else:
            opened(tool, files / f"{folder.name}.{target}.onnx", report["runtime"] or "onnxruntime")
    samples = open_source(str(folder / "eval"), inputs_of(load(original).model), Reading(samples=JUDGED))
    feeds = session_inputs(fp32, list(islice(samples.read(), SAMPLES)), samples.name)
    raced = timed(sessions, feeds)
    rows = [Row(tool, error) for tool, error in failed.items()]
    for tool, session in sessions.items():
        sqnr = math.inf if tool == FP32 else compare(fp32, session, samples).sqnr
        speed, ahead = raced.ratio(tool, FP32), raced.ratio(tool, BEST if BEST in sessions else FP32)
        rows.append(Row(tool, "", sqnr, (speed.median, speed.low, speed.high), ahead.low))
    return rows


def nncf(folder: Path, out: Path, python: Path) -> str:
    """Quantize with NNCF, unless it was done before; return the error, '' for none."""
    if out.is_file():
        return ""
    out.parent.mkdir(parents=True, exist_ok=True)
    command = [python, "-P", ROOT / "nncf_quantize.py", folder / "model.onnx", folder / "calib", out]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stderr.strip().splitlines()[-1][:100] if done.returncode else ""


def timed(sessions: Mapping[str, Model], feeds: Sequence[Mapping[str, Any]]) -> Race:
    """Race the sessions; each turn runs all samples, and the fastest ones again and again."""
    slowest = max(sum(single_times(s, feeds, 2, time.thread_time)[len(feeds) :]) for s in sessions.values())
    repeats = max(1, round(LEAST_TURN / slowest))

    def turn(session: Model) -> float:
        return per_inference(single_times(session, feeds, repeats, time.thread_time), len(feeds))

    turns = {name: lambda _, s=session: turn(s) for name, session in sessions.items()}
    return race(turns, threads=1, limits=LIMITS)


def lines(name: str, rows: Sequence[Row]) -> list[str]:
    """Return the rows of a model in Markdown."""
    best = next((row for row in rows if row.tool == BEST and not row.error), Row(BEST, sqnr=math.nan))
    text = []
    for row in rows:
        if row.tool == FP32:
            continue
        if row.error:
            reason = " ".join(row.error.split()).replace("|", "/")[:120]
            text.append(f"| {name} | {row.tool} | {reason} | | | |")
            continue
        speed = "{:.2f}x ({:.2f}-{:.2f})".format(*row.speed)
        wins = "yes" if not row.tool.startswith("qtool") and row.beats(best) else ""
        accepted = "yes" if row.accepted else "no"
        text.append(f"| {name} | {row.tool} | {speed} | {row.sqnr:.1f} | {accepted} | {wins} |")
    return text


def table(measured: Mapping[str, Sequence[Row]]) -> str:
    """Return the table of all models, and what it says of the claim."""
    text = ["| model | tool | speed | SQNR dB | accepted | beats best |", "|---|---|---|---|---|---|"]
    text += [line for name, rows in measured.items() for line in lines(name, rows)]
    speeds = [row.speed[0] for rows in measured.values() for row in rows if row.tool == BEST and row.accepted]
    if speeds:
        mean = math.exp(math.fsum(map(math.log, speeds)) / len(speeds))
        text += [
            "",
            f"Geometric mean of `--target best`, {len(speeds)} of {len(measured)} models: {mean:.2f}x",
        ]
    return "\n".join(text)


if __name__ == "__main__":
    main()
