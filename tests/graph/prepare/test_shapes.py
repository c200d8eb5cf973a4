"""Shapes are inferred anew, and nothing depends on that they can be."""

from __future__ import annotations

import onnx
import pytest

from qtool.graph.prepare.shapes import infer_shapes
from tests.graph.prepare.alike import applied, assert_alike, foreign, value_info
from tests.graphs import model, node, weights


def net() -> onnx.ModelProto:
    return model(
        [node("MatMul", ["x", "w"], ["h"]), node("Relu", ["h"], ["y"])],
        {"x": ("n", 3)},
        {"y": ("n", 4)},
        {"w": weights(3, 4)},
    )


def shape_of(proto: onnx.ModelProto, name: str) -> list[int | str] | None:
    made, note = applied(proto, infer_shapes)
    assert note == ""
    value = next(v for n in made.graph for v in n.outputs if v.name == name)
    assert_alike(proto, made)
    return None if value.shape is None else [d if isinstance(d, int) else d.value for d in value.shape]


def test_missing_shapes_are_inferred() -> None:
    assert shape_of(net(), "h") == ["n", 4]


@pytest.mark.parametrize("stale", [(7, 7), (1, 2, 3), ()], ids=str)
def test_wrong_shapes_are_inferred_again(stale: tuple[int, ...]) -> None:
    proto = net()
    proto.graph.value_info.append(value_info("h", stale))
    assert shape_of(proto, "h") == ["n", 4]


@pytest.mark.parametrize("level", ["error", "warning"])
def test_unknown_ops_end_shape_inference(level: str, caplog: pytest.LogCaptureFixture) -> None:
    proto = net()
    proto.opset_import.append(onnx.helper.make_opsetid("some.vendor", 1))
    proto.graph.node[0].domain = "some.vendor"
    made, note = applied(proto, infer_shapes)
    assert note == ""
    assert [n.op_type for n in made.graph] == ["MatMul", "Relu"]
    assert not [r for r in caplog.records if r.levelname.lower() == level]


def test_inputs_and_outputs_keep_their_shapes() -> None:
    made, _ = applied(net(), infer_shapes)
    assert [str(d) for d in made.graph.inputs[0].shape] == ["n", "3"]
    assert [str(d) for d in made.graph.outputs[0].shape] == ["n", "4"]


def test_behind_an_op_of_the_runtimes_own_its_types_are_known() -> None:
    proto = model(
        [node("MatMul", ["x", "w"], ["h"]), node("Relu", ["h"], ["r"]), node("MatMul", ["r", "w"], ["y"])],
        {"x": ("n", "s", 8)},
        {"y": ("n", "s", 8)},
        {"w": weights(8, 8)},
    )
    proto.graph.node[0].CopyFrom(node("FusedMatMul", ["x", "w"], ["h"], domain="com.microsoft"))
    proto.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    made, _ = applied(proto, infer_shapes)
    for name in ("h", "r"):
        value = next(v for n in made.graph for v in n.outputs if v.name == name)
        assert value.dtype == onnx.TensorProto.FLOAT
        assert value.shape is not None
        assert [d if isinstance(d, int) else d.value for d in value.shape] == ["n", "s", 8]


def test_behind_an_unknown_op_nothing_is_known() -> None:
    proto = foreign(model([node("Relu", ["x"], ["h"]), node("Neg", ["h"], ["y"])], {"x": (2, 3)}, {"y": (2, 3)}), "Relu")  # fmt: skip
    made, note = applied(proto, infer_shapes)
    assert note == ""
    assert made.graph[0].outputs[0].type is None
