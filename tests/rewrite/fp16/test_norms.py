"""Layer norms, written out: whatever of them is float16, onnxruntime can open the model."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from qtool.graph.view import View
from qtool.plan.fp16.norms import norm_barriers
from qtool.plan.model import Fp16Assignment
from tests import graphs
from tests.graphs import node
from tests.rewrite.flow import run
from tests.rewrite.fp16.flow import FLOAT16, Converted, check, close, converted
from tests.tiers import in_turn

SHAPE = (2, 6, 8)
SAMPLES = graphs.samples(2, x=SHAPE)
CONSTANTS = {
    "w": graphs.weights(8, 8) * 5,
    "two": np.float32(2),
    "epsilon": np.float32(1e-3),
    "scale": graphs.weights(8, seed=1) + 1,
    "bias": graphs.weights(8, seed=2),
}


def norm(*, subs: int = 1, tail: bool = True, residual: bool = False, opset: int = 17) -> onnx.ModelProto:
    """A product, a layer norm in nine ops, and its consumers."""
    axes = {"axes": [-1]} if opset < 18 else {}
    axes_input = [] if opset < 18 else ["axes"]
    nodes = [
        node("MatMul", ["x", "w"], ["h"], "before"),
        node("ReduceMean", ["h", *axes_input], ["mean"], "mean", **axes),
        node("Sub", ["h", "mean"], ["d"], "sub"),
        node("Pow", ["d", "two"], ["square"], "pow"),
        node("ReduceMean", ["square", *axes_input], ["variance"], "variance", **axes),
        node("Add", ["variance", "epsilon"], ["sum"], "add"),
        node("Sqrt", ["sum"], ["deviation"], "sqrt"),
        node("Div", ["d2" if subs == 2 else "d", "deviation"], ["normal"], "div"),
        node("Mul", ["normal", "scale"], ["scaled"], "scale"),
        node("Add", ["scaled", "bias"], ["n"], "bias"),
    ]
    if subs == 2:
        nodes.insert(2, node("Sub", ["h", "mean"], ["d2"], "sub2"))
    last = "n"
    if residual:
        nodes.append(node("Add", [last, "h"], ["r"], "residual"))
        last = "r"
    if tail:
        nodes.append(node("MatMul", [last, "w"], ["t"], "after"))
        last = "t"
    nodes.append(node("Identity", [last], ["y"], "end"))
    constants = CONSTANTS if opset < 18 else {**CONSTANTS, "axes": np.array([-1])}
    return graphs.model(nodes, {"x": SHAPE}, {"y": SHAPE}, constants, opset=opset)


def sized(count: int, seed: int = 0) -> list[tuple[str, ...]]:
    """Some of the ways to choose nodes of the norm, the ends of it in every combination."""
    middle = ("pow", "variance", "add", "sqrt")
    ends = ("mean", "sub", "div", "scale", "bias")
    random = graphs.rng(seed)
    return [
        ("before", *itertools.compress(ends, bits), *itertools.compress(middle, random.integers(0, 2, 4)))
        for bits in itertools.product((0, 1), repeat=len(ends))
    ][:count]


def with_fp16(proto: onnx.ModelProto, names: tuple[str, ...], **options: str) -> Converted:
    return converted(proto, mode="weight-only", sets=[f"{n}=fp16" for n in names], **options)


@pytest.mark.parametrize(
    ("names", "subs", "residual"), in_turn(((n,) for n in sized(32)), [1, 2], [False, True])
)
def test_any_part_of_a_norm(names: tuple[str, ...], subs: int, residual: bool) -> None:
    made = with_fp16(
        norm(subs=subs, residual=residual), (*names, "sub2") if subs == 2 and "sub" in names else names
    )
    assert set(names) <= made.fp16_nodes
    check(made)
    close(made, SAMPLES)


@pytest.mark.parametrize(
    ("opset", "io", "tail"), in_turn([13, 17, 18, 21], ["float", "float16"], [False, True])
)
def test_a_norm_as_the_mode_has_it(opset: int, io: str, tail: bool) -> None:
    made = converted(norm(tail=tail, opset=opset), SAMPLES, io=io)
    check(made)
    assert close(made, SAMPLES) > 50
    assert {"mean", "pow", "variance"}.isdisjoint(made.fp16_nodes)


def test_the_barrier_leaves_the_norm_to_be_fused() -> None:
    """A norm that is float32 throughout is one op when it runs; the Cast before it has the barrier, not its middle."""
    made = converted(norm(), SAMPLES)
    (barrier,) = [n for n in made.proto.graph.node if n.op_type == "Max"]
    producers = {n.output[0]: n.op_type for n in made.proto.graph.node}
    assert producers[barrier.input[0]] == "Cast"
    readers = {n.op_type for n in made.proto.graph.node if barrier.output[0] in n.input}
    assert readers == {"ReduceMean", "Sub"}


@pytest.mark.parametrize(
    "names",
    [(), ("before",), ("before", "mean", "sub", "pow", "variance", "add", "sqrt", "div", "scale", "bias")],
    ids=["none", "before", "all"],
)
def test_no_barrier_where_types_agree(names: tuple[str, ...]) -> None:
    made = with_fp16(norm(residual=True), names) if names else converted(norm(), mode="weight-only")
    assert made.ops["Max"] == 0


def test_without_the_barrier_there_is_no_session() -> None:
    """Should this fail with a later onnxruntime, the barriers can go."""
    made = with_fp16(norm(), ("before",))
    proto = made.proto
    (barrier,) = [n for n in proto.graph.node if n.op_type == "Max"]
    for other in proto.graph.node:
        for index, name in enumerate(other.input):
            if name == barrier.output[0]:
                other.input[index] = barrier.input[0]
    proto.graph.node.remove(barrier)
    onnx.checker.check_model(proto, full_check=True)
    with pytest.raises(Exception, match=r"LayerNormalization|different types"):
        run(proto, SAMPLES)


@pytest.mark.parametrize("condition", [True, False])
def test_a_branch_that_the_runtime_inlines_shows_its_cast(condition: bool) -> None:
    proto = norm()
    info = [onnx.helper.make_tensor_value_info("t", onnx.TensorProto.FLOAT, SHAPE)]
    then = onnx.helper.make_graph([node("MatMul", ["x", "w"], ["t"], "product")], "then", [], info)
    info = [onnx.helper.make_tensor_value_info("e", onnx.TensorProto.FLOAT, SHAPE)]
    other = onnx.helper.make_graph([node("Neg", ["x"], ["e"], "minus")], "else", [], info)
    proto.graph.node[0].CopyFrom(node("If", ["condition"], ["h"], "if", then_branch=then, else_branch=other))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array(condition), "condition"))
    made = converted(proto, SAMPLES)
    check(made)
    assert "product" in made.fp16_nodes
    close(made, SAMPLES)


@pytest.mark.parametrize("kind", [ir.DataType.DOUBLE, ir.DataType.BFLOAT16, ir.DataType.INT32])
def test_other_types_are_left_alone(kind: ir.DataType) -> None:
    proto = norm()
    cast = onnx.helper.make_node("Cast", ["h"], ["h_cast"], name="cast", to=int(kind))
    back = onnx.helper.make_node("Cast", ["h_cast"], ["h_back"], name="back", to=onnx.TensorProto.FLOAT)
    for other in proto.graph.node[1:4]:
        for index, name in enumerate(other.input):
            if name == "h":
                other.input[index] = "h_back"
    proto.graph.node.insert(1, back)
    proto.graph.node.insert(1, cast)
    model = ir.from_proto(onnx.shape_inference.infer_shapes(proto))
    assert norm_barriers(View(model), Fp16Assignment(ports=frozenset({"x"}))) == []


def test_a_float16_model_is_converted_again() -> None:
    """It is computed in float32 first, so its casts are placed anew: they round at other nodes."""
    made = converted(norm(), SAMPLES, io="float16")
    assert {v.type.tensor_type.elem_type for v in made.proto.graph.input} == {FLOAT16}
    fp16_samples = [{"x": s["x"].astype(np.float16)} for s in SAMPLES]
    assert close(converted(made.proto, fp16_samples), fp16_samples) > 60
