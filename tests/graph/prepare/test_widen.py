"""A float16 or float64 model computes in float32; its inputs and outputs, and unknown ops, keep their types."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qtool.graph.prepare.noops import drop_noops
from qtool.graph.prepare.shapes import infer_shapes
from qtool.graph.prepare.widen import widen_floats
from tests.graph.prepare.alike import applied, assert_alike, assert_untouched, ops, subgraph
from tests.graphs import node, samples, weights

PASSES = (infer_shapes, widen_floats)
TYPES = pytest.mark.parametrize("dtype", ["float16", "float64"])


def of_type(
    dtype: str,
    nodes: list[onnx.NodeProto],
    constants: dict[str, np.ndarray],
    outputs: tuple[str, ...] = ("y",),
) -> onnx.ModelProto:
    """x [2, 4] -> nodes -> outputs of two axes; all floats are of one type."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    held = {k: v.astype(dtype) if v.dtype.kind == "f" else v for k, v in constants.items()}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, [2, 4])],
        [helper.make_tensor_value_info(name, kind, ["a", "b"]) for name in outputs],
        [numpy_helper.from_array(v, k) for k, v in held.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def fed(dtype: str) -> list[dict[str, np.ndarray]]:
    return [{k: v.astype(dtype) for k, v in s.items()} for s in samples(2, x=(2, 4))]


NODES: dict[str, tuple[list[onnx.NodeProto], tuple[str, ...]]] = {
    "product": ([node("MatMul", ["x", "w"], ["y"])], ("y",)),
    "an-output-that-is-read": (
        [node("MatMul", ["x", "w"], ["h"]), node("Relu", ["h"], ["y"])],
        ("y", "h"),
    ),
    "tensors-in-attributes": (
        [
            node("MatMul", ["x", "w"], ["h"]),
            node("Shape", ["h"], ["s"]),
            node("ConstantOfShape", ["s"], ["c"], value=numpy_helper.from_array(np.ones(1, np.float16), "v")),
            node("CastLike", ["c", "x"], ["d"]),
            node("Add", ["h", "d"], ["y"]),
        ],
        ("y",),
    ),
    "a-branch": (
        [
            node("MatMul", ["x", "w"], ["h"]),
            node(
                "If",
                ["yes"],
                ["y"],
                then_branch=subgraph([node("Relu", ["h"], ["t"])], {}),
                else_branch=subgraph([node("Neg", ["h"], ["e"])], {}),
            ),
        ],
        ("y",),
    ),
    "a-constant-that-is-an-output": ([node("MatMul", ["x", "w"], ["y"])], ("y", "w")),
}


def nodes_of(name: str, dtype: str) -> onnx.ModelProto:
    nodes, outputs = NODES[name]
    copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    for attribute in (a for n in copies for a in n.attribute):
        if attribute.HasField("g"):
            result = attribute.g.node[0].output[0]
            attribute.g.output.append(helper.make_tensor_value_info(result, kind, ["a", "b"]))
        if attribute.HasField("t"):
            attribute.t.CopyFrom(numpy_helper.from_array(np.ones(1, dtype), "v"))
    constants = {"w": weights(4, 4), "yes": np.array(False)}
    read = {i for n in copies for i in n.input}
    return of_type(dtype, copies, {k: v for k, v in constants.items() if k in read}, outputs)


@TYPES
@pytest.mark.parametrize("name", NODES)
def test_it_computes_in_float32_and_keeps_the_types_of_its_ports(name: str, dtype: str) -> None:
    proto = nodes_of(name, dtype)
    made, note = applied(proto, *PASSES)
    assert dtype in note
    products = [n for n in made.graph if n.op_type == "MatMul"]
    assert all(
        v is not None and v.dtype == TensorProto.FLOAT for n in products for v in (*n.inputs, *n.outputs)
    )
    assert_alike(proto, made, fed(dtype), rtol=4e-3 if dtype == "float16" else 2e-6)


def test_casts_of_a_mixed_model_become_no_ops() -> None:
    proto = of_type(
        "float16",
        [
            node("MatMul", ["x", "w"], ["a"]),
            node("Cast", ["a"], ["b"], to=TensorProto.FLOAT),
            node("Softmax", ["b"], ["c"]),
            node("Cast", ["c"], ["d"], to=TensorProto.FLOAT16),
            node("MatMul", ["d", "w"], ["y"]),
        ],
        {"w": weights(4, 4)},
    )
    made, _ = applied(proto, *PASSES, drop_noops)
    assert ops(made) == ["Cast", "MatMul", "Softmax", "MatMul", "Cast"]
    assert_alike(proto, made, fed("float16"), rtol=4e-3)


def test_unknown_ops_keep_their_input_types() -> None:
    proto = of_type(
        "float16",
        [
            node("MatMul", ["x", "w"], ["a"]),
            node("QuickGelu", ["a"], ["b"], domain="some.vendor"),
            node("MatMul", ["b", "w"], ["y"]),
        ],
        {"w": weights(4, 4)},
    )
    proto.opset_import.append(helper.make_opsetid("some.vendor", 1))
    assert "'b' is not known" in applied(proto, *PASSES)[1]
    proto.graph.value_info.append(helper.make_tensor_value_info("b", TensorProto.FLOAT16, [2, 4]))
    made, _ = applied(proto, *PASSES)
    assert ops(made) == ["Cast", "MatMul", "Cast", "QuickGelu", "Cast", "MatMul", "Cast"]
    vendor = made.graph[3]
    assert {v.dtype for v in (*vendor.inputs, *vendor.outputs) if v is not None} == {TensorProto.FLOAT16}


def test_weights_beyond_float32_stay_float64() -> None:
    proto = of_type("float64", [node("MatMul", ["x", "w"], ["y"])], {"w": np.full((4, 4), 1e300)})
    assert "beyond the range of float32" in applied(proto, *PASSES)[1]


@TYPES
def test_a_model_without_weights_of_the_type_stays(dtype: str) -> None:
    assert_untouched(of_type(dtype, [node("Relu", ["x"], ["y"])], {}), *PASSES)
