"""Values inside models from runs of the whole model: a slow, plain oracle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from qtool.data.iterables import InMemory
from qtool.graph.save import to_bytes
from tests.plan.flow import Sample
from tests.rewrite.flow import Outputs, run


def memory(samples: Sequence[Mapping[str, Any]]) -> InMemory:
    return InMemory(list(samples))


def proto_of(model: ir.Model) -> onnx.ModelProto:
    return onnx.load_from_string(to_bytes(model))


def values_of(
    model: ir.Model | onnx.ModelProto, names: Sequence[str], samples: Sequence[Sample], optimize: bool = False
) -> list[Outputs]:
    """Values of the main graph, of every sample."""
    proto = onnx.ModelProto()
    proto.CopyFrom(proto_of(model) if isinstance(model, ir.Model) else model)
    inputs = {v.name for v in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names if n not in inputs)
    return [{n: np.asarray(o[n]) for n in names} for o in run(proto, samples, optimize)]


def made(model: ir.Model) -> list[str]:
    """All that the nodes of the main graph make, in order."""
    return [v.name for node in model.graph for v in node.outputs if v.name]
