"""Every --method on folders of models: the worst output's SQNR on eval/, with ranges from calib/.

    python benchmarks/methods.py ../shared/models

Each model is calibrated once. Nothing is timed, so int8 stays where it is slower. The output is Markdown.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from table import expand

import qtool
from qtool.commands.calibrate import Calibrating, calibrate_model
from qtool.tables.methods import METHODS


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--target", default="cpu")
    args = parser.parse_args()
    print("| model | " + " | ".join(METHODS) + " |")
    print("|---" * (len(METHODS) + 1) + "|")
    for folder in expand(args.folders):
        cells = [f"{sqnr:.1f}" for sqnr in of_methods(folder, args.target)]
        print(f"| {folder.name} | {' | '.join(cells)} |", flush=True)


def of_methods(folder: Path, target: str) -> list[float]:
    """Return the SQNR of each method in dB."""
    model = folder / "model.onnx"
    ranges = calibrate_model(model, folder / "calib", Calibrating(target=target))
    sqnr = []
    with tempfile.TemporaryDirectory() as scratch:
        for method in METHODS:
            out = Path(scratch) / f"{method}.onnx"
            qtool.quantize(model, out, qtool.Options(ranges=ranges, method=method, target=target))
            comparison = qtool.compare(model, out, folder / "eval").comparison
            assert comparison is not None
            sqnr.append(comparison.sqnr)
    return sqnr


if __name__ == "__main__":
    main()
