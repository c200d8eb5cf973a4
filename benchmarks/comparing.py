"""What comparing two models costs: as a multiple of running both over the same samples.

    python benchmarks/comparing.py ../shared/models

The int8 model is the installed program's. One process, one thread, interleaved, samples in memory on both
sides (eval/, repeated to 300 or more); the median of the rounds. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from calibration import timed
from static import expand, program

_SAMPLES = 300


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    print("| model | samples | both ms | comparing |")
    print("|---|---|---|---|")
    for folder in (f for given in args.folders for f in expand(given.resolve())):
        with tempfile.TemporaryDirectory() as scratch:
            target = Path(scratch) / "q.onnx"
            command = [program(), "quantize", folder / "model.onnx", "-o", target, "-q"]
            subprocess.run([*command, "--calib", folder / "calib"], check=True, capture_output=True)
            print(f"| {folder.name} | {' | '.join(cost(folder, target, args.rounds))} |", flush=True)


def cost(folder: Path, quantized: Path, rounds: int) -> list[str]:
    """The cells of a model's row."""
    from qtool.data.fit import fit
    from qtool.data.memory import InMemory
    from qtool.data.open import open_source
    from qtool.evaluate.compare import compare
    from qtool.runtime.session import Session

    a, b = (Session(path, threads=1) for path in (folder / "model.onnx", quantized))
    samples = [fit(s, a.inputs, a.input_dtypes, "eval") for s in open_source(folder / "eval").read()]
    samples *= -(-_SAMPLES // len(samples))
    source = InMemory(samples, len(samples))

    def both() -> None:
        for sample in samples:
            a.run(sample)
            b.run(sample)

    pairs = [(timed(both), timed(lambda: compare(a, b, source))) for _ in range(rounds)]
    ms = 1e3 * statistics.median(plain for plain, _ in pairs) / len(samples)
    ratio = statistics.median(compared / plain for plain, compared in pairs)
    return [str(len(samples)), f"{ms:.2f}", f"{ratio:.2f}x"]


if __name__ == "__main__":
    main()
