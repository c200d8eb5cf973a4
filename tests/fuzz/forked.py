"""The program in a forked process: a random command, its run, and the judgement of its end."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from qtool.cli import main as program
from tests.acceptance.hostile import content

SCRATCH = Path(tempfile.mkdtemp(prefix="qtool-fuzz-"))
# Where the temporary files of the program go, its bug reports too.
TEMPORARY = SCRATCH / "tmp"
STEP_SECONDS = 15
CASE_SECONDS = 600  # of the clock: a busy machine may need them
MEMORY = "4GB"
# What the program says when a native library did what it should not.
TOLD = {"crash": "a native library crashed", "hang": "no end after", "memory": "out of memory"}

_OURS = ("error: ", "  hint: ", "warning: ", "gate failed: ")
_STAGE = re.compile(r"\[\d+/\d+\] ")  # a stage that took long, in a log


@dataclass(frozen=True)
class Outcome:
    """The end of a run.

    Args:
        wrong: the fault; '' for a good end.
        told: a key of TOLD, or ''.
    """

    code: int
    seconds: float
    wrong: str
    told: str
    stderr: str


def command(chance: random.Random) -> list[str]:
    """The words of a random command: mostly quantize, in all modes."""
    kind = chance.random()
    if kind < 0.1:
        return ["inspect", "m.onnx", *chance.choice((["--json"], ["-v"], ["good-m.onnx"]))]
    if kind < 0.2:
        return ["compare", "good-m.onnx", "m.onnx", "--data", "calib"]
    words = ["quantize", "m.onnx", "-o", "q.onnx", "--target", chance.choice(("cpu", "generic"))]
    mode = chance.choice(("static", "static", "dynamic", "weight-only", "fp16"))
    words += ["--mode", mode]
    if mode == "static":
        words += ["--calib", chance.choice(("calib", "calib", "none"))]
    elif chance.random() < 0.3:
        words += ["--data", "calib"]
    return words + chance.choice(
        (
            [],
            ["--include", "*"],
            ["-v"],
            ["--json"],
            ["--dry-run"],
            ["--io", "uint8"] if mode == "static" else [],
        )
    )


def run(words: list[str], folder: Path, step: int = STEP_SECONDS) -> Outcome:
    """Run the program in a fork, with a limit of CPU seconds for each step, and look at what is left."""
    TEMPORARY.mkdir(exist_ok=True)
    before = content(folder)
    start = time.monotonic()
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        work(words, folder, step)
    code = wait(pid, start)
    seconds = time.monotonic() - start
    stderr = (SCRATCH / "stderr").read_text(encoding="utf-8", errors="replace")
    wrong = "" if code is not None else f"a hang of {CASE_SECONDS} s"
    return Outcome(
        -1 if code is None else code,
        seconds,
        wrong or judged(code or 0, stderr, before, folder),
        next((kind for kind, said in TOLD.items() if said in stderr), ""),
        stderr,
    )


def work(words: list[str], folder: Path, step: int) -> None:
    """The child: be the program."""
    os.setsid()
    for name, number in (("stdout", 1), ("stderr", 2)):
        os.dup2(os.open(SCRATCH / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.chdir(folder)
    tempfile.tempdir = str(TEMPORARY)
    threads = [] if words[0] == "inspect" else ["--threads", "1"]
    sys.argv = ["qtool", *words, *threads, "--time-limit", str(step), "--memory-limit", MEMORY]
    code = 99
    try:
        program.main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 98
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)


def wait(pid: int, start: float) -> int | None:
    """The child's exit code, negative for a signal; None for a hang, which is ended."""
    while time.monotonic() - start < CASE_SECONDS:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def judged(code: int, stderr: str, before: dict[str, object], folder: Path) -> str:
    """The fault of an end; '' for none."""
    if code < 0:
        return f"died of {signal.Signals(-code).name}"
    if code not in (0, 1, 2, 3, 4, 5, 6):
        return f"exit code {code}"
    after = content(folder)
    if changed := [n for n in {**before, **after} if n != "q.onnx" and after.get(n) != before.get(n)]:
        return f"left or changed files: {changed[:3]}"
    if left := [p.name for p in TEMPORARY.iterdir() if code != 70]:
        return f"left temporary files: {left[:3]}"
    if code > 1 and "q.onnx" in after:
        return "an output in spite of an error"
    lines = stderr.splitlines()
    if code > 1 and sum(line.startswith("error: ") for line in lines) != 1:
        return "not one error line"
    if "a bug in qtool" in stderr:
        return "a bug, by its own words"
    if odd := [line for line in lines if not line.startswith(_OURS) and not _STAGE.match(line)]:
        return f"a line that is none of ours: {odd[0][:200]!r}"
    if not all(line.isprintable() for line in lines):
        return "control characters on stderr"
    out = (SCRATCH / "stdout").read_text(encoding="utf-8", errors="replace")
    return "" if out.replace("\n", "").isprintable() else "control characters on stdout"
