"""Every mode on folders of models: fidelity, speed and size, from the installed program without samples.

    python benchmarks/modes.py ../shared/models --scorer ../shared/tools/score.py

Static calibrates on calib/; the other modes see no data. Measured on eval/ as benchmarks/static.py does.
Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from static import compare, expand, program, score

MODES = {
    "static": ["--mode", "static"],
    "dynamic": ["--mode", "dynamic"],
    "weight-only 8": ["--mode", "weight-only"],
    "weight-only 8, speed": ["--mode", "weight-only", "--prefer", "speed"],
    "weight-only 4": ["--mode", "weight-only", "--bits", "4"],
    "fp16": ["--mode", "fp16"],
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--scorer", type=Path)
    args = parser.parse_args()
    print("| model | mode | SQNR dB | speed | smaller |")
    print("|---|---|---|---|---|")
    for folder in (f for given in args.folders for f in expand(given.resolve())):
        for name, options in MODES.items():
            print(line(folder, name, options, args.scorer), flush=True)


def line(folder: Path, name: str, options: list[str], scorer: Path | None) -> str:
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / "q.onnx"
        calib = ["--calib", folder / "calib"] if name == "static" else []
        command = [program(), "quantize", folder / "model.onnx", "-o", target, *options, *calib, "-q"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            return f"| {folder.name} | {name} | exit {done.returncode} | | |"
        found = score(scorer, folder, target) if scorer else compare(folder, target)
    cells = f"{found['sqnr']:.1f} | {found['speedup']:.2f}x | {found['smaller']:.2f}x"
    return f"| {folder.name} | {name} | {cells} |"


if __name__ == "__main__":
    main()
