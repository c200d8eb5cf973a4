"""The nodes that lowering leaves in QDQ form, and the clamps, names and constants of those that it replaces."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from onnx import helper, numpy_helper

from tests.graphs import rng, weights
from tests.rewrite.flow import run
from tests.rewrite.qoperator.forms import (
    ALL,
    CONV,
    GEMM,
    MATMUL,
    STEPS,
    Graph,
    Op,
    Types,
    add_weight,
    build,
    fuse,
    i64,
)


def small(op: Op, *, act: str = "u8", contrib: bool = True) -> Counter[str]:
    """The op types of one op, lowered."""
    qdq, _, _ = build(op, Types(act))
    return Counter(n.op_type for n in fuse(qdq, contrib).graph.node)


def test_a_relu_needs_no_node_where_zero_is_the_lowest_integer() -> None:
    assert small(replace(CONV, clamp=("Relu",))) == {
        "QuantizeLinear": 1,
        "QLinearConv": 1,
        "DequantizeLinear": 1,
    }
    assert small(replace(CONV, clamp=("Relu",)), act="s8")["Clip"] == 1


def test_a_clip_needs_no_node_where_the_scale_ends_within_it() -> None:
    assert small(replace(CONV, clamp=("Clip",), limits=(0.0, 6.0)))["Clip"] == 0
    assert small(replace(CONV, clamp=("Clip",), limits=(-0.3, 0.7)))["Clip"] == 0


def test_clips_of_integers_have_the_bounds_that_are_needed() -> None:
    graph, sample = Graph(17), {"x": rng().standard_normal((4, 4)).astype(np.float32)}
    graph.constant("lo", np.float32(-0.55))
    graph.constant("hi", np.float32(0.55))
    read = graph.q_dq("x", np.float32(0.1), np.uint8(100))
    graph.add("Clip", [read, "lo", "hi"], ["both"])
    graph.add("Clip", [read, "", "hi"], ["above"])
    graph.add("Relu", [read], ["below"])
    outs = [graph.q_dq(name, np.float32(0.1), np.uint8(100)) for name in ("both", "above", "below")]
    made = fuse(graph.model(sample, outs), contrib=False)
    constants = {t.name: numpy_helper.to_array(t) for t in made.graph.initializer}
    clips = [
        [constants[i].item() if i else None for i in n.input[1:]]
        for n in made.graph.node
        if n.op_type == "Clip"
    ]
    assert clips == [[94, 106], [None, 106], [100]]  # -5.5 and 5.5 steps round to even


@pytest.mark.parametrize("contrib", [True, False])
@pytest.mark.parametrize("name", ["conv", "matmul", "gemm", "add", "max-pool", "pad"])
def test_16_bits_stay_as_they_are(name: str, contrib: bool) -> None:
    qdq, _, _ = build(replace(ALL[name], opset=21), Types("u16"))
    assert fuse(qdq, contrib).graph.node == qdq.graph.node


def test_a_value_that_floats_read_too_keeps_one_dq() -> None:
    graph, sample = Graph(17), {"x": rng().standard_normal((2, 8)).astype(np.float32)}
    read = graph.q_dq("x", np.float32(0.02), np.uint8(128))
    graph.add("Reshape", [read, graph.constant("shape", i64(4, 4))], ["r"])
    requantized = graph.q_dq("r", np.float32(0.02), np.uint8(128))
    graph.add("Tanh", [requantized], ["t"])
    graph.add("Sinh", [requantized], ["s"])
    made = fuse(graph.model(sample, ["t", "s"]), contrib=True)
    assert [n.op_type for n in made.graph.node] == [
        "QuantizeLinear",
        "Reshape",
        "DequantizeLinear",
        "Tanh",
        "Sinh",
    ]
    assert made.graph.node[1].output[0] == "r_quantized"


def test_a_product_that_floats_read_too_is_not_rounded() -> None:
    """MatMul -> Q for one reader, floats for the other: floats come out of the integer operator."""
    graph, sample = Graph(17), {"x": rng().standard_normal((2, 8)).astype(np.float32)}
    inputs = [graph.q_dq("x", np.float32(0.02), np.uint8(128))]
    add_weight(graph, replace(MATMUL, weight=(8, 4)), Types(), np.float32(0.02), inputs)
    graph.add("MatMul", inputs, ["m"])
    graph.add("Tanh", ["m"], ["t"])
    out = graph.q_dq("m", np.float32(0.03), np.uint8(128))
    made = fuse(graph.model(sample, ["t", out]), contrib=True)
    assert [n.op_type for n in made.graph.node] == [
        "QuantizeLinear",
        "MatMulIntegerToFloat",
        "Tanh",
        "QuantizeLinear",
        "DequantizeLinear",
    ]
    assert made.graph.node[1].name == "MatMul_m_quantized" and made.graph.node[1].output[0] == "m"


def test_a_q_behind_a_dq_cancels_only_at_the_same_scale() -> None:
    for scale, left in (
        (0.02, ["QuantizeLinear", "DequantizeLinear"]),
        (0.03, ["QuantizeLinear", "DequantizeLinear"] * 2),
    ):
        graph, sample = Graph(17), {"x": rng().standard_normal((2, 8)).astype(np.float32)}
        requantized = graph.q_dq("x", np.float32(0.02), np.uint8(128))
        out = graph.q_dq(requantized, np.float32(scale), np.uint8(128))
        made = fuse(graph.model(sample, [out]), contrib=True)
        assert [n.op_type for n in made.graph.node] == left
        assert made.graph.output[0].name == out


def test_nothing_is_lowered_across_a_fusion_barrier() -> None:
    """Max(x, -3e38) keeps the runtime from quantizing what is before it; so it does here."""
    graph, sample = Graph(17), {"x": rng().standard_normal((2, 8)).astype(np.float32)}
    read = graph.q_dq("x", np.float32(0.02), np.uint8(128))
    graph.add("Sigmoid", [read], ["s"])
    graph.add("Max", ["s", graph.constant("floor", np.float32(-3e38))], ["g"])
    proto = graph.model(sample, [graph.q_dq("g", np.float32(1 / 255), np.uint8(0))])
    assert fuse(proto, contrib=True).graph.node == proto.graph.node


def test_integers_at_the_border_keep_their_names_and_types() -> None:
    """A model that takes and gives integers: DQ first, Q last."""
    graph, sample = Graph(17), {"x": np.arange(16, dtype=np.uint8).reshape(2, 8)}
    params = [graph.constant("s", np.float32(0.02)), graph.constant("z", np.uint8(128))]
    inputs = [graph.add("DequantizeLinear", ["x", *params], ["xf"])]
    add_weight(graph, replace(MATMUL, weight=(8, 4)), Types(), np.float32(0.02), inputs)
    graph.add("MatMul", inputs, ["m"])
    graph.add("QuantizeLinear", ["m", graph.constant("ys", np.float32(0.03)), "z"], ["y"])
    graph.add("QuantizeLinear", ["xf", *params], ["same"])
    proto = graph.model(sample, ["y", "same"])
    made = fuse(proto, contrib=False)
    assert made.graph.input == proto.graph.input and made.graph.output == proto.graph.output
    assert Counter(n.op_type for n in made.graph.node) == {
        "QLinearMatMul": 1,
        "DequantizeLinear": 1,
        "QuantizeLinear": 1,
    }
    before, after = (run(p, [sample], optimize=False)[0] for p in (proto, made))
    assert np.abs(before["y"].astype(int) - after["y"]).max() <= STEPS
    assert (before["same"] == after["same"]).all()


@pytest.mark.parametrize("wrong", ["scale", "float", "zero"])
def test_a_bias_at_another_scale_is_not_added_to_the_sum(wrong: str) -> None:
    qdq, _, _ = build(CONV, Types())
    for tensor in qdq.graph.initializer:
        if tensor.name == "b_scale" and wrong == "scale":
            tensor.CopyFrom(
                numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.1), "b_scale")
            )
    dq = next(n for n in qdq.graph.node if n.output[0] == "b_dequantized")
    if wrong == "zero":
        dq.input.append("b_zero")
        dq.ClearField("attribute")
        dq.attribute.append(helper.make_attribute("axis", 0))
        qdq.graph.initializer.append(numpy_helper.from_array(np.ones(6, np.int32), "b_zero"))
    if wrong == "float":
        qdq.graph.node.remove(dq)
        qdq.graph.initializer.append(numpy_helper.from_array(weights(6), "b_dequantized"))
        del qdq.graph.initializer[[t.name for t in qdq.graph.initializer].index("b_quantized")]
        del qdq.graph.initializer[[t.name for t in qdq.graph.initializer].index("b_scale")]
    assert fuse(qdq, contrib=True).graph.node == qdq.graph.node


def test_a_transposed_weight_is_in_the_file_once() -> None:
    graph, sample = Graph(17), {"x": rng().standard_normal((2, 8)).astype(np.float32)}
    inputs = [graph.q_dq("x", np.float32(0.02), np.uint8(128))]
    add_weight(graph, replace(MATMUL, weight=(4, 8), channels=0), Types(), np.float32(0.02), inputs)
    for name in ("first", "second"):
        graph.add("Gemm", inputs, [name], transB=1)
    made = fuse(graph.model(sample, ["first", "second"]), contrib=False)
    assert [(t.name, tuple(t.dims)) for t in made.graph.initializer if len(t.dims) == 2] == [
        ("w_quantized_transposed", (8, 4))
    ]


def test_convolutions_need_equal_zero_points() -> None:
    """The kernel has one zero point for all channels."""
    qdq, _, _ = build(CONV, Types("u8", "u8"))
    for tensor in qdq.graph.initializer:
        if tensor.name == "w_zero_point":
            tensor.CopyFrom(numpy_helper.from_array(np.arange(120, 126, dtype=np.uint8), "w_zero_point"))
    assert fuse(qdq, contrib=True).graph.node == qdq.graph.node


def test_gemms_that_are_not_plain_stay_as_they_are() -> None:
    for attributes in ({"alpha": 0.5}, {"beta": 2.0}, {"transA": 1}):
        op = replace(GEMM, shapes=((16, 16),), attributes=attributes)
        qdq, _, _ = build(op, Types())
        for contrib in (True, False):
            assert fuse(qdq, contrib).graph.node == qdq.graph.node


def stays(graph: Graph, sample: dict[str, np.ndarray], out: str) -> None:
    """A graph that has no integer form in either way."""
    proto = graph.model(sample, [out])
    for contrib in (True, False):
        assert fuse(proto, contrib).graph.node == proto.graph.node


@pytest.mark.parametrize(("scale", "zero"), [(0.03, 128), (0.02, 127)])
@pytest.mark.parametrize("op", ["Flatten", "MaxPool", "Relu"])
def test_values_are_not_moved_from_one_scale_to_another(op: str, scale: float, zero: int) -> None:
    graph, sample = Graph(19), {"x": rng().standard_normal((1, 2, 8)).astype(np.float32)}
    read = graph.q_dq("x", np.float32(0.02), np.uint8(128))
    graph.add(op, [read], ["r"], **({"kernel_shape": [2]} if op == "MaxPool" else {}))
    stays(graph, sample, graph.q_dq("r", np.float32(scale), np.uint8(zero)))


def test_no_operator_goes_from_one_type_to_another() -> None:
    """Only a product can stop half way, in floats."""
    for op in ("Sigmoid", "Flatten", "Conv", "MatMul"):
        graph, sample = Graph(19), {"x": rng().standard_normal((1, 8, 4, 4)).astype(np.float32)}
        inputs = [graph.q_dq("x", np.float32(0.02), np.uint8(128))]
        if op in ("Conv", "MatMul"):
            form = replace(MATMUL, weight=(4, 4)) if op == "MatMul" else replace(CONV, bias=False)
            add_weight(graph, form, Types(), np.float32(0.02), inputs)
        graph.add(op, inputs, ["r"])
        out = graph.q_dq("r", np.float32(0.02), np.int8(0))
        if op != "MatMul":
            stays(graph, sample, out)
        else:
            ran = [n.op_type for n in fuse(graph.model(sample, [out]), contrib=True).graph.node]
            assert ran == ["QuantizeLinear", "MatMulIntegerToFloat", "QuantizeLinear", "DequantizeLinear"]


def test_scales_along_the_rows_of_a_weight_have_no_integer_form() -> None:
    for op, weight, axis in (("MatMul", (8, 8), 0), ("Gemm", (8, 8), 0), ("Conv", (8, 8, 1, 1), 1)):
        shape = (1, 8, 4, 4) if op == "Conv" else (2, 8)
        graph, sample = Graph(19), {"x": rng().standard_normal(shape).astype(np.float32)}
        inputs = [graph.q_dq("x", np.float32(0.02), np.uint8(128))]
        add_weight(graph, replace(MATMUL, weight=weight, channels=axis), Types(), np.float32(0.02), inputs)
        graph.add(op, inputs, ["r"])
        stays(graph, sample, graph.q_dq("r", np.float32(0.02), np.uint8(128)))


def test_a_value_that_two_read_is_quantized_for_one_of_them_only() -> None:
    graph, sample = Graph(19), {"x": rng().standard_normal((1, 8, 4, 4)).astype(np.float32)}
    inputs = [graph.q_dq("x", np.float32(0.02), np.uint8(128))]
    add_weight(graph, replace(CONV, bias=False), Types(), np.float32(0.02), inputs)
    graph.add("Conv", inputs, ["c"])
    graph.add("Relu", ["c"], ["r"])
    graph.add("Add", [graph.q_dq("r", np.float32(0.02), np.uint8(0)), "c"], ["a"])
    stays(graph, sample, "a")


def test_dilations_of_one_are_ignored() -> None:
    """onnxruntime 1.31 can't load this one in its QDQ form: its own fusion trips over the attribute."""
    op = Op("AveragePool", attributes={"kernel_shape": [2, 2], "dilations": [1, 1]}, opset=19)
    qdq, sample, steps = build(op, Types())
    made = fuse(qdq, contrib=True)
    assert [n.op_type for n in made.graph.node] == [
        "QuantizeLinear",
        "QLinearAveragePool",
        "DequantizeLinear",
    ]
    before, after = run(qdq, [sample], optimize=False)[0], run(made, [sample])[0]
    ((name, step),) = steps.items()
    assert np.abs(before[name] - after[name]).max() <= step * 1.001
    dilated = replace(op, attributes={"kernel_shape": [2, 2], "dilations": [2, 2]})
    assert small(dilated)["AveragePool"] == 1
