"""Progress on stderr: on a terminal a line that is kept up to date, in a log one for each stage that ended.

[3/6] sensitivity  41/120  elapsed 0:12, about 0:20 left
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from qtool.runtime import heartbeat

if TYPE_CHECKING:
    from qtool.options import Progress

# Command -> its stages, in their order. A stage that is not here is shown without a number.
# A name may go on after a colon (recover: gptq).
STAGES: dict[str, tuple[str, ...]] = {
    "quantize": (
        "prepare",
        "calibrate",
        "timing",
        "race",
        "recover",
        "sensitivity",
        "candidates",
        "write",
        "validate",
    ),
    "calibrate": ("prepare", "calibrate"),
    "compare": ("compare",),
    "advise": ("prepare",),
    "analyze": ("prepare", "calibrate", "analyze", "advice"),
    "data": ("survey",),
    "bench": ("bench",),
    "profile": ("profile",),
    "sweep": ("sweep",),
}
STAGES["tune"] = STAGES["quantize"]

LOGS = True  # whether a stream that is no terminal gets the lines of a log
_SPINNER = "|/-\\"
_TICK = 0.2  # seconds
_NOTHING = 0.05  # seconds


class Stages:
    """The stages of a command that is running, as text.

    Args:
        names: of all stages.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names
        self._number = 0
        self._counts: dict[str, tuple[int, int, int]] = {}  # stage -> done before, done, total
        self._start = 0.0
        self._listed = False
        self.name = ""

    def show(self, name: str, done: int, total: int) -> str:
        """Note that a stage is at `done` of `total`; return the line of one that has ended.

        Args:
            name: of the stage.
            done, total: 0 and 0 where it has no count.
        """
        ended = ""
        if name != self.name:
            ended = self.ended()
            self.name, self._start = name, time.monotonic()
            self._listed = name.partition(":")[0] in self._names
            if self._listed:
                self._number = max(self._number, self._names.index(name.partition(":")[0]) + 1)
        before, last, _ = self._counts.get(name, (0, 0, 0))
        if done < last:  # it runs again: its count goes on
            before += last
        self._counts[name] = before, done, total
        return ended

    def now(self) -> str:
        """Return the line of the stage that goes on."""
        before, done, total = self._counts.get(self.name, (0, 0, 0))
        seconds = time.monotonic() - self._start
        parts = [self._title(), f"elapsed {_clock(seconds)}"]
        if done < total:
            parts.insert(1, f"{before + done}/{before + total}")
            if done:
                parts[-1] += f", about {_clock(seconds * (total - done) / done)} left"
        return "  ".join(parts)

    def ended(self) -> str:
        """Return the line of the stage as one that has ended; '' before the first."""
        if not self.name:
            return ""
        before, done, _ = self._counts[self.name]
        seconds = time.monotonic() - self._start
        if ":" in self.name and not done and seconds < _NOTHING:  # a step that had nothing to do
            return ""
        count = [str(before + done)] if done else []
        return "  ".join([self._title(), *count, f"{seconds:.1f} s"])

    def _title(self) -> str:
        number = f"[{self._number}/{len(self._names)}] " if self._listed else ""
        return f"{number}{self.name}"


@contextlib.contextmanager
def progress_line(command: str, quiet: bool) -> Iterator[Progress]:
    """Show the progress of a command on stderr; yield the function that moves it on.

    Args:
        command: a row of STAGES.
        quiet: show nothing. Every call is a heartbeat all the same.
    """
    stages = Stages(STAGES[command])
    shows = "" if quiet else "line" if sys.stderr.isatty() else "log" if LOGS else ""

    def show(stage: str, done: int, total: int) -> None:
        heartbeat.stage(stage)
        ended = stages.show(stage, done, total)
        if ended and shows == "log":
            print(ended, file=sys.stderr, flush=True)

    if shows == "line":
        with _kept_up_to_date(stages):
            yield show
        return
    yield show
    if shows == "log" and (ended := stages.ended()):
        print(ended, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _kept_up_to_date(stages: Stages) -> Iterator[None]:
    """Show the stage that goes on, with a spinner, until the end; nothing of it stays on the terminal."""
    over = threading.Event()

    def draw() -> None:
        for mark in itertools.cycle(_SPINNER):
            if stages.name:
                _overwrite(f"{mark} {stages.now()}")
            if over.wait(_TICK):
                return

    thread = threading.Thread(target=draw, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        clear_line()


def clear_line() -> None:
    """Clear the line of the terminal that a progress line may stand on."""
    if sys.stderr.isatty():
        _overwrite("")
        sys.stderr.write("\r")
        sys.stderr.flush()


def _overwrite(text: str) -> None:
    width = shutil.get_terminal_size().columns - 1
    sys.stderr.write("\r" + text[:width].ljust(width))
    sys.stderr.flush()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
