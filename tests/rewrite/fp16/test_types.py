"""The types of what is written in float16: attributes, nested graphs, fixed inputs, other types of float."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qtool.tables.float16 import LIKE, TYPED_BY_ATTRIBUTE
from tests import graphs
from tests.exact import exact
from tests.graphs import node
from tests.rewrite.flow import run
from tests.rewrite.fp16.flow import (
    FLOAT,
    FLOAT16,
    check,
    close,
    converted,
    element_types,
    nodes,
    stored_types,
)

SHAPE = (4, 64)
SAMPLES = graphs.samples(3, x=SHAPE)
WEIGHTS = {"w": graphs.weights(64, 64), "v": graphs.weights(64, 64, seed=1)}


def tensor(value: float, shape: tuple[int, ...] = (1,)) -> onnx.TensorProto:
    return numpy_helper.from_array(np.full(shape, value, np.float32), "value")


def between(
    middle: list[onnx.NodeProto], constants: dict[str, np.ndarray] | None = None, **options: int
) -> onnx.ModelProto:
    """x -> MatMul -> h, the middle from h to m, m -> MatMul -> y."""
    sequence = [
        node("MatMul", ["x", "w"], ["h"], "first"),
        *middle,
        node("MatMul", ["m", "v"], ["y"], "last"),
    ]
    return graphs.model(sequence, {"x": SHAPE}, {"y": SHAPE}, {**WEIGHTS, **(constants or {})}, **options)


MADE_BY_ATTRIBUTE = {
    "ConstantOfShape": [node("Shape", ["h"], ["s"]), node("ConstantOfShape", ["s"], ["f"], value=tensor(0.75))],
    "ConstantOfShape-0": [node("Shape", ["h"], ["s"]), node("ConstantOfShape", ["s"], ["f"])],
    "Constant": [node("Constant", [], ["f"], value=tensor(0.75, SHAPE))],
    "Constant-float": [node("Constant", [], ["f"], value_float=0.75)],
    "Constant-floats": [node("Constant", [], ["f"], value_floats=[0.75] * 64)],
    "Cast": [node("Shape", ["h"], ["s"]), node("Slice", ["s", "one", "two"], ["t"]), node("Cast", ["t"], ["f"], to=FLOAT)],
    "CastLike": [node("Shape", ["h"], ["s"]), node("Slice", ["s", "one", "two"], ["t"]), node("CastLike", ["t", "h"], ["f"])],
}  # fmt: skip


@pytest.mark.parametrize("everything", [False, True])
@pytest.mark.parametrize("case", MADE_BY_ATTRIBUTE)
def test_ops_with_a_type_attribute(case: str, everything: bool) -> None:
    middle = [*MADE_BY_ATTRIBUTE[case], node("Add", ["h", "f"], ["m"], "join")]
    proto = between(middle, {"one": np.array([1]), "two": np.array([2])})
    made = converted(proto, SAMPLES, sets=["*=fp16"] if everything else [])
    check(made)
    assert close(made, SAMPLES) > 55
    assert {"first", "last"} <= made.fp16_nodes
    if everything:
        assert element_types(made.proto)["m"] == FLOAT16


@pytest.mark.parametrize(("perm", "wanted"), [((1, 0, 2), FLOAT), ((1, 2, 0), FLOAT), ((0, 2, 1), FLOAT16)])
def test_a_transpose_that_would_crash_the_runtime_stays_float32(perm: tuple[int, ...], wanted: int) -> None:
    """Of two GRU layers, as PyTorch exports them; without the rule this process dies."""
    sequence = [
        node("MatMul", ["x", "w"], ["h"]), node("Relu", ["h"], ["r"]), node("Transpose", ["r"], ["m"], perm=perm),
        node("MatMul", ["m", "v"], ["y"]),
    ]  # fmt: skip
    constants = {"w": graphs.weights(64, 64), "v": graphs.weights(64, 64, seed=1)}
    proto = graphs.model(sequence, {"x": (64, 64, 64)}, ["y"], constants)
    made = converted(proto, graphs.samples(2, x=(64, 64, 64)))
    check(made)
    assert element_types(made.proto)["m"] == wanted


def _needs(op: str) -> list[onnx.NodeProto]:
    """An op with random output: only its type is tested."""
    if op in ("RandomNormal", "RandomUniform"):
        return [node(op, [], ["f"], "random", shape=list(SHAPE), seed=1.0)]
    if op == "Bernoulli":
        return [node("Sigmoid", ["h"], ["p"]), node(op, ["p"], ["f"], "random", seed=1.0)]
    return [node(op, ["h"], ["f"], "random", **({} if op == "EyeLike" else {"seed": 1.0}))]


@pytest.mark.parametrize("first", ["fp16", "fp32"])
@pytest.mark.parametrize("assigned", ["fp16", "fp32"])
@pytest.mark.parametrize("op", ["RandomNormal", "RandomUniform", *sorted(LIKE)])
def test_generated_values(op: str, assigned: str, first: str) -> None:
    """Only Bernoulli can be float16; the others stay what they were though what they are like is float16."""
    proto = between([*_needs(op), node("Add", ["h", "f"], ["m"], "join")])
    made = converted(proto, sets=[f"random={assigned}", f"first={first}", "join=fp16"])
    check(made)
    assert element_types(made.proto)["f"] == (FLOAT16 if assigned == "fp16" and op == "Bernoulli" else FLOAT)
    for optimize in (True, False):
        assert np.isfinite(run(made.data, SAMPLES, optimize)[0]["y"]).all()


def test_every_op_with_a_type_attribute_is_tested() -> None:
    tried = {c.partition("-")[0] for c in MADE_BY_ATTRIBUTE} | LIKE
    assert tried - {"CastLike"} == TYPED_BY_ATTRIBUTE.keys()


@pytest.mark.parametrize("opset", [11, 13, 19])
def test_resize_reads_float32_beside_its_image(opset: int) -> None:
    image = (1, 3, 8, 8)
    attributes = {"coordinate_transformation_mode": "tf_crop_and_resize"}
    proto = graphs.model(
        [
            node("Conv", ["x", "k"], ["h"], "first", pads=[1, 1, 1, 1]),
            node("Resize", ["h", "roi", "scales"], ["m"], "resize", mode="linear", **attributes),
            node("Conv", ["m", "k"], ["y"], "last"),
        ],
        {"x": image},
        ["y"],
        {
            "k": graphs.weights(3, 3, 3, 3),
            "roi": np.array([0, 0, 0.1, 0.1, 1, 1, 0.9, 0.9], np.float32),
            "scales": np.array([1, 1, 2, 2], np.float32),
        },
        opset=opset,
    )
    samples = graphs.samples(2, x=image)
    made = converted(proto, samples, sets=["*=fp16"])
    check(made)
    assert "resize" in made.fp16_nodes
    assert made.plan.fp16.nodes["resize"].inputs == (0,)
    (resize,) = [n for n in made.proto.graph.node if n.op_type == "Resize"]
    types = element_types(made.proto)
    assert [types[n] for n in resize.input if n] == [FLOAT16, FLOAT, FLOAT]
    close(made, samples)


def branches(outer: bool) -> onnx.NodeProto:
    """An If: a product with a weight of its own or from outside, or a Tanh; both read h from outside."""
    info = helper.make_tensor_value_info
    own = [] if outer else [numpy_helper.from_array(graphs.weights(64, 64, seed=3), "inner")]
    weight = "w" if outer else "inner"
    then = helper.make_graph(
        [node("MatMul", ["h", weight], ["a"], "nested")], "then", [], [info("a", FLOAT, SHAPE)], own
    )
    other = helper.make_graph([node("Tanh", ["h"], ["b"], "other")], "else", [], [info("b", FLOAT, SHAPE)])
    return node("If", ["yes"], ["m"], "if", then_branch=then, else_branch=other)


def loop() -> onnx.NodeProto:
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            node("MatMul", ["s", "w"], ["t"], "nested"),
            node("Tanh", ["t"], ["u"], "tanh"),
            node("Identity", ["c"], ["d"], "condition"),
        ],
        "body",
        [info("i", TensorProto.INT64, []), info("c", TensorProto.BOOL, []), info("s", FLOAT, SHAPE)],
        [info("d", TensorProto.BOOL, []), info("u", FLOAT, SHAPE)],
    )
    return node("Loop", ["three", "yes", "h"], ["m"], "loop", body=body)


def scan() -> onnx.NodeProto:
    info = helper.make_tensor_value_info
    row = [64]
    body = helper.make_graph(
        [
            node("MatMul", ["r", "w"], ["t"], "nested"),
            node("Add", ["t", "s"], ["u"], "sum"),
            node("Identity", ["u"], ["q"], "copy"),
        ],
        "body",
        [info("s", FLOAT, row), info("r", FLOAT, row)],
        [info("u", FLOAT, row), info("q", FLOAT, row)],
    )
    return node("Scan", ["zeros", "h"], ["last_state", "m"], "scan", body=body, num_scan_inputs=1)


NESTED = {"If": branches(False), "If-outer": branches(True), "Loop": loop(), "Scan": scan()}


@pytest.mark.parametrize("io", ["float", "float16"])
@pytest.mark.parametrize("case", NESTED)
def test_nested_graphs_keep_their_borders_and_compute_in_float16(case: str, io: str) -> None:
    constants = {"yes": np.array(True), "three": np.array(3), "zeros": np.zeros(64, np.float32)}
    made = converted(between([NESTED[case]], constants), SAMPLES, io=io)
    check(made)
    assert close(made, SAMPLES) > 45
    assert "nested" in made.fp16_nodes
    assert any("If, Loop and Scan" in n for n in made.notes)
    (outer,) = [n for n in made.proto.graph.node if any(a.HasField("g") for a in n.attribute)]
    types = element_types(made.proto)
    assert types["m"] == FLOAT
    for attribute in outer.attribute:
        floats = [v for v in attribute.g.output if v.type.tensor_type.elem_type in (FLOAT, FLOAT16)]
        assert {types[v.name] for v in floats} <= {FLOAT}


def test_a_model_that_is_float16_already() -> None:
    fp16_weights = {k: v.astype(np.float16) for k, v in WEIGHTS.items()}
    sequence = [node("MatMul", ["x", "w"], ["h"]), node("MatMul", ["h", "v"], ["y"])]
    proto = graphs.model(
        sequence, {"x": SHAPE}, {"y": SHAPE}, fp16_weights, input_type=FLOAT16, output_type=FLOAT16
    )
    samples = [{"x": s["x"].astype(np.float16)} for s in SAMPLES]
    made = converted(proto, samples)
    check(made)
    assert {"MatMul_h", "MatMul_y"} <= made.fp16_nodes
    assert [n.op_type for n in made.proto.graph.node] == ["MatMul", "MatMul"]
    assert close(made, samples) == np.inf


@pytest.mark.parametrize("kind", [TensorProto.DOUBLE, TensorProto.BFLOAT16])
def test_other_floats_are_left_as_they_are(kind: int) -> None:
    sequence = [
        node("MatMul", ["x", "w"], ["h"], "first"),
        node("Cast", ["h"], ["d"], "there", to=kind),
        node("Neg", ["d"], ["e"], "other"),
        node("Cast", ["e"], ["m"], "back", to=FLOAT),
        node("MatMul", ["m", "v"], ["y"], "last"),
    ]
    made = converted(graphs.model(sequence, {"x": SHAPE}, {"y": SHAPE}, WEIGHTS))
    check(made)
    assert {"first", "last"} <= made.fp16_nodes
    assert "other" not in made.fp16_nodes
    assert element_types(made.proto)["e"] == kind
    if kind == TensorProto.DOUBLE:  # onnxruntime has no Neg of bfloat16 on a CPU
        close(made, SAMPLES)


def test_a_model_of_doubles_computes_in_float16_between_its_ports() -> None:
    doubles = {k: v.astype(np.float64) for k, v in WEIGHTS.items()}
    proto = graphs.model(
        [node("MatMul", ["x", "w"], ["y"])],
        {"x": SHAPE},
        {"y": SHAPE},
        doubles,
        input_type=11,
        output_type=11,
    )
    samples = [{"x": s["x"].astype(np.float64)} for s in SAMPLES]
    made = converted(proto, samples)
    check(made)
    assert "MatMul_y" in made.fp16_nodes
    assert stored_types(made.proto) == {"w": FLOAT16}
    assert element_types(made.proto)["y"] == TensorProto.DOUBLE
    assert close(made, samples) > 60


def shared(readers: list[onnx.NodeProto], outputs: list[str], width: int, kept: list[str]) -> dict[str, int]:
    """The types in which a vector is stored that some nodes read."""
    constants = {"w": graphs.weights(width, width), "b": graphs.weights(width, seed=2)}
    sequence = [node("MatMul", ["x", "w"], ["h"], "first"), *readers]
    proto = graphs.model(sequence, {"x": (4, width)}, outputs, constants)
    samples = graphs.samples(2, x=(4, width))
    made = converted(
        proto, samples, sets=[f"{n}=fp32" if n in kept else f"{n}=fp16" for n in ("first", "one", "two")]
    )
    check(made)
    close(made, samples)
    return stored_types(made.proto)


READERS = [node("Add", ["h", "b"], ["y"], "one"), node("Sub", ["h", "b"], ["z"], "two")]


def test_a_small_weight_of_both_types_is_stored_twice() -> None:
    assert shared(READERS, ["y", "z"], 64, ["two"]) == {"w": FLOAT16, "b": FLOAT, "b_float16": FLOAT16}


def test_a_weight_of_one_type_is_stored_once() -> None:
    assert shared(READERS, ["y", "z"], 64, []) == {"w": FLOAT16, "b": FLOAT16}


@pytest.mark.parametrize("io", ["float", "float16"])
def test_ports_that_are_constants_or_inputs(io: str) -> None:
    sequence = [node("MatMul", ["x", "w"], ["y"], "product")]
    proto = graphs.model(sequence, {"x": SHAPE}, {"y": SHAPE}, WEIGHTS)
    proto.graph.output.append(helper.make_tensor_value_info("w", FLOAT, [64, 64]))
    proto.graph.output.append(helper.make_tensor_value_info("x", FLOAT, SHAPE))
    made = converted(proto, SAMPLES, io=io)
    check(made)
    close(made, SAMPLES)
    wanted = FLOAT16 if io == "float16" else FLOAT
    assert {v.type.tensor_type.elem_type for v in made.proto.graph.output} == {wanted}


def test_sequences_between_products() -> None:
    sequence = [
        node("SplitToSequence", ["h"], ["s"], "split", axis=0),
        node("ConcatFromSequence", ["s"], ["m"], "join", axis=0),
    ]
    proto = between(sequence)
    proto.graph.value_info.append(helper.make_tensor_sequence_value_info("s", FLOAT, [1, 64]))
    made = converted(proto, SAMPLES)
    check(made)
    assert close(made, SAMPLES) > 55
    assert made.fp16_nodes == {"first", "last"}


def test_float16_products_beside_int8() -> None:
    """Float16 is written last, around whatever another form has written."""
    sequence = [
        node("MatMul", ["x", "w"], ["h"], "first"),
        node("Relu", ["h"], ["r"]),
        node("MatMul", ["r", "v"], ["y"], "last"),
    ]
    proto = graphs.model(sequence, {"x": SHAPE}, {"y": SHAPE}, WEIGHTS)
    made = converted(proto, SAMPLES, mode="static", target="generic", sets=["last=fp16"])
    check(made)
    assert made.fp16_nodes == {"last"}
    assert {"QuantizeLinear", "DequantizeLinear"} <= {n.op_type for n in nodes(made.proto.graph)}
    close(made, SAMPLES, 25 if exact() else 15)
