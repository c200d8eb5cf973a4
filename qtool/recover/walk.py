"""Samples on their way through a model, from one value to the next: what lies ahead can still be changed.

Where a layer is to make up for all that went wrong before it, what reaches it has to come from the layers
before it as they are by now. Running a model of n layers from its start for each of them takes n times as
long as this does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from qtool.graph.save import model_for_session
from qtool.runtime.heartbeat import beat
from qtool.runtime.session import Sample, Session, running

_NAME = "a part of the simulated model"


@dataclass
class Walk:
    """Samples in a model, and where they are.

    Args:
        model: of the main graph of which parts are run; its initializers may change ahead of the samples.
        live: for each sample what was made so far and is still to be read, by name.
        threads: of the runtime.
    """

    model: ir.Model
    live: list[dict[str, Any]]
    threads: int = 0
    _done: int = field(default=0, init=False)

    def to(self, stops: Collection[str]) -> Iterator[tuple[str, list[Any]]]:
        """Go on to each of some values in turn, and give it, and it of every sample.

        The arrays may be written to. Values that no node of the main graph makes are passed over.

        Raises:
            RuntimeFailure: the model fails on a sample.
        """
        nodes = list(self.model.graph)
        last = _last_reads(nodes)
        for position, node in enumerate(nodes):
            found = [v.name or "" for v in node.outputs if v.name in stops]
            if not found:
                continue
            self._run(nodes[self._done : position + 1], position, last, found)
            self._done = position + 1
            for name in found:
                for values in self.live:
                    values[name] = np.array(values[name])  # the runtime's own memory can't be written to
                yield name, [values[name] for values in self.live]
                beat()

    def _run(self, nodes: Sequence[ir.Node], end: int, last: Mapping[str, int], wanted: list[str]) -> None:
        """Run some nodes, the last of which is at `end`; keep what is read behind it."""
        made = {v.name: v for node in nodes for v in node.outputs if v.name}
        gives = [v for n, v in made.items() if last.get(n, -1) > end or n in wanted]
        reads = [v for v in _read_by(nodes) if v.name not in made and v.name in self.live[0]]
        for value in reads:
            if value.type is None:  # nodes that rewriting adds need not say it, and inputs have to
                dtype = np.asarray(self.live[0][value.name or ""]).dtype
                value.type = ir.TensorType(ir.DataType.from_numpy(dtype))
        with model_for_session(_part(self.model, reads, gives)) as loadable:
            session = Session(loadable, threads=self.threads, name=_NAME, integers=False)
            del loadable
        names = [v.name or "" for v in gives]
        with running(session):
            for values in self.live:
                sample: Sample = {v.name or "": values[v.name or ""] for v in reads}
                values.update(zip(names, session.run(sample, names), strict=True))
                for name in [n for n in values if last.get(n, -1) <= end and n not in wanted]:
                    del values[name]


def _part(model: ir.Model, reads: Sequence[ir.Value], gives: Sequence[ir.Value]) -> ir.Model:
    graph = ir.convenience.extract(model.graph, reads, gives)
    return ir.Model(graph, ir_version=model.ir_version, functions=list(model.functions.values()))


def _read_by(nodes: Sequence[ir.Node]) -> list[ir.Value]:
    """What nodes, and nodes inside them, read: each once."""
    every = [v for node in nodes for n in (node, *_within(node)) for v in n.inputs if v is not None]
    return list({id(v): v for v in every}.values())


def _within(node: ir.Node) -> Iterator[ir.Node]:
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield from attribute.as_graph().all_nodes()
        elif attribute.type == ir.AttributeType.GRAPHS:
            for graph in attribute.as_graphs():
                yield from graph.all_nodes()


def _last_reads(nodes: Sequence[ir.Node]) -> dict[str, int]:
    """The position of the last node of the main graph that reads a value."""
    return {v.name or "": position for position, node in enumerate(nodes) for v in _read_by([node])}
