"""Where the time of a model goes, node by node, in terms of the graph that it was made of."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from qtool.data.fit import fit
from qtool.data.samples import Sample, Samples, evenly
from qtool.graph.save import model_for_session
from qtool.graph.view import View, sole_consumer
from qtool.graph.wiring import Wiring, wiring
from qtool.plan.eligible import rule_of
from qtool.runtime.session import Session, running
from qtool.runtime.trace import KernelTimes, read_trace
from qtool.tables.ops import Role

# Enough for medians of microseconds, and no more events than a file of some MB holds.
_SECONDS = 0.3
_MOST_RUNS = 60
_MOST_EVENTS = 100_000
_SAMPLES = 4
_LEAST = 3
# Kernels that stand between int8 and float, and belong to no node: what they take depends on the labels
# around them, and is looked up (plan/costs.py).
_EDGES = frozenset({"QuantizeLinear", "DequantizeLinear"})
# Kernels that only change a layout, and are named after nothing: what stands before them asked for it, or
# what stands behind.
_AFTER = "ReorderOutput"
_LAYOUT = frozenset({_AFTER, "ReorderInput", "Transpose"})


@dataclass(frozen=True)
class Times:
    """What a model's nodes took, seconds of one inference.

    Args:
        nodes: of the prepared graph -> what their kernels took.
        whole: of the inference, with what is between kernels.
    """

    nodes: Mapping[str, float]
    whole: float = 0.0


def node_times(
    models: Sequence[ir.Model], view: View, source: Samples, threads: int = 1
) -> tuple[Times, ...]:
    """Run models in turn, and see what each node of the graph that they were made of took.

    Args:
        models: that graph itself, or what `rewrite` made of it.
        view: of the prepared graph.
        source: samples, of which a few are run.

    Raises:
        DataError: samples that do not fit.
        RuntimeFailure: a model fails on one, or the runtime's trace can't be read.
    """
    samples = list(source.read(evenly(len(source), _SAMPLES)))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="qtool-trace-")))
        sessions, graphs = [], []
        for number, model in enumerate(models):
            loadable = stack.enter_context(model_for_session(model))
            graph = folder / f"{number}.onnx"
            name = "the profiled model"
            trace = folder / f"trace{number}"
            sessions.append(Session(loadable, threads=threads, name=name, trace=trace, optimized=graph))
            graphs.append(wiring(graph))
        _run(sessions, samples, source.name, len(view.nodes))
        return tuple(
            times_of(read_trace(session.end_trace(), len(samples)), view, graph)
            for session, graph in zip(sessions, graphs, strict=True)
        )


def _run(sessions: Sequence[Session], samples: Sequence[Sample], name: str, nodes: int) -> None:
    """All in turn, so that what slows the machine for a while slows all of them."""
    fed = [[fit(s, m.inputs, m.input_dtypes, name) for s in samples] for m in sessions]
    runs, start = 0, time.perf_counter()
    most = min(_MOST_RUNS, _MOST_EVENTS // max(len(samples) * nodes, 1))
    while runs < _LEAST or (runs < most and time.perf_counter() - start < _SECONDS * len(sessions)):
        for session, inputs in zip(sessions, fed, strict=True):
            with running(session):
                for sample in inputs:
                    session.run(sample)
        runs += 1


def times_of(ran: KernelTimes, view: View, wires: Wiring) -> Times:
    """Put every kernel down to the node whose name, or whose output's name, its own begins with.

    The runtime names what it fuses after the last node, or the last output, of what was fused, and adds
    words of its own behind it (seen in 1.31: '_nchwc', '_token_12', '_quant').
    """
    owners = _owners(view)
    nodes: dict[str, float] = {}
    for (op, name), us in ran.spent.items():
        seconds = us * 1e-6 / ran.inferences
        owner = name if name in view.node_by_name else None
        if owner is None and op in _EDGES:
            continue
        if owner is None and op in _LAYOUT:
            before, after = (_owner(n, owners) for n in wires.get(name, ("", "")))
            owner = (before or after) if op == _AFTER else (after or before)
        owner = owner or _owner(name, owners)
        if owner is not None:
            nodes[owner] = nodes.get(owner, 0.0) + seconds
    return Times(nodes, ran.us * 1e-6 / ran.inferences)


def _owners(view: View) -> dict[str, str]:
    """Names of values and nodes -> the node."""
    found = {v.name: n.name or "" for n in view.nodes for v in n.outputs if v.name}
    return found | {name: name for name in view.node_by_name}


def _owner(kernel: str, owners: Mapping[str, str]) -> str | None:
    """The owner of the longest name that a kernel's begins with; what follows is no part of a word."""
    kernel = kernel.removeprefix("fused ")
    for end in range(len(kernel), 0, -1):
        part = kernel[:end]
        if part in owners and (end == len(kernel) or not kernel[end].isalnum()):
            return owners[part]
    return None


def fused(times: Iterable[Times], view: View) -> list[tuple[str, str]]:
    """Pairs of nodes that ran as one, since no kernel is named after the first.

    A clamp is part of what it clamps; any other node of what alone reads it.
    """
    found: dict[tuple[str, str], None] = {}
    for ran in times:
        for node in view.main_nodes:
            rule = rule_of(node)
            if node.name in ran.nodes or (rule is not None and rule.role is Role.PASS):
                continue
            clamps = rule is not None and rule.role is Role.EPILOGUE
            other = _only_producer(node) if clamps else _only_reader(node)
            if other is not None:
                found[node.name or "", other.name or ""] = None
    return list(found)


def _only_producer(node: ir.Node) -> ir.Node | None:
    source = node.inputs[0]
    return source.producer() if source is not None and sole_consumer(source) is node else None


def _only_reader(node: ir.Node) -> ir.Node | None:
    readers = {id(r): r for v in node.outputs if (r := sole_consumer(v)) is not None or v.uses()}
    return next(iter(readers.values())) if len(readers) == 1 else None
