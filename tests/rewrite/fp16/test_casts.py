"""Casts that a change of types has made idle."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from qtool.graph.edit import Namer
from qtool.rewrite.fp16.casts import tidy_casts
from tests.graphs import rng
from tests.rewrite.flow import evaluate
from tests.rewrite.fp16.flow import check_casts
from tests.tiers import examples

FLOAT, FLOAT16, INT = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT32
_NUMPY = {FLOAT: np.float32, FLOAT16: np.float16, INT: np.int32}


def cast(source: str, made: str, to: int) -> onnx.NodeProto:
    return onnx.helper.make_node("Cast", [source], [made], name=f"cast_{made}", to=to)


def relu(source: str, made: str) -> onnx.NodeProto:
    return onnx.helper.make_node("Relu", [source], [made], name=f"relu_{made}")


def build(nodes: list[onnx.NodeProto], outputs: dict[str, int], x: int = FLOAT) -> onnx.ModelProto:
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes, "casts", [info("x", x, [4])], [info(name, kind, [4]) for name, kind in outputs.items()]
    )
    made = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(made, full_check=True)
    return made


def tidied(proto: onnx.ModelProto) -> onnx.ModelProto:
    model = ir.from_proto(onnx.shape_inference.infer_shapes(proto))
    tidy_casts(model, Namer(model))
    made = ir.to_proto(model)
    onnx.checker.check_model(made, full_check=True)
    check_casts(made)
    assert [v.name for v in made.graph.output] == [v.name for v in proto.graph.output]
    return made


def ops(proto: onnx.ModelProto) -> list[str]:
    return [n.op_type for n in proto.graph.node]


CASES = {
    "to-the-same-type": ([cast("x", "a", FLOAT), relu("a", "y")], {"y": FLOAT}, FLOAT, ["Relu"]),
    "there-and-back-from-half": ([cast("x", "a", FLOAT), cast("a", "b", FLOAT16), relu("b", "y")], {"y": FLOAT16}, FLOAT16, ["Relu"]),
    "rounding-stays": ([cast("x", "a", FLOAT16), cast("a", "b", FLOAT), relu("b", "y")], {"y": FLOAT}, FLOAT, ["Cast", "Cast", "Relu"]),
    "twice": ([cast("x", "a", FLOAT16), cast("x", "b", FLOAT16), relu("a", "y"), relu("b", "z")], {"y": FLOAT16, "z": FLOAT16}, FLOAT, ["Cast", "Relu", "Relu"]),
    "for-nobody": ([cast("x", "a", FLOAT16), cast("a", "b", FLOAT), relu("x", "y")], {"y": FLOAT}, FLOAT, ["Relu"]),
    "to-an-output": ([relu("x", "a"), cast("a", "y", FLOAT)], {"y": FLOAT}, FLOAT, ["Relu"]),
    "input-to-output": ([cast("x", "y", FLOAT)], {"y": FLOAT}, FLOAT, ["Identity"]),
    "two-outputs": ([relu("x", "y"), cast("y", "z", FLOAT)], {"y": FLOAT, "z": FLOAT}, FLOAT, ["Relu", "Identity"]),
    "integers": ([cast("x", "a", INT), cast("a", "b", FLOAT), relu("b", "y")], {"y": FLOAT}, FLOAT, ["Cast", "Cast", "Relu"]),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_stays(case: str) -> None:
    nodes, outputs, x, left = CASES[case]
    assert ops(tidied(build(nodes, outputs, x))) == left


@settings(max_examples=examples(150), deadline=None)
@given(
    st.sampled_from([FLOAT, FLOAT16]),
    st.lists(
        st.tuples(st.integers(0, 9), st.sampled_from(["relu", FLOAT, FLOAT16, INT]), st.booleans()),
        min_size=1,
        max_size=9,
    ),
)
def test_the_result_is_the_same_to_the_bit(x: int, steps: list[tuple[int, str | int, bool]]) -> None:
    kinds, nodes, outputs = {"x": x}, [], {}
    for index, (source, step, output) in enumerate(steps):
        read, name = list(kinds)[source % len(kinds)], f"v{index}"
        nodes.append(relu(read, name) if step == "relu" else cast(read, name, int(step)))
        kinds[name] = kinds[read] if step == "relu" else int(step)
        if output or index == len(steps) - 1:
            outputs[name] = kinds[name]
    before = build(nodes, outputs, x)
    after = tidied(before)
    sample = [{"x": (rng().standard_normal(4) * 100).astype(_NUMPY[x])}]
    # By onnx's reference: onnxruntime has no Relu of float16 and computes it in float32, and it then drops
    # the Cast before it, rounding and all, where that has no other reader.
    (wanted,), (actual,) = (evaluate(m.SerializeToString(), sample) for m in (before, after))
    assert all(np.array_equal(wanted[k], actual[k]) and wanted[k].dtype == actual[k].dtype for k in outputs)
    assert ops(tidied(after)) == ops(after)
