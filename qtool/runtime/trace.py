"""Times of single kernels, from the trace that onnxruntime's profiler writes for a session."""

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
_SLOWEST = 20
_MS = 1e-3  # milliseconds of a microsecond

Kernel = tuple[str, str]
"""The op of a node, and the runtime's name for it."""


@dataclass(frozen=True)
class OpTime:
    """All nodes of one op type, as the runtime has them after its own optimizations.

    Args:
        op: the type.
        nodes: number of nodes that ran.
        ms: milliseconds of one inference, without the nodes inside (If, Loop).
        share: of the time of all nodes.
    """

    op: str
    nodes: int
    ms: float
    share: float


@dataclass(frozen=True)
class NodeTime:
    """One node: the runtime's name for it, its op type, milliseconds of one inference, share of all nodes."""

    name: str
    op: str
    ms: float
    share: float


@dataclass(frozen=True)
class OpTimes:
    """Times per op and per node, with the profiler's own cost: shares are more reliable than times.

    Args:
        inferences: number of inferences that these are means of: the faster half of those of each sample.
        ms: milliseconds of one inference.
        between_ms: its part outside all nodes.
        ops: the slowest first.
        slowest: the 20 slowest nodes.
    """

    inferences: int
    ms: float
    between_ms: float
    ops: tuple[OpTime, ...]
    slowest: tuple[NodeTime, ...]


@dataclass(frozen=True)
class KernelTimes:
    """Times of kernels over the inferences of a trace, without what interrupted them.

    Args:
        inferences: number of inferences, equally many of each sample: the faster half of the trace.
        us: microseconds of all of them, with the time between kernels.
        spent: kernel -> microseconds over as many inferences, without the kernels inside it. The median over
            inferences counts: an interruption takes longer than most kernels, and on a busy machine few
            inferences are free of one.
    """

    inferences: int
    us: int
    spent: Counter[Kernel]

    def op_times(self) -> OpTimes:
        """Return the times per op and of the slowest nodes."""
        by_op: Counter[str] = Counter()
        for (op, _), us in self.spent.items():
            by_op[op] += us
        nodes = Counter(op for op, _ in self.spent)
        total = by_op.total()
        scale, share = _MS / self.inferences, 1 / max(total, 1)
        return OpTimes(
            inferences=self.inferences,
            ms=self.us * scale,
            between_ms=max(0, self.us - total) * scale,
            ops=tuple(OpTime(op, nodes[op], us * scale, us * share) for op, us in by_op.most_common()),
            slowest=tuple(
                NodeTime(name, op, us * scale, us * share)
                for (op, name), us in self.spent.most_common(_SLOWEST)
            ),
        )


def read_trace(path: Path, samples: int) -> KernelTimes:
    """Return the kernel times of a trace.

    Args:
        path: the trace, a JSON file.
        samples: number of samples that were run: all of them once to warm up, then all of them again, in
            turn.

    Raises:
        RuntimeFailure: the file is not a trace, or has no inference after the warm-up.
    """
    try:
        return kernel_times(json.loads(path.read_text(encoding="utf-8", errors="replace")), samples)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise RuntimeFailure(
            "onnxruntime's profile can't be read", "leave out --profile-ops, or add --timing table"
        ) from error


def kernel_times(events: Sequence[Mapping[str, Any]], samples: int) -> KernelTimes:
    """Return the kernel times of a trace's events.

    Raises:
        ValueError: there is no inference after the warm-up.
    """
    runs = [_span(e) for e in events if e["name"] == "model_run"][samples:]
    if not runs:
        raise ValueError("no inference after the warm-up")
    kernels = kernel_events(events)
    times: dict[Kernel, list[int]] = {}
    starts = [start for start, _ in runs]
    for event, own in zip(kernels, _own_times(kernels), strict=True):
        run = bisect_right(starts, event["ts"]) - 1
        if run >= 0 and event["ts"] < runs[run][1]:
            kernel = event["args"].get("op_name", ""), _name(event)
            times.setdefault(kernel, [0] * len(runs))[run] += own
    quiet = _faster_half(runs, samples)
    share = len(quiet) / min(samples, len(runs))
    spent = Counter({k: round(share * _sum_of_medians(each, samples)) for k, each in times.items()})
    return KernelTimes(len(quiet), sum(end - start for start, end in quiet), spent)


def kernel_events(events: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the events of a trace that are runs of kernels."""
    return [e for e in events if e["cat"] == "Node" and e["name"].endswith(_KERNEL)]


def _sum_of_medians(times: Sequence[int], samples: int) -> float:
    """The sum over samples of the median over the inferences of each."""
    return sum(median(ours) for sample in range(samples) if (ours := times[sample::samples]))


def _span(event: Mapping[str, Any]) -> tuple[int, int]:
    """Start and end of an event, microseconds."""
    return event["ts"], event["ts"] + event["dur"]


def _faster_half(runs: Sequence[tuple[int, int]], samples: int) -> list[tuple[int, int]]:
    """The faster half of the inferences of each sample: an interruption would be counted to some node."""
    chosen: list[tuple[int, int]] = []
    for sample in range(samples):
        ours = sorted(runs[sample::samples], key=lambda span: span[1] - span[0])
        chosen += ours[: (len(ours) + 1) // 2]
    return sorted(chosen)


def _name(event: Mapping[str, Any]) -> str:
    """The node's name, or its index: the runtime has nodes without a name, and some that share one."""
    name: str = event["name"].removesuffix(_KERNEL)
    return name or f"{event['args'].get('op_name', '')} (node {event['args'].get('node_index', '')})"


def _own_times(events: Sequence[Mapping[str, Any]]) -> list[int]:
    """Microseconds of each kernel without the kernels inside it, such as the body of a Loop."""
    own = [event["dur"] for event in events]
    around: list[int] = []
    for index in sorted(range(len(events)), key=lambda i: (events[i]["ts"], -events[i]["dur"])):
        start = events[index]["ts"]
        while around and start >= events[around[-1]]["ts"] + events[around[-1]]["dur"]:
            around.pop()
        if around:
            own[around[-1]] -= events[index]["dur"]
        around.append(index)
    return own
