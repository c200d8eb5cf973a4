"""Initializers that are also inputs stop being inputs, and only those."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from qtool.graph.prepare.inputs import drop_initializer_inputs
from tests.graph.prepare.alike import applied, assert_alike, assert_untouched, value_info
from tests.graphs import model, node, samples, weights


def net(ir_version: int) -> onnx.ModelProto:
    """A model whose weight is an input as well, as all were below IR version 4."""
    graph = onnx.helper.make_graph(
        [node("MatMul", ["x", "w"], ["h"]), node("Add", ["h", "b"], ["y"])],
        "g",
        [value_info("w", (3, 4)), value_info("x", (2, 3)), value_info("b", (4,))],
        [value_info("y", (2, 4))],
        [onnx.numpy_helper.from_array(weights(3, 4), "w"), onnx.numpy_helper.from_array(weights(4), "b")],
    )
    made = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 8)], ir_version=ir_version
    )
    onnx.checker.check_model(made)
    return made


@pytest.mark.parametrize("ir_version", [3, 4, 8])
def test_initializers_are_removed_from_the_inputs(ir_version: int) -> None:
    made, note = applied(net(ir_version), drop_initializer_inputs)
    assert [v.name for v in made.graph.inputs] == ["x"]
    assert made.ir_version == max(ir_version, 4)
    assert "2 initializers" in note
    np.testing.assert_array_equal(made.graph.initializers["w"].const_value.numpy(), weights(3, 4))
    assert_alike(net(ir_version), made, samples(2, x=(2, 3)))


def test_a_model_without_such_inputs_stays() -> None:
    proto = model([node("MatMul", ["x", "w"], ["y"])], {"x": (2, 3)}, ["y"], {"w": weights(3, 4)})
    assert_untouched(proto, drop_initializer_inputs)


def test_a_model_of_an_old_ir_without_initializers_stays() -> None:
    proto = model([node("Relu", ["x"], ["y"])], {"x": (2, 3)}, ["y"], opset=8, ir_version=3)
    assert_untouched(proto, drop_initializer_inputs)
