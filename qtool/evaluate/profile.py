"""Where a model's time goes, by the runtime's own profiler."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qtool.runtime.trace import Kernels, kernels, read_trace

_SLOWEST = 20
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
    return _summary(read_trace(path, samples))


def profile_of(events: Sequence[Mapping[str, Any]], samples: int) -> Profile:
    """The same, of the events themselves.

    Raises:
        ValueError: nothing after the warm-up.
    """
    return _summary(kernels(events, samples))


def _summary(ran: Kernels) -> Profile:
    by_op: Counter[str] = Counter()
    for (op, _), spent in ran.spent.items():
        by_op[op] += spent
    nodes = Counter(op for op, _ in ran.spent)
    total = by_op.total()
    scale, share = _US / ran.inferences, 1 / max(total, 1)
    return Profile(
        inferences=ran.inferences,
        ms=ran.us * scale,
        between_ms=max(0, ran.us - total) * scale,
        ops=tuple(OpTime(op, nodes[op], us * scale, us * share) for op, us in by_op.most_common()),
        slowest=tuple(
            NodeTime(name, op, us * scale, us * share) for (op, name), us in ran.spent.most_common(_SLOWEST)
        ),
    )
