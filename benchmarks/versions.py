"""Compare two versions of qtool on the same models: accuracy, and speed of the models that they write.

    git worktree add ../qtool-old COMMIT
    python benchmarks/versions.py ../qtool-old ../shared/models

Each model is quantized by both versions with default options, one after the other, on one thread; both
files are then compared with FP32 on eval/, which neither saw, and raced against each other, interleaved.
`new/old` is how many times as fast the new file is, with the 95% interval of the paired ratio. Prints a
Markdown table, and exits 1 where an interval lies wholly below 0.97 or the SQNR fell by more than 1 dB.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from table import expand

from qtool.commands.prepare import load_model, read_samples
from qtool.data.reading import Reading
from qtool.evaluate.compare import compare
from qtool.evaluate.float_io import with_float_io
from qtool.evaluate.latency import Ratio, race_models
from qtool.runtime.session import Session

# Tolerances: decisions that rest on timings differ from run to run.
LEAST_RATIO = 0.97
MOST_LOSS_DB = 1.0

NEW = Path(__file__).resolve().parent.parent
CALL = """
import sys, qtool
model, out, calib, target = sys.argv[1:]
result = qtool.quantize(model, out, qtool.Options(calib=calib, target=target, threads=1, force=True))
sys.exit(not result.ok)
"""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("old", type=Path, help="a checkout of the other version")
    parser.add_argument("models", type=Path, nargs="+", help="folders with model.onnx, calib/ and eval/")
    parser.add_argument("--target", default="cpu")
    parser.add_argument("--keep", type=Path, help="keep the quantized models in this folder")
    args = parser.parse_args()
    print("| model | old dB | new dB | new/old speed (95%) | old s | new s |")
    print("|---|---|---|---|---|---|")
    bad = 0
    for folder in expand(args.models):
        with tempfile.TemporaryDirectory() as scratch:
            place = args.keep or Path(scratch)
            place.mkdir(parents=True, exist_ok=True)
            bad += not row(folder, args.old.resolve(), place, args.target)
    return 1 if bad else 0


def row(folder: Path, old: Path, place: Path, target: str) -> bool:
    """Print a row, and return whether the new version is within the tolerances."""
    files = {name: place / f"{folder.name}.{name}.onnx" for name in ("old", "new")}
    roots = {"old": old, "new": NEW}
    seconds = {name: quantize(root, folder, files[name], target) for name, root in roots.items()}
    sqnr = {name: fidelity(folder, file) for name, file in files.items()}
    source = load_model(folder / "model.onnx")
    samples = read_samples(source, folder / "eval", Reading())
    race = race_models(files, samples, 1)
    ratio: Ratio = race.ratio("new", "old")
    print(
        f"| {folder.name} | {sqnr['old']:.1f} | {sqnr['new']:.1f} "
        f"| {ratio.median:.2f}x ({ratio.low:.2f}-{ratio.high:.2f}) "
        f"| {seconds['old']:.0f} | {seconds['new']:.0f} |",
        flush=True,
    )
    return ratio.high >= LEAST_RATIO and sqnr["new"] >= sqnr["old"] - MOST_LOSS_DB


def quantize(root: Path, folder: Path, output: Path, target: str) -> float:
    """Quantize with one version, and return the seconds."""
    start = time.perf_counter()
    words = [str(p.resolve()) for p in (folder / "model.onnx", output, folder / "calib")]
    words.append(target)
    environment = {**os.environ, "PYTHONPATH": str(root)}
    subprocess.run([sys.executable, "-c", CALL, *words], check=True, env=environment, cwd=output.parent)
    return time.perf_counter() - start


def fidelity(folder: Path, file: Path) -> float:
    """The SQNR of the worst output on eval/, in dB."""
    source = load_model(folder / "model.onnx")
    samples = read_samples(source, folder / "eval", Reading())
    fp32 = with_float_io(Session(source.loadable, threads=1, name=source.name))
    return compare(fp32, with_float_io(Session(file, threads=1, name=file.name)), samples).sqnr


if __name__ == "__main__":
    sys.exit(main())
