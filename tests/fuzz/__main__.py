"""Throw damaged files at the program, for a while: `make fuzz`, or python -m tests.fuzz SECONDS.

Each case is a small valid model with samples, and one change: to bytes of a file, or to a field of the model (a
number, a name, a node), so that the file stays well-formed. Every second case changes a plan, report, ranges file
or cost table that the program made of them instead. The program runs on it in a
process forked from this one, which has everything imported already. It must end in time, with a documented
code other than 70, one error line where that is not 0 or 1, nothing left behind and its input unchanged.

A native library that crashes or hangs is no failure as long as the program says so and ends in 3 to 6; such
cases are counted, and kept too. Every kept case is a folder with the files, and `case.json`: command and outcome.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import qtool.commands.verdict
import qtool.evaluate.evaluator
import qtool.graph.inspection.change
import qtool.graph.inspection.read
import qtool.report.difference
import qtool.report.inspection
import qtool.report.json
import qtool.report.terminal
from qtool.evaluate import latency
from tests.fuzz.damage import damage, rearranged, strange
from tests.fuzz.documents import documents, garbled, lay, reading
from tests.fuzz.forked import SCRATCH, TEMPORARY, Outcome, command, run
from tests.fuzz.seeds import Seed, seeds
from tests.graphs import write_samples


def lay_out(seed: Seed, folder: Path, chance: random.Random) -> None:
    """Write the files of a case: its document damaged, or another file; or the model changed, or a sample."""
    lay(folder, seed)
    if seed.document is not None:
        name, data = seed.document
        (folder / name).write_bytes(garbled(data, chance))
        return
    kind = chance.random()
    if kind < 0.55:
        (folder / "m.onnx").write_bytes(rearranged(seed.files["m.onnx"], chance))
    elif kind < 0.8:
        name = chance.choice(list(seed.files))
        (folder / name).write_bytes(damage(seed.files[name], chance))
    elif seed.samples and kind < 0.9:
        samples = [dict(s) for s in seed.samples]
        at = chance.randrange(len(samples))
        with contextlib.suppress(ValueError, TypeError):  # strings are no numbers
            samples[at] = strange(samples[at], chance)
        write_samples(folder / "calib", samples)
    elif seed.samples:
        file = chance.choice(sorted((folder / "calib").iterdir()))
        file.write_bytes(damage(file.read_bytes(), chance))


def keep(folder: Path, where: Path, words: list[str], seed: Seed, outcome: Outcome) -> None:
    shutil.copytree(folder, where)
    notes = {"command": words, "seed": seed.name, **vars(outcome)}
    (where / "case.json").write_text(json.dumps(notes, indent=1))
    for report in TEMPORARY.glob("qtool-bug-*"):
        shutil.move(report, where / "trace.txt")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seconds", type=float, nargs="?", default=600)
    parser.add_argument(
        "--seed", type=int, default=None, help="of the first case; each has its own, which is printed"
    )
    parser.add_argument("--out", type=Path, default=Path("fuzz-found"), help="where reproducers go")
    parser.add_argument(
        "--known", action="store_true", help="keep crashes and hangs that the program told of, too"
    )
    options = parser.parse_args()
    qtool.commands.verdict.race_models = qtool.evaluate.evaluator.race_models = partial(
        latency.race_models, limits=latency.Limits(1, 1)
    )
    first = random.SystemRandom().randrange(1 << 31) if options.seed is None else options.seed
    models = seeds()
    planted = (
        models,
        list(documents([seed for seed in models if seed.name in ("transformer", "mobile-block")])),
    )
    ends: Counter[str] = Counter()
    bad, number, end = 0, 0, time.monotonic() + options.seconds
    try:
        while time.monotonic() < end:
            bad += one(first + number, planted, options, ends)
            number += 1
    except KeyboardInterrupt:
        pass
    finally:
        shutil.rmtree(SCRATCH, ignore_errors=True)
    print(
        f"{number} cases from --seed {first}: " + ", ".join(f"{n} {what}" for what, n in sorted(ends.items()))
    )
    print(f"{bad} ended badly" + (f": see {options.out}/" if bad else ""))
    return 1 if bad else 0


def one(
    number: int, planted: Sequence[Sequence[Seed]], options: argparse.Namespace, ends: Counter[str]
) -> bool:
    """Run one case; whether it ended badly."""
    chance = random.Random(number)
    seed = chance.choice(chance.choice(planted))
    words = command(chance) if seed.document is None else reading(seed.document[0], chance)
    folder = SCRATCH / "case"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    lay_out(seed, folder, chance)
    outcome = run(words, folder)
    ends[f"exit {outcome.code}"] += 1
    if outcome.told:
        ends[f"told: {outcome.told}"] += 1
    where = options.out / f"{number}"
    if (outcome.wrong or (options.known and outcome.told)) and not where.exists():
        keep(folder, where, words, seed, outcome)
    if outcome.wrong:
        print(
            f"{number} {seed.name}: {outcome.wrong}: qtool {' '.join(words)}: {outcome.stderr.strip()[:200]}",
            flush=True,
        )
    return bool(outcome.wrong)


if __name__ == "__main__":
    sys.exit(main())
