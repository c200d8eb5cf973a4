"""The opset is raised to what per-channel quantization needs, and no further."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from qtool.graph.prepare.inputs import drop_initializer_inputs
from qtool.graph.prepare.opset import QDQ_OPSET, upgrade_opset
from qtool.graph.view import opset_of
from qtool.runtime.library import has_op
from tests.graph.prepare.alike import applied, assert_alike, assert_untouched, ops, value_info
from tests.graphs import model, node, samples, weights


def old(opset: int) -> onnx.ModelProto:
    """A model as exporters wrote it then: Dropout with a ratio, Squeeze with attribute axes, Softmax over 2-D."""
    return model(
        [
            node("Conv", ["x", "w"], ["c"], kernel_shape=[3, 3]),
            node("BatchNormalization", ["c", "g", "b", "b", "v"], ["n"]),
            node("Dropout", ["n"], ["d"], ratio=0.5),
            node("ReduceMean", ["d"], ["m"], axes=[2, 3]),
            node("Squeeze", ["m"], ["s"], axes=[2, 3]),
            node("Softmax", ["s"], ["y"], axis=1),
        ],
        {"x": (1, 3, 6, 6)},
        ["y"],
        {
            "w": weights(4, 3, 3, 3),
            "g": weights(4) + 1,
            "b": weights(4, seed=2),
            "v": np.ones(4, np.float32),
        },
        opset=opset,
        ir_version=8,
    )


@pytest.mark.parametrize("opset", [7, 8, 9, 10, 11])
def test_an_old_model_is_raised_and_computes_the_same(opset: int) -> None:
    made, note = applied(old(opset), upgrade_opset)
    assert opset_of(made) == QDQ_OPSET
    assert f"opset {opset} -> {QDQ_OPSET}" in note
    assert_alike(old(opset), made)


@pytest.mark.parametrize("opset", [13, 17, 21])
def test_an_opset_that_suffices_stays(opset: int) -> None:
    proto = model([node("Relu", ["x"], ["y"])], {"x": (2, 3)}, ["y"], opset=opset, ir_version=10)
    assert_untouched(proto, upgrade_opset)


@pytest.mark.parametrize("opset", [13, 17, 21, 23])
def test_an_ir_version_too_low_for_its_opset_is_raised(opset: int) -> None:
    proto = model([node("Relu", ["x"], ["y"])], {"x": (2, 3)}, ["y"], opset=opset, ir_version=4)
    made, _ = applied(proto, upgrade_opset)
    least = onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", opset)])
    assert made.ir_version == least
    assert_alike(proto, made)


def test_an_ir_3_model_with_initializers_as_inputs_is_raised() -> None:
    graph = onnx.helper.make_graph(
        [node("MatMul", ["x", "w"], ["h"]), node("Relu", ["h"], ["y"])],
        "g",
        [value_info("x", (2, 3)), value_info("w", (3, 4))],
        [value_info("y", (2, 4))],
        [onnx.numpy_helper.from_array(weights(3, 4), "w")],
    )
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 8)], ir_version=3)
    made, _ = applied(proto, drop_initializer_inputs, upgrade_opset)
    assert [v.name for v in made.graph.inputs] == ["x"]
    assert opset_of(made) == QDQ_OPSET
    assert_alike(proto, made, samples(2, x=(2, 3)))


def test_names_and_metadata_are_kept() -> None:
    proto = old(8)
    proto.metadata_props.add(key="labels", value="cat,dog")
    proto.producer_name = "exporter"
    proto.doc_string = "words"
    made, _ = applied(proto, upgrade_opset)
    assert made.metadata_props["labels"] == "cat,dog"
    assert (made.producer_name, made.doc_string) == ("exporter", "words")
    assert [v.name for v in made.graph.inputs] == ["x"]
    assert [v.name for v in made.graph.outputs] == ["y"]
    assert {"w", "g", "v"} <= set(made.graph.initializers)
    assert {n.name for n in proto.graph.node} <= {n.name for n in made.graph}


def test_a_model_with_another_domain_is_raised_or_kept_but_never_breaks() -> None:
    proto = model([node("Relu", ["x"], ["h"]), node("Relu", ["h"], ["y"])], {"x": (2, 3)}, ["y"], opset=11)
    proto.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    proto.graph.node[0].CopyFrom(node("Gelu", ["x"], ["h"], domain="com.microsoft"))
    made, note = applied(proto, upgrade_opset)
    assert note
    assert "com.microsoft" in made.opset_imports
    assert_alike(proto, made)


def test_models_that_cannot_be_converted_are_kept_with_a_reason() -> None:
    proto = model(
        [node("Upsample", ["x", "s"], ["h"]), node("Relu", ["h"], ["y"])],
        {"x": (1, 1, 2, 2)},
        {"y": (1, 1, 4, 4)},
        {"s": np.array([1, 1, 2, 2], np.float32)},
        opset=9,
    )
    broken = onnx.ModelProto.FromString(proto.SerializeToString())
    broken.opset_import.append(onnx.helper.make_opsetid("some.vendor", 1))
    broken.graph.node[1].op_type = "NoSuchOp"
    broken.graph.node[1].domain = "some.vendor"
    made, note = applied(broken, upgrade_opset)
    assert opset_of(made) in (9, QDQ_OPSET)
    assert ("kept" in note) == (opset_of(made) == 9)
    assert ops(made)[-1] == "NoSuchOp"


@pytest.mark.parametrize(("least", "raised"), [(21, True), (25, False)])
def test_an_opset_whose_op_the_runtime_lacks_is_not_gone_to(least: int, raised: bool) -> None:
    proto = model([node("GlobalLpPool", ["x"], ["y"])], {"x": (1, 2, 3, 3)}, ["y"])
    before = opset_of(ir.from_proto(proto))
    made, note = applied(proto, lambda m: upgrade_opset(m, least, has_op))
    assert opset_of(made) == (least if raised else before)
    assert raised or "onnxruntime has no GlobalLpPool" in note
    assert_alike(proto, made)


def test_branches_are_converted_too() -> None:
    inner = onnx.helper.make_graph(
        [node("Dropout", ["x"], ["d"], ratio=0.5), node("Squeeze", ["d"], ["t"], axes=[0])],
        "b",
        [],
        [value_info("t", (3,))],
    )
    graph = onnx.helper.make_graph(
        [node("If", ["pick"], ["y"], then_branch=inner, else_branch=inner)],
        "g",
        [value_info("pick", [], onnx.TensorProto.BOOL), value_info("x", (1, 3))],
        [value_info("y", (3,))],
    )
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 11)], ir_version=8)
    made, _ = applied(proto, upgrade_opset)
    feed = {**samples(1, x=(1, 3))[0], "pick": np.array(True)}
    assert_alike(proto, made, [feed])


def test_large_weights_stay_where_they_are_while_the_opset_is_raised(tmp_path: Path) -> None:
    """The converter takes no model of 2 GiB. It sees small weights."""
    proto = model(
        [
            node("MatMul", ["x", "w"], ["h"]),
            node("Add", ["h", "b"], ["s"]),
            node("ReduceMax", ["s"], ["y"], axes=[1]),
        ],
        {"x": (2, 64)},
        ["y"],
        {"w": weights(64, 64), "b": weights(64)},
    )
    path = tmp_path / "m.onnx"
    onnx.save(proto, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    held = ir.load(path)
    before = held.graph.initializers["w"].const_value
    note = upgrade_opset(held, 21)
    assert (opset_of(held), note) == (21, "opset 17 -> 21")
    assert held.graph.initializers["w"].const_value is before
    (tmp_path / "w.bin").rename(tmp_path / "moved.bin")
    assert isinstance(before, ir.ExternalTensor)
    np.testing.assert_array_equal(held.graph.initializers["b"].const_value.numpy(), weights(64))
