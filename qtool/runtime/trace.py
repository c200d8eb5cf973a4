"""The runtime's own trace of a session: which kernel ran when, and for how long."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from qtool.errors import RuntimeFailure

_KERNEL = "_kernel_time"

Kernel = tuple[str, str]
"""The op that ran, and the runtime's name for its node."""


@dataclass(frozen=True)
class Kernels:
    """What ran in the inferences of a trace, as it is when nothing interrupts it.

    Args:
        inferences: of each sample as many: the faster half of what was traced.
        us: microseconds of all of them, with what was between the kernels.
        spent: kernel -> microseconds over as many, without what ran within it. Of each kernel the median
            counts: an interruption takes longer than most kernels, and whole runs free of it are rare on a
            busy machine.
    """

    inferences: int
    us: int
    spent: Counter[Kernel]


def read_trace(path: Path, samples: int) -> Kernels:
    """What a file of the runtime says.

    Args:
        path: the file.
        samples: that were run, all of them once to warm up, and then again ..

    Raises:
        RuntimeFailure: it is no trace, or has nothing after the warm-up.
    """
    try:
        return kernels(json.loads(path.read_text(encoding="utf-8", errors="replace")), samples)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise RuntimeFailure(
            "onnxruntime's profile can't be read", "leave out --profile-ops, or add --profile table"
        ) from error


def kernels(events: Sequence[Mapping[str, Any]], samples: int) -> Kernels:
    """The same, of the events themselves.

    Raises:
        ValueError: nothing after the warm-up.
    """
    runs = [_span(e) for e in events if e["name"] == "model_run"][samples:]
    if not runs:
        raise ValueError("no inference in it")
    found = kernel_events(events)
    times: dict[Kernel, list[int]] = {}
    starts = [start for start, _ in runs]
    for event, alone in zip(found, _alone(found), strict=True):
        run = bisect_right(starts, event["ts"]) - 1
        if run >= 0 and event["ts"] < runs[run][1]:
            kernel = event["args"].get("op_name", ""), _name(event)
            times.setdefault(kernel, [0] * len(runs))[run] += alone
    quiet = _quiet_runs(runs, samples)
    share = len(quiet) / min(samples, len(runs))
    spent = Counter({k: round(share * _typical(each, samples)) for k, each in times.items()})
    return Kernels(len(quiet), sum(end - start for start, end in quiet), spent)


def _typical(times: Sequence[int], samples: int) -> float:
    """The sum over samples of what a run of each mostly takes."""
    return sum(median(ours) for sample in range(samples) if (ours := times[sample::samples]))


def kernel_events(events: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those of a trace that are the runs of kernels."""
    return [e for e in events if e["cat"] == "Node" and e["name"].endswith(_KERNEL)]


def _span(event: Mapping[str, Any]) -> tuple[int, int]:
    """When it began and ended, microseconds."""
    return event["ts"], event["ts"] + event["dur"]


def _quiet_runs(runs: Sequence[tuple[int, int]], samples: int) -> list[tuple[int, int]]:
    """The faster half of the runs of each sample: what interrupts a run would be put down to some node."""
    chosen: list[tuple[int, int]] = []
    for sample in range(samples):
        ours = sorted(runs[sample::samples], key=lambda span: span[1] - span[0])
        chosen += ours[: (len(ours) + 1) // 2]
    return sorted(chosen)


def _name(event: Mapping[str, Any]) -> str:
    """The runtime has nodes without a name, and some that share one."""
    name: str = event["name"].removesuffix(_KERNEL)
    return name or f"{event['args'].get('op_name', '')} (node {event['args'].get('node_index', '')})"


def _alone(events: Sequence[Mapping[str, Any]]) -> list[int]:
    """Microseconds of each kernel without those that ran within it: the body of a Loop, say."""
    alone = [event["dur"] for event in events]
    around: list[int] = []
    for index in sorted(range(len(events)), key=lambda i: (events[i]["ts"], -events[i]["dur"])):
        start = events[index]["ts"]
        while around and start >= events[around[-1]]["ts"] + events[around[-1]]["dur"]:
            around.pop()
        if around:
            alone[around[-1]] -= events[index]["dur"]
        around.append(index)
    return alone
