"""The time of each node of the prepared graph, in float and in its quantized versions, from traces."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir

from qtool.data.fit import fit
from qtool.data.samples import Sample, Samples, evenly
from qtool.graph.for_session import model_for_session
from qtool.graph.view import View, sole_consumer
from qtool.plan.eligible import rule_of
from qtool.runtime.audit import EDGES, LAYOUT, owner_of
from qtool.runtime.session import Session, running
from qtool.runtime.trace import KernelTimes, read_trace
from qtool.tables.ops import Role

# Enough for medians of microseconds; the trace stays below some MB.
_SECONDS = 0.3
_MOST_RUNS = 60
_MOST_EVENTS = 100_000
_SAMPLES = 4
_LEAST = 3
Neighbours = Mapping[str, tuple[str, str]]
"""Node -> the producer of its first input and the first consumer of its first output, '' for none: first the
one with a layout of its own, if the node changes a layout."""


@dataclass(frozen=True)
class Times:
    """The times of a model's nodes, in seconds of one inference.

    Args:
        nodes: node of the prepared graph -> seconds of its kernels.
        inference: of all kernels, and between them.
    """

    nodes: Mapping[str, float]
    inference: float = 0.0


def node_times(
    models: Sequence[ir.Model], view: View, source: Samples, threads: int = 1
) -> tuple[Times, ...]:
    """Run models in turns; return the times of each, by the nodes of the prepared graph.

    Args:
        models: the prepared model, or quantized versions of it.
        view: of the prepared graph.
        source: a few of its samples are run.
        threads: of the runtime.

    Raises:
        DataError: samples that do not fit.
        RuntimeFailure: a model fails on one, or the runtime's trace can't be read.
    """
    samples = list(source.read(evenly(len(source), _SAMPLES)))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="qtool-trace-")))
        sessions, graphs = [], []
        for number, model in enumerate(models):
            loadable = stack.enter_context(model_for_session(model, in_file=True))
            graph = folder / f"{number}.onnx"
            name = "the profiled model"
            trace = folder / f"trace{number}"
            sessions.append(Session(loadable, threads=threads, name=name, trace=trace, optimized=graph))
            graphs.append(read_neighbours(graph))
        _run(sessions, samples, source.name, len(view.nodes))
        return tuple(
            times_of(read_trace(session.end_trace(), len(samples)), view, graph)
            for session, graph in zip(sessions, graphs, strict=True)
        )


def _run(sessions: Sequence[Session], samples: Sequence[Sample], name: str, nodes: int) -> None:
    """Run sessions in turns, so that a slow spell of the machine slows all of them."""
    inputs = [[fit(s, m.inputs, m.input_dtypes, name) for s in samples] for m in sessions]
    runs, start = 0, time.perf_counter()
    most = min(_MOST_RUNS, _MOST_EVENTS // max(len(samples) * nodes, 1))
    while runs < _LEAST or (runs < most and time.perf_counter() - start < _SECONDS * len(sessions)):
        for session, own in zip(sessions, inputs, strict=True):
            with running(session):
                for sample in own:
                    session.run(sample)
        runs += 1


def times_of(trace: KernelTimes, view: View, neighbours: Neighbours) -> Times:
    """Return the times of nodes, by the names of kernels.

    A kernel belongs to the node whose name, or whose output's name, its own begins with.
    """
    owners = view.owners
    nodes: dict[str, float] = {}
    for (op, name), us in trace.spent.items():
        seconds = us * 1e-6 / trace.inferences
        owner = name if name in view.node_by_name else None
        if owner is None and op in EDGES:
            continue
        if owner is None and op in LAYOUT:
            around = (owner_of(n, owners) for n in neighbours.get(name, ()))
            owner = next((n for n in around if n is not None), None)
        owner = owner or owner_of(name, owners)
        if owner is not None:
            nodes[owner] = nodes.get(owner, 0.0) + seconds
    return Times(nodes, trace.us * 1e-6 / trace.inferences)


def read_neighbours(path: Path) -> Neighbours:
    """Return the neighbours of each node in a model that the runtime optimized.

    Args:
        path: a file that a session of ours wrote. It may hold operators that no checker knows.
    """
    graph = onnx.ModelProto.FromString(path.read_bytes()).graph
    producers = {value: node.name for node in graph.node for value in node.output}
    consumers: dict[str, str] = {}
    for node in graph.node:
        for value in node.input:
            consumers.setdefault(value, node.name)
    neighbours = {}
    for node in graph.node:
        around = producers.get(node.input[0] if node.input else "", ""), consumers.get(node.output[0], "")
        neighbours[node.name] = around if _ends_layout(node) else around[::-1]
    return neighbours


def _ends_layout(node: onnx.NodeProto) -> bool:
    """Whether a change of layout belongs to the node before it: int8 kernels have the channels last."""
    order = next((list(a.ints) for a in node.attribute if a.name == "perm"), [])
    return node.op_type == "ReorderOutput" or (len(order) > 3 and order[1] == len(order) - 1)


def fused(times: Iterable[Times], view: View) -> list[tuple[str, str]]:
    """Return pairs of nodes that ran as one kernel: no kernel is named after the first of them.

    A clamp is fused with its producer; any other node with its only consumer.
    """
    pairs: dict[tuple[str, str], None] = {}
    for own in times:
        for node in view.main_nodes:
            rule = rule_of(node)
            if node.name in own.nodes or (rule is not None and rule.role is Role.PASS):
                continue
            clamps = rule is not None and rule.role is Role.EPILOGUE
            other = _only_producer(node) if clamps else _only_reader(node)
            if other is not None:
                pairs[node.name or "", other.name or ""] = None
    return list(pairs)


def _only_producer(node: ir.Node) -> ir.Node | None:
    source = node.inputs[0]
    return source.producer() if source is not None and sole_consumer(source) is node else None


def _only_reader(node: ir.Node) -> ir.Node | None:
    readers = {id(r): r for v in node.outputs if (r := sole_consumer(v)) is not None or v.uses()}
    return next(iter(readers.values())) if len(readers) == 1 else None
