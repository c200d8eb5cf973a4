"""The work of nodes, counted by nested loops, and their rows in the cost table."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtool.plan.work import is_fused, row_of, work_of
from qtool.tables.forms import Form
from tests.graphs import model, node, weights
from tests.tiers import examples

few = st.integers(1, 3)


def graph_and_shapes(proto: onnx.ModelProto) -> tuple[ir.Graph, dict[str, tuple[int, ...]]]:
    """The graph, and the shapes that onnx infers."""
    graph = ir.from_proto(onnx.shape_inference.infer_shapes(proto, data_prop=True)).graph
    values = (*graph.inputs, *(v for n in graph for v in n.outputs))
    return graph, {v.name or "": tuple(v.shape.numpy()) for v in values if v.shape is not None}


def work(proto: onnx.ModelProto, op: str) -> int | None:
    graph, shapes = graph_and_shapes(proto)
    return work_of(next(n for n in graph if n.op_type == op), shapes)


def steps(*ranges: Any) -> int:
    """Count the runs of the innermost of nested loops."""
    return sum(1 for _ in product(*(range(n) for n in ranges)))


@settings(max_examples=examples(25), deadline=None)
@given(st.data(), st.integers(1, 2), few, few, few)
def test_a_convolution_multiplies_for_every_output_tap_and_channel_of_its_group(
    data: st.DataObject, axes: int, group: int, inputs: int, outputs: int
) -> None:
    kernel = [data.draw(few) for _ in range(axes)]
    side = [data.draw(st.integers(5, 8)) for _ in range(axes)]
    attributes = {
        "strides": [data.draw(few) for _ in range(axes)],
        "dilations": [data.draw(st.integers(1, 2)) for _ in range(axes)],
        "pads": [data.draw(st.integers(0, 2)) for _ in range(2 * axes)],
        "group": group,
    }
    w = weights(group * outputs, inputs, *kernel)
    proto = model(
        [node("Conv", ["x", "w"], ["y"], **attributes)], {"x": (2, group * inputs, *side)}, ["y"], {"w": w}
    )
    shape = graph_and_shapes(proto)[1]["y"]
    assert work(proto, "Conv") == steps(*shape, inputs, *kernel)


@pytest.mark.parametrize("group", [1, 2])
def test_a_transposed_convolution_spreads_every_input(group: int) -> None:
    proto = model(
        [node("ConvTranspose", ["x", "w"], ["y"], group=group, strides=[2, 2])],
        {"x": (1, 4, 3, 5)},
        ["y"],
        {"w": weights(4, 6 // group, 3, 2)},
    )
    assert work(proto, "ConvTranspose") == steps(4, 3, 5, 6 // group, 3, 2)


@pytest.mark.parametrize(("turned_a", "turned_b"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_a_gemm_sums_over_the_shared_axis(turned_a: int, turned_b: int) -> None:
    w = weights(5, 7).T if turned_b else weights(5, 7)
    proto = model(
        [node("Gemm", ["x", "w"], ["y"], transA=turned_a, transB=turned_b)],
        {"x": (5, 3) if turned_a else (3, 5)},
        ["y"],
        {"w": np.ascontiguousarray(w)},
    )
    assert work(proto, "Gemm") == steps(3, 7, 5)


def test_a_stack_of_products_counts_all_of_them() -> None:
    proto = model([node("MatMul", ["x", "z"], ["y"])], {"x": (2, 3, 4, 5), "z": (3, 5, 6)}, ["y"])
    assert work(proto, "MatMul") == steps(2, 3, 4, 6, 5)


def test_an_lstm_multiplies_input_and_state_at_every_step() -> None:
    nodes = [node("LSTM", ["x", "w", "r"], ["y"], hidden_size=3, direction="bidirectional")]
    proto = model(nodes, {"x": (7, 2, 5)}, ["y"], {"w": weights(2, 12, 5), "r": weights(2, 12, 3)})
    assert work(proto, "LSTM") == steps(7, 2, 2, 12, 5 + 3)


MOVED = {
    "Add": ([node("Add", ["x", "x"], ["y"])], 2 * 4 * 6 * 6),
    "MaxPool": ([node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], strides=[2, 2])], 2 * 4 * 3 * 3 * 4),
    "GlobalAveragePool": ([node("GlobalAveragePool", ["x"], ["y"])], 2 * 4 * 6 * 6),
    "Concat": ([node("Concat", ["x", "x"], ["y"], axis=1)], 2 * 8 * 6 * 6),
    "Split": ([node("Split", ["x"], ["y", "z"], axis=1)], 2 * 4 * 6 * 6),
}


@pytest.mark.parametrize("op", MOVED)
def test_nodes_that_do_not_multiply_count_elements(op: str) -> None:
    nodes, expected = MOVED[op]
    outputs = list(nodes[-1].output)
    assert work(model(nodes, {"x": (2, 4, 6, 6)}, outputs), op) == expected


def test_without_shapes_there_is_no_work() -> None:
    graph, _ = graph_and_shapes(
        model([node("Conv", ["x", "w"], ["y"])], {"x": (1, 4, 6, 6)}, ["y"], {"w": weights(8, 4, 3, 3)})
    )
    (conv,) = graph
    assert work_of(conv, {}) is None
    graph, _ = graph_and_shapes(
        model([node("MatMul", ["x", "w"], ["y"])], {"x": (4, 6)}, ["y"], {"w": weights(6, 3)})
    )
    assert row_of(graph[0], {}) is None


ROWS = {
    "Conv/3x3-strided": ({"strides": [2, 2]}, (64, 64, 3, 3)),
    "Conv/3x3": ({}, (64, 64, 1, 3)),
    "Conv/3x3-thin": ({}, (64, 16, 3, 3)),
    "Conv/1x1": ({}, (64, 64, 1, 1)),
    "Conv/larger": ({}, (64, 64, 5, 5)),
    "Conv/larger-stem": ({}, (64, 3, 7, 7)),
    "Conv/stem": ({}, (64, 3, 3, 3)),
    "Conv/depthwise": ({"group": 8}, (8, 1, 3, 3)),
    "Conv/grouped": ({"group": 2}, (8, 4, 3, 3)),
    "Conv/1d": ({}, (8, 8, 3)),
    "Conv/1d-depthwise": ({"group": 8}, (8, 1, 3)),
    None: ({}, (8, 8, 3, 3, 3)),
}


@pytest.mark.parametrize("row", ROWS)
def test_a_convolution_is_in_the_row_of_its_kernel(row: str | None) -> None:
    attributes, shape = ROWS[row]
    channels = shape[1] * attributes.get("group", 1)
    proto = model(
        [node("Conv", ["x", "w"], ["y"], **attributes)],
        {"x": (1, channels, *(9,) * (len(shape) - 2))},
        ["y"],
        {"w": weights(*shape)},
    )
    graph, shapes = graph_and_shapes(proto)
    assert row_of(graph[0], shapes) == row


def test_a_foreign_op_of_a_known_name_is_in_no_row() -> None:
    assert row_of(ir.Node("elsewhere", "Relu", []), {}) is None


W = weights(16, 16, 3, 3)
CONV = [node("Conv", ["x", "w"], ["c"], pads=[1] * 4)]
SECOND = [node("Conv", ["c", "w"], ["d"], pads=[1] * 4)]
PRODUCT = [node("MatMul", ["x", "m"], ["c"])]
FUSED = {
    "an activation behind a convolution": ([*CONV, node("Relu", ["c"], ["y"])], "Relu", {None, Form.INT8}),
    "one that others read too": (
        [*CONV, node("Sigmoid", ["c"], ["s"]), node("Tanh", ["c"], ["t"]), node("Mul", ["s", "t"], ["y"])],
        "Sigmoid",
        set(),
    ),
    "a sum of convolutions": ([*CONV, *SECOND, node("Add", ["c", "d"], ["y"])], "Add", {None}),
    "a sum with what has another layout": ([*CONV, node("Add", ["c", "x"], ["y"])], "Add", set()),
    "a clamp behind a sum of convolutions": (
        [*CONV, *SECOND, node("Add", ["c", "d"], ["a"]), node("Relu", ["a"], ["y"])],
        "Relu",
        {None, Form.INT8},
    ),
    "a sum with what was pooled": (
        [
            node("MaxPool", ["x"], ["p"], kernel_shape=[1, 1]),
            node("Conv", ["p", "w"], ["c"], pads=[1] * 4),
            node("Add", ["p", "c"], ["y"]),
        ],
        "Add",
        {None},
    ),
    "a clamp behind a plain sum": (
        [node("Add", ["x", "x"], ["a"]), node("Relu", ["a"], ["y"])],
        "Relu",
        {Form.INT8},
    ),
    "the gate of a SiLU": (
        [node("Sigmoid", ["x"], ["s"]), node("Mul", ["x", "s"], ["y"])],
        "Sigmoid",
        {None},
    ),
    "the bias of a product": ([*PRODUCT, node("Add", ["c", "b"], ["y"])], "Add", {None, Form.INT8}),
}


@pytest.mark.parametrize("case", FUSED)
def test_fused_nodes(case: str) -> None:
    nodes, op, forms = FUSED[case]
    proto = model(nodes, {"x": (1, 16, 8, 16)}, ["y"], {"w": W, "m": weights(16, 16), "b": weights(16)})
    graph, _ = graph_and_shapes(proto)
    tested = next(n for n in graph if n.op_type == op)
    assert {form for form in (None, Form.INT8) if is_fused(tested, form)} == forms


def test_any_number_of_residual_sums_is_followed() -> None:
    nodes = [node("Conv", ["x", "w"], ["v0"])]
    for i in range(1500):
        nodes += [node("Conv", [f"v{i}", "w"], [f"c{i}"]), node("Add", [f"v{i}", f"c{i}"], [f"v{i + 1}"])]
    proto = onnx.helper.make_model(
        onnx.helper.make_graph(
            nodes,
            "deep",
            [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 4, 8, 8])],
            [onnx.helper.make_tensor_value_info("v1500", onnx.TensorProto.FLOAT, None)],
            [onnx.numpy_helper.from_array(weights(4, 4, 1, 1), "w")],
        )
    )
    assert is_fused(ir.from_proto(proto).graph[-1], None)
