"""Where a model's time goes, by the runtime's own profiler."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qtool.errors import RuntimeFailure

_SLOWEST = 20
_KERNEL = "_kernel_time"
_US = 1e-3  # milliseconds


@dataclass(frozen=True)
class OpTime:
    """All nodes of one op type, as the runtime has them after its own optimizations.

    Args:
        op: its type.
        nodes: how many ran.
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
class Profile:
    """Where the time of an inference goes. The profiler's own time is in it: shares mean more than times.

    Args:
        inferences: that it is the mean of: the faster half of those of each sample.
        ms: milliseconds of one inference.
        between_ms: what of it was not in a node.
        ops: the slowest first.
        slowest: the slowest nodes.
    """

    inferences: int
    ms: float
    between_ms: float
    ops: tuple[OpTime, ...]
    slowest: tuple[NodeTime, ...]


def read_profile(path: Path, samples: int) -> Profile:
    """What a trace of the runtime says.

    Args:
        path: the file.
        samples: that were run, all of them once to warm up, and then again ..

    Raises:
        RuntimeFailure: it is no trace, or has nothing after the warm-up.
    """
    try:
        return profile_of(json.loads(path.read_text(encoding="utf-8", errors="replace")), samples)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise RuntimeFailure("onnxruntime's profile can't be read", "leave out --profile-ops") from error


def profile_of(events: Sequence[Mapping[str, Any]], samples: int) -> Profile:
    """The same, of the events themselves.

    Raises:
        ValueError: nothing after the warm-up.
    """
    runs = _quiet_runs([_span(e) for e in events if e["name"] == "model_run"][samples:], samples)
    if not runs:
        raise ValueError("no inference in it")
    kernels = [e for e in events if e["cat"] == "Node" and e["name"].endswith(_KERNEL)]
    by_node: Counter[tuple[str, str]] = Counter()
    starts = [start for start, _ in runs]
    for event, alone in zip(kernels, _alone(kernels), strict=True):
        run = bisect_right(starts, event["ts"]) - 1
        if run >= 0 and event["ts"] < runs[run][1]:
            by_node[(event["args"].get("op_name", ""), _name(event))] += alone
    by_op: Counter[str] = Counter()
    for (op, _), spent in by_node.items():
        by_op[op] += spent
    nodes = Counter(op for op, _ in by_node)
    total, whole = by_op.total(), sum(end - start for start, end in runs)
    scale, share = _US / len(runs), 1 / max(total, 1)
    return Profile(
        inferences=len(runs),
        ms=whole * scale,
        between_ms=max(0, whole - total) * scale,
        ops=tuple(OpTime(op, nodes[op], us * scale, us * share) for op, us in by_op.most_common()),
        slowest=tuple(
            NodeTime(name, op, us * scale, us * share) for (op, name), us in by_node.most_common(_SLOWEST)
        ),
    )


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


def _alone(kernels: Sequence[Mapping[str, Any]]) -> list[int]:
    """Microseconds of each kernel without those that ran within it: the body of a Loop, say."""
    alone = [event["dur"] for event in kernels]
    around: list[int] = []
    for index in sorted(range(len(kernels)), key=lambda i: (kernels[i]["ts"], -kernels[i]["dur"])):
        start = kernels[index]["ts"]
        while around and start >= kernels[around[-1]]["ts"] + kernels[around[-1]]["dur"]:
            around.pop()
        if around:
            alone[around[-1]] -= kernels[index]["dur"]
        around.append(index)
    return alone
