"""Every --method on folders of models: the worst output's SQNR on eval/, with ranges from calib/.

    python benchmarks/methods.py ../shared/models

One calibration a model; nothing is timed, so that int8 is kept whatever it gains. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from static import expand

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
    for folder in (f for given in args.folders for f in expand(given.resolve())):
        cells = [f"{sqnr:.1f}" for sqnr in of_methods(folder, args.target)]
        print(f"| {folder.name} | {' | '.join(cells)} |", flush=True)


def of_methods(folder: Path, target: str) -> list[float]:
    """dB, a method a number."""
    model = folder / "model.onnx"
    ranges = calibrate_model(model, folder / "calib", Calibrating(target=target))
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        for method in METHODS:
            out = Path(scratch) / f"{method}.onnx"
            qtool.quantize(model, out, qtool.Options(ranges=ranges, method=method, target=target))
            comparison = qtool.compare(model, out, folder / "eval").comparison
            assert comparison is not None
            found.append(comparison.sqnr)
    return found


if __name__ == "__main__":
    main()
