"""End quantize, tune and calibrate at random moments, in every way: python -m tests.fuzz.kills COUNT.

Each run has an old output and a checkpoint to write to. However it ends, the output is the old one or a whole
new one, the inputs are unchanged, nothing of it lives on, and beside the output there is nothing but what a
SIGKILL may leave: the next complete run removes that. tests/acceptance/test_kills.py has fixed moments.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx

from tests.cli.program import Program
from tests.graphs import write_samples
from tests.rewrite.zoo import CASES

SIGNALS = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM, signal.SIGQUIT)
_COMMON = ("--calib", "calib", "--target", "generic", "-q")
COMMANDS = {
    "quantize": (*_COMMON, "--checkpoint", "ckpt", "-o", "out/q.onnx"),
    "quantize with a side file": (*_COMMON, "--checkpoint", "ckpt", "-o", "out/q.onnx"),
    "tune": ("--calib", "calib", "--target", "cpu-avx2", "--timing", "table", "--effort", "balanced", "-q", "-o", "out/q.onnx", "--points", "2"),
    "calibrate": (*_COMMON, "--checkpoint", "ckpt", "-o", "out/ranges.json"),
}  # fmt: skip
_LITTER = re.compile(r"\.qtool-\w+\.tmp|q\.onnx\.[0-9a-f]{16}\.data|ckpt")
_SECONDS = 900.0


def start(name: str, folder: Path, *more: str) -> Program:
    """Begin a command in a folder, in a process group of its own."""
    side = 1000 if "side" in name else 1 << 30
    # A shell lets what it starts in the background ignore SIGQUIT.
    before = (
        "import os, signal; os.setsid(); signal.signal(signal.SIGQUIT, signal.SIG_DFL); "
        f"from qtool.graph import save; save.SIDE_FILE_BYTES = {side}"
    )
    words = (name.split()[0], "m.onnx", *COMMANDS[name], "--force", *more)
    return Program(*words, cwd=folder, env={"TMPDIR": str(folder / "tmp")}, before=before)


def finish(program: Program) -> str:
    """The stderr of a command, once it and every process that it started has ended."""
    return program.communicate(timeout=_SECONDS)[1].decode()


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def fault(folder: Path, before: dict[str, bytes], number: int, code: int | None, stderr: str) -> str:
    """The fault that an end left; '' for none."""
    # Other signals kill it, too, as long as it has not installed its handlers.
    if code not in ((0, -number) if number == signal.SIGKILL else (0, 5, 130, -number)):
        return f"exit code {code}: {stderr.strip()[-200:]}"
    if "Traceback" in stderr or "a bug in qtool" in stderr:
        return f"not our words: {stderr.strip()[-300:]}"
    after = files(folder)
    wrong = [n for n, data in before.items() if not n.startswith("out/") and after.get(n) != data]
    if wrong:
        return f"changed inputs: {wrong}"
    new = [n for n in after.keys() - before.keys() if not n.startswith("out/q.onnx.")]
    allowed = number == signal.SIGKILL
    if litter := [n for n in new if n != "ckpt" and not (allowed and _LITTER.search(n))]:
        return f"litter: {litter}"
    if not allowed and any((folder / "tmp").iterdir()):
        return f"litter: {[p.name for p in (folder / 'tmp').iterdir()]}"
    for name in ("out/ranges.json", "ckpt"):
        if name in after and name not in before:
            json.loads(after[name])
    if "out/q.onnx" in before:
        onnx.checker.check_model(str(folder / "out/q.onnx"), full_check=True)
    elif "out/ranges.json" in before:
        json.loads(after["out/ranges.json"])
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int, nargs="?", default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance, bad = random.Random(options.seed), 0
    base = Path(tempfile.mkdtemp(prefix="qtool-kills-"))
    (base / "m.onnx").write_bytes(CASES["transformer"].build().SerializeToString())
    write_samples(base / "calib", [{"x": np.random.default_rng(i).standard_normal((2, 6, 32)).astype(np.float32)} for i in range(9)])  # fmt: skip
    for name in ("tmp", "out"):
        (base / name).mkdir()
    lasts, ends = {}, dict[str, int]()
    for name in COMMANDS:  # a complete run: its seconds, and the old output of the others
        shutil.copytree(base, made := base.with_name(f"{base.name}-{name.replace(' ', '-')}"))
        began, program = time.monotonic(), start(name, made)
        stderr = finish(program)
        lasts[name] = (made, time.monotonic() - began)
        if program.returncode:
            raise RuntimeError(f"{name}: exit code {program.returncode}: {stderr}")
    for index in range(options.count):
        name, number = chance.choice(list(COMMANDS)), chance.choice(SIGNALS)
        both, share = chance.random() < 0.4, chance.random()
        old, seconds = lasts[name]
        folder = base / "case"
        shutil.copytree(old, folder)
        before, program = files(folder), start(name, folder)
        time.sleep(share * seconds)
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if both else os.kill)(program.pid, number)
        stderr = finish(program)
        try:
            problem = fault(folder, before, number, program.returncode, stderr)
            if not problem and number == signal.SIGKILL:
                resume = ("--resume",) if "ckpt" in files(folder) else ()
                stderr = finish(resumed := start(name, folder, *resume))
                more = [n for n in files(folder).keys() - before.keys() if not n.startswith("out/q.onnx.")]
                problem = f"after another run: {more} {stderr}" if more or resumed.returncode else ""
        except Exception as error:
            problem = f"torn: {type(error).__name__}: {error}"
        ends[f"{number.name} {program.returncode}"] = ends.get(f"{number.name} {program.returncode}", 0) + 1
        if problem:
            bad += 1
            print(f"{index} {name}: {number.name}{' to all' if both else ''} at {share:.2f} of {seconds:.1f} s: {problem}", flush=True)  # fmt: skip
        shutil.rmtree(folder)
    for made in (base, *(made for made, _ in lasts.values())):
        shutil.rmtree(made)
    print(f"{options.count} kills from --seed {options.seed}: {ends}; {bad} ended badly")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
