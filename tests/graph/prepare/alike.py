"""Helpers for the test of a pass: its note, and the same results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir

from qtool.graph.load import from_proto
from qtool.graph.prepare import Pass
from qtool.graph.save import to_bytes
from qtool.runtime.session import Session
from tests.graphs import samples

Feed = Mapping[str, np.ndarray]


def applied(proto: onnx.ModelProto, *passes: Pass) -> tuple[ir.Model, str]:
    """A model after some passes, and what the last of them said."""
    model, note = from_proto(proto), ""
    for step in passes:
        note = step(model)
    return model, note


def ops(model: ir.Model) -> list[str]:
    """The op types of the main graph in order."""
    return [node.op_type for node in model.graph]


def all_ops(model: ir.Model) -> list[str]:
    """The op types of all graphs."""
    return [node.op_type for node in model.graph.all_nodes()]


def feeds(proto: onnx.ModelProto, count: int = 2) -> Sequence[Feed]:
    """Random float32 samples for the inputs that are no initializers; open axes are 2 long."""
    initializers = {t.name for t in proto.graph.initializer}
    shapes = {
        i.name: [d.dim_value or 2 for d in i.type.tensor_type.shape.dim]
        for i in proto.graph.input
        if i.name not in initializers
    }
    return samples(count, **shapes)


def assert_alike(
    proto: onnx.ModelProto, model: ir.Model, made: Sequence[Feed] | None = None, rtol: float = 2e-5
) -> None:
    """The checker takes the model, and the runtime computes from it what it did from the original.

    With the runtime's own optimizations and without: fused kernels are what users run.
    """
    data = to_bytes(model)
    onnx.checker.check_model(onnx.ModelProto.FromString(data), full_check=True)
    for optimize in (False, True):
        before = Session(proto.SerializeToString(), optimize=optimize)
        after = Session(data, optimize=optimize)
        assert after.outputs == before.outputs
        for feed in feeds(proto) if made is None else made:
            for name, a, b in zip(before.outputs, before.run(feed), after.run(feed), strict=True):
                assert a.dtype == b.dtype, name
                if a.dtype == object:  # strings
                    np.testing.assert_array_equal(b, a, err_msg=name)
                    continue
                scale = float(np.abs(a[np.isfinite(a)]).max(initial=0)) if a.dtype.kind == "f" else 0.0
                np.testing.assert_allclose(b, a, rtol=rtol, atol=rtol * scale, err_msg=name)


def assert_untouched(proto: onnx.ModelProto, *passes: Pass) -> None:
    """The last pass finds nothing to do, says nothing, and changes nothing."""
    model, _ = applied(proto, *passes[:-1])
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    assert passes[-1](model) == ""
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def value_info(name: str, shape: Sequence[int | str] | None, dtype: int = 1) -> onnx.ValueInfoProto:
    """A tensor's name, type and shape."""
    return onnx.helper.make_tensor_value_info(name, dtype, None if shape is None else list(shape))


def subgraph(
    nodes: Sequence[onnx.NodeProto],
    outputs: Mapping[str, Sequence[int | str]],
    constants: Mapping[str, np.ndarray] | None = None,
) -> onnx.GraphProto:
    """A branch of an If."""
    return onnx.helper.make_graph(
        list(nodes),
        "branch",
        [],
        [value_info(k, v) for k, v in outputs.items()],
        [onnx.numpy_helper.from_array(np.asarray(v), k) for k, v in (constants or {}).items()],
    )


def graph_with_if(
    before: Sequence[onnx.NodeProto],
    then_branch: onnx.GraphProto,
    else_branch: onnx.GraphProto,
    inputs: Mapping[str, Sequence[int | str]],
    output: Sequence[int | str],
    constants: Mapping[str, np.ndarray] | None = None,
    *,
    opset: int = 17,
) -> onnx.ModelProto:
    """Nodes, then y = If(pick): the branch taken is an input, so that both can be run."""
    choose = onnx.helper.make_node(
        "If", ["pick"], ["y"], name="choose", then_branch=then_branch, else_branch=else_branch
    )
    graph = onnx.helper.make_graph(
        [*before, choose],
        "with_if",
        [value_info("pick", [], onnx.TensorProto.BOOL), *(value_info(k, v) for k, v in inputs.items())],
        [value_info("y", output)],
        [onnx.numpy_helper.from_array(np.asarray(v), k) for k, v in (constants or {}).items()],
    )
    made = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(made)
    return made


def both_branches(made: Sequence[Feed]) -> list[Feed]:
    """Each feed with the one branch and with the other."""
    return [{**feed, "pick": np.array(pick)} for feed in made for pick in (True, False)]


def foreign(proto: onnx.ModelProto, op_type: str) -> onnx.ModelProto:
    """The model with one op type moved to an unknown domain."""
    changed = onnx.ModelProto.FromString(proto.SerializeToString())
    changed.opset_import.append(onnx.helper.make_opsetid("some.vendor", 1))
    for node in changed.graph.node:
        if node.op_type == op_type:
            node.domain = "some.vendor"
    return changed
