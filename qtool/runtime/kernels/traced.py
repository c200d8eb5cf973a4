"""Time a kernel, by the runtime's trace of a model around it."""

from __future__ import annotations

import json
import math
import tempfile
import time
from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from qtool.errors import EnvironmentFailure, RuntimeFailure
from qtool.runtime.kernels.graphs import IDLE, draw, feeds
from qtool.runtime.session import Session, running
from qtool.runtime.trace import kernel_events
from qtool.tables.kernels import Kernel, Kind
from qtool.tables.sizes import Size

# Microseconds that count as zero: a trace has whole microseconds.
_LEAST = 0.05
_LEAST_RUNS = 3
# Types of a quantized tensor, unlike those of its scale.
_BYTES = frozenset({"uint8", "int8"})


@dataclass(frozen=True)
class Pace:
    """The amount of timing.

    Args:
        turns: number of turns of each kind of a kernel.
        seconds: of a turn.
        runs: most runs of a turn.
    """

    turns: int
    seconds: float
    runs: int


@dataclass(frozen=True)
class KernelRun:
    """The seconds of a kernel, or None where the runtime ran other ops instead.

    Args:
        ops: of the runtime, in the order of their first run.
    """

    seconds: float | None
    ops: tuple[str, ...]


@dataclass(frozen=True)
class KernelFilter:
    """A filter for the kernel's events in a trace: an op of its name may have run on floats, or on less data.

    Args:
        ops: the names of its op.
        elements: least elements of one of its inputs.
    """

    ops: Collection[str]
    kind: Kind
    elements: int

    def fits(self, arguments: Mapping[str, Any]) -> bool:
        """Whether an event with these arguments is it."""
        if arguments["op_name"] not in self.ops:
            return False
        inputs = [tensor for entry in arguments["input_type_shape"] for tensor in entry.items()]
        if all(math.prod(shape) < self.elements for _, shape in inputs):
            return False
        if self.kind not in (Kind.FLOAT, Kind.INT8):
            return True
        return any(name in _BYTES for name, _ in inputs) == (self.kind is Kind.INT8)


@dataclass
class _TracedSession:
    """A session under trace, and the runs of each turn."""

    session: Session
    turns: list[int] = field(default_factory=list)


def time_kinds(
    kernel: Kernel, size: Size, threads: int, pace: Pace, kinds: Collection[Kind] | None = None
) -> dict[Kind, KernelRun]:
    """Time a kernel at a size in its kinds, in turns, so that a slow moment of the machine slows all of them.

    Raises:
        ModelError, RuntimeFailure: the runtime refuses or fails, where `KernelRun` can't say it.
        EnvironmentFailure: no room for the trace.
    """
    chosen = [kind for kind in kernel.runs if kinds is None or kind in kinds]
    sample = feeds(size)
    with _scratch() as folder:
        sessions = {}
        for kind in chosen:
            model = draw(kernel, size, kind).SerializeToString()
            name = f"{kernel.row} in {kind.value}"
            sessions[kind] = _TracedSession(
                Session(model, threads=threads, name=name, trace=Path(folder) / kind.value)
            )
        for traced in sessions.values():
            _run(traced, sample, 0.0, 0)
        for _ in range(pace.turns):
            for traced in sessions.values():
                traced.turns.append(_run(traced, sample, pace.seconds, pace.runs))
        elements = math.prod(size.data[0])
        return {
            kind: _read(KernelFilter(kernel.runs[kind], kind, elements), s) for kind, s in sessions.items()
        }


def _scratch() -> tempfile.TemporaryDirectory[str]:
    try:
        return tempfile.TemporaryDirectory(prefix="qtool-profile-")
    except OSError as error:
        raise EnvironmentFailure(f"no temporary folder: {error.strerror}", "set TMPDIR") from error


def _run(traced: _TracedSession, sample: Mapping[str, Any], seconds: float, most: int) -> int:
    """Run for some seconds; return the number of runs."""
    session, count = traced.session, 0
    with running(session):
        end = time.perf_counter() + seconds
        while count < _LEAST_RUNS or (count < most and time.perf_counter() < end):
            session.run(sample)
            count += 1
    return count


def _read(wanted: KernelFilter, traced: _TracedSession) -> KernelRun:
    try:
        text = traced.session.end_trace().read_text(encoding="utf-8", errors="replace")
        events = json.loads(text)
        return seconds_of(events, wanted, traced.turns)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise RuntimeFailure(f"{traced.session.name}: onnxruntime's trace can't be read") from error


def seconds_of(events: Sequence[Mapping[str, Any]], wanted: KernelFilter, turns: Sequence[int]) -> KernelRun:
    """Return the run of a kernel from a trace.

    The seconds are the mean of the faster half of a turn's runs, at the lower quartile of the turns, less the
    time of an idle node in the same runs, some 2 microseconds.

    Args:
        events: of the trace.
        wanted: the filter; where the kernel ran several times, the time is that of one.
        turns: runs of each turn; earlier runs were to warm up.
    """
    starts = sorted(e["ts"] for e in events if e["name"] == "model_run")
    spent: list[list[int]] = [[] for _ in starts]
    idle: list[list[int]] = [[] for _ in starts]
    ops: dict[str, None] = {}
    for event in kernel_events(events):
        run = bisect_right(starts, event["ts"]) - 1
        if run < 0:
            continue
        op = event["args"]["op_name"]
        ops[op] = None
        if op == IDLE:
            idle[run].append(event["dur"])
        elif wanted.fits(event["args"]):
            spent[run].append(event["dur"])
    first = len(starts) - sum(turns)
    if first < 0 or not all(spent[first:]):
        return KernelRun(None, tuple(ops))
    times = []
    for count in turns:
        chosen = slice(first, first + count)
        times.append(_typical(spent[chosen]) - _typical(idle[chosen]))
        first += count
    return KernelRun(max(sorted(times)[len(times) // 4], _LEAST) * 1e-6, tuple(ops))


def _typical(runs: Sequence[Sequence[int]]) -> float:
    """Return the mean of the faster half of runs, each the mean of its events."""
    means = sorted(fmean(run) for run in runs)
    return fmean(means[: (len(means) + 1) // 2])
