"""Values inside a model on samples: all at once, or part by part with changes to the parts ahead."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from qtool.calibration.runner import groups_of, value_reader
from qtool.data.samples import Samples, evenly
from qtool.graph.for_session import model_for_session
from qtool.runtime.heartbeat import beat
from qtool.runtime.session import Sample, Session, running

_NAME = "a part of the simulated model"
# Bytes of the values that are observed together.
_VALUES = 64 << 20


def observe(
    model: ir.Model, values: Sequence[str], samples: Samples, count: int, threads: int = 0
) -> Iterator[tuple[str, Any]]:
    """Yield the values of the main graph, each on all samples: (value, array), valid until the next one.

    Args:
        model: prepared.
        values: names.
        samples: at most `count` of them are run, evenly chosen.
        threads: of the runtime.

    Raises:
        DataError: a sample does not fit the model.
        RuntimeFailure: the model fails on a sample.
    """
    for group in groups_of(model, list(values), samples, _VALUES, threads) if values else ():
        with value_reader(model, group, threads, "the model with inner values as outputs") as look:
            for sample in samples.read(evenly(len(samples), count)):
                yield from zip(group, look(sample, samples.name), strict=True)


@dataclass
class Walk:
    """Samples at a point inside a model, which go on from value to value.

    A step that corrects layer after layer needs the inputs that the corrected layers before it produce.
    Running the model from its start for each of n layers would take n times as long.

    Args:
        model: its main graph is run in parts; initializers may change ahead of the samples.
        live: for each sample the values so far that later nodes read, by name.
        threads: of the runtime.
    """

    model: ir.Model
    live: list[dict[str, Any]]
    threads: int = 0
    _done: int = field(default=0, init=False)

    def to(self, stops: Collection[str]) -> Iterator[tuple[str, list[Any]]]:
        """Run up to each of some values in turn; yield its name and its array for every sample.

        The arrays may be written to. Values that no node of the main graph produces are skipped.

        Raises:
            RuntimeFailure: the model fails on a sample.
        """
        nodes = list(self.model.graph)
        last = _last_reads(nodes)
        for position, node in enumerate(nodes):
            names = [v.name or "" for v in node.outputs if v.name in stops]
            if not names:
                continue
            self._run(nodes[self._done : position + 1], position, last, names)
            self._done = position + 1
            for name in names:
                for values in self.live:
                    values[name] = np.array(values[name])  # the runtime's own memory can't be written to
                yield name, [values[name] for values in self.live]
                beat()

    def _run(self, nodes: Sequence[ir.Node], end: int, last: Mapping[str, int], wanted: list[str]) -> None:
        """Run nodes up to position `end`; keep the values that later nodes read."""
        produced = {v.name: v for node in nodes for v in node.outputs if v.name}
        outputs = [v for n, v in produced.items() if last.get(n, -1) > end or n in wanted]
        inputs = [v for v in _inputs_of(nodes) if v.name not in produced and v.name in self.live[0]]
        for value in inputs:
            if value.type is None:  # nodes that rewriting adds may lack it, graph inputs must not
                dtype = np.asarray(self.live[0][value.name or ""]).dtype
                value.type = ir.TensorType(ir.DataType.from_numpy(dtype))
        with model_for_session(_part(self.model, inputs, outputs)) as loadable:
            session = Session(loadable, threads=self.threads, name=_NAME, integers=False)
            del loadable
        names = [v.name or "" for v in outputs]
        with running(session):
            for values in self.live:
                sample: Sample = {v.name or "": values[v.name or ""] for v in inputs}
                values.update(zip(names, session.run(sample, names), strict=True))
                for name in [n for n in values if last.get(n, -1) <= end and n not in wanted]:
                    del values[name]


def _part(model: ir.Model, inputs: Sequence[ir.Value], outputs: Sequence[ir.Value]) -> ir.Model:
    graph = ir.convenience.extract(model.graph, inputs, outputs)
    return ir.Model(graph, ir_version=model.ir_version, functions=list(model.functions.values()))


def _inputs_of(nodes: Sequence[ir.Node]) -> list[ir.Value]:
    """The inputs of nodes, and of nodes inside them, each once."""
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
    return {v.name or "": position for position, node in enumerate(nodes) for v in _inputs_of([node])}
