"""The float16 mode without timing, and the laws that hold for whatever it writes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto

from qtool.plan.model import Plan
from qtool.plan.notes import plan_notes
from qtool.plan.prepared import PreparedModel
from qtool.rewrite.write import rewrite
from tests.plan.flow import Sample, candidate, reasons
from tests.rewrite.flow import Outputs, run, sqnr

FLOAT, FLOAT16 = TensorProto.FLOAT, TensorProto.FLOAT16


@dataclass(frozen=True)
class Converted:
    """A model in float16, and the plan that made it."""

    original: onnx.ModelProto
    model: PreparedModel
    plan: Plan
    data: bytes

    @property
    def proto(self) -> onnx.ModelProto:
        return onnx.load_from_string(self.data)

    @property
    def fp16_nodes(self) -> set[str]:
        """The nodes that compute in float16, by name."""
        return set(self.plan.fp16.nodes)

    @property
    def reasons(self) -> dict[str, str]:
        """The reasons of the nodes in float."""
        return reasons(self.plan)

    @property
    def notes(self) -> list[str]:
        return list(plan_notes(self.plan, self.model.view, self.model.scheme))

    @property
    def ops(self) -> Counter[str]:
        return Counter(n.op_type for n in nodes(self.proto.graph))


def converted(proto: onnx.ModelProto, samples: Sequence[Sample] = (), **options: Any) -> Converted:
    """Plan and write, in fp16 mode unless told; without samples nothing is known of activations."""
    made = candidate(proto, samples, **{"mode": "fp16", **options})
    return Converted(proto, made.model, made.plan, with_types(rewrite(made.model.model, made.plan)))


def with_types(model: ir.Model) -> bytes:
    """Return the bytes with the types of inner values, which onnx does not infer behind com.microsoft's ops."""
    data: bytes = ir.to_proto(model).SerializeToString()
    return data


def check(made: Converted) -> None:
    """Check the laws of every written model.

    The checker finds unsorted graphs, and strict inference any type that is not what it is said to be.
    """
    proto = made.proto
    onnx.checker.check_model(proto, full_check=all(not n.domain for n in nodes(proto.graph)))
    onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True)
    if made.fp16_nodes or made.plan.choices.io == "float16":  # a model that is left alone keeps its own
        check_casts(proto)
    if made.plan.choices.io == "float":
        for old, new in zip(_ports(made.original), _ports(proto), strict=True):
            assert old.name == new.name
            assert old.type.tensor_type.elem_type == new.type.tensor_type.elem_type, new.name


def check_casts(proto: onnx.ModelProto) -> None:
    """No Cast stands twice, to the type that is there, on a way back, or without consumers."""
    types = element_types(proto)
    producers = {n.output[0]: n for n in nodes(proto.graph)}
    for graph in graphs(proto.graph):
        casts = [
            n
            for n in graph.node
            if n.op_type == "Cast" and {types[n.input[0]], _target(n)} <= {FLOAT, FLOAT16}
        ]
        twice = Counter((n.input[0], _target(n)) for n in casts)
        assert not [key for key, count in twice.items() if count > 1], twice
        read = {name for g in graphs(graph) for n in g.node for name in n.input} | {
            v.name for g in graphs(graph) for v in g.output
        }
        for cast in casts:
            assert types[cast.input[0]] != _target(cast), f"{cast.name} changes nothing"
            assert cast.output[0] in read, f"{cast.name} has no consumer"
            before = producers.get(cast.input[0])
            back = before is not None and before.op_type == "Cast" and types[before.input[0]] == FLOAT16
            assert not (back and _target(cast) == FLOAT16), f"{cast.name} goes back"


def close(made: Converted, samples: Sequence[Sample], least: float = 40.0) -> float:
    """SQNR in dB of the worst output, which must be what onnxruntime computes both with and without fusing."""
    before = run(made.original, samples)
    fed = [_as_fed(made, s) for s in samples]
    ratios = [_sqnr(before, run(made.data, fed, optimize)) for optimize in (True, False)]
    assert min(ratios) >= least, ratios
    return min(ratios)


def element_types(proto: onnx.ModelProto) -> dict[str, int]:
    """Value -> element type, nested graphs included."""
    inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True)
    types: dict[str, int] = {}
    for graph in graphs(inferred.graph):
        types |= {
            v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.output, *graph.value_info)
        }
        types |= {t.name: t.data_type for t in graph.initializer}
    return types


def stored_types(proto: onnx.ModelProto) -> dict[str, int]:
    """Initializer -> element type."""
    return {t.name: t.data_type for g in graphs(proto.graph) for t in g.initializer}


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from graphs(attribute.g)


def nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for g in graphs(graph):
        yield from g.node


def _ports(proto: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    return [*proto.graph.input, *proto.graph.output]


def _target(cast: onnx.NodeProto) -> int:
    return next(a.i for a in cast.attribute if a.name == "to")


def _as_fed(made: Converted, sample: Sample) -> dict[str, np.ndarray]:
    inputs = {v.name for v in made.proto.graph.input if v.type.tensor_type.elem_type == FLOAT16}
    return {k: v.astype(np.float16) if k in inputs else v for k, v in sample.items()}


def _sqnr(before: Sequence[Outputs], after: Sequence[Outputs]) -> float:
    """Outputs that are 0 throughout must be so again: no SQNR says how near they are."""
    for name in before[0]:
        if not any(np.any(o[name]) for o in before):
            assert not any(np.any(o[name]) for o in after), name
            return _sqnr([_without(o, name) for o in before], [_without(o, name) for o in after])
    return sqnr(before, after) if before[0] else np.inf


def _without(outputs: Outputs, name: str) -> Outputs:
    return {k: v for k, v in outputs.items() if k != name}
