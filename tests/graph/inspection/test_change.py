"""The differences between two models: all of them, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, external_data_helper, helper, numpy_helper

from qtool.errors import ModelError
from qtool.graph.inspection.change import difference
from qtool.graph.inspection.model import GraphValue, TensorChange
from tests.graph.inspection import graphs
from tests.graphs import node, weights

Edit = Callable[[onnx.ModelProto], None]


def changed(edit: Edit) -> onnx.ModelProto:
    made = graphs.plain()
    edit(made)
    return made


def replaced(name: str, array: np.ndarray) -> Edit:
    def edit(made: onnx.ModelProto) -> None:
        (tensor,) = (t for t in made.graph.initializer if t.name == name)
        tensor.CopyFrom(numpy_helper.from_array(array, name))

    return edit


def test_a_model_does_not_differ_from_itself() -> None:
    result = difference(graphs.plain(), graphs.plain())
    assert result.identical
    assert result.size_ratio == 1
    assert not any(
        (
            result.opsets,
            result.inputs,
            result.outputs,
            result.ops,
            result.computes,
            result.weights,
            result.metadata,
        )
    )
    assert (result.tensors, result.same_tensors, result.only_before, result.only_after) == ((), 2, (), ())


def test_quantization_is_shown_as_a_change_of_type() -> None:
    result = difference(graphs.plain(), graphs.qdq())
    assert result.ops["Gemm"] == (1, 0)
    assert result.ops["DequantizeLinear"] == (0, 4)
    assert result.ops_removed == ("Gemm",)
    assert set(result.ops_added) == {"Conv", "DequantizeLinear", "QuantizeLinear", "Sigmoid"}
    assert result.computes == {"int8": (0, 2), "float32": (2, 1), "convert": (0, 6)}
    assert result.weights["int8"][0] is None
    assert result.weights["float32"][1] is None
    assert result.size_ratio == result.after.bytes / result.before.bytes


@pytest.mark.parametrize(
    ("array", "after"),
    [
        (weights(4, seed=9), "float32 [4]"),
        (weights(4, seed=1).astype(np.float16), "float16 [4]"),
        (weights(1, 4, seed=1), "float32 [1, 4]"),
    ],
    ids=["content", "type", "shape"],
)
def test_a_constant_that_differs_is_named(array: np.ndarray, after: str) -> None:
    made = graphs.plain()
    made.graph.node[0].input[2] = ""  # the checker looks at types
    other = graphs.plain()
    other.graph.node[0].input[2] = ""
    replaced("b", array)(other)
    result = difference(made, other)
    assert result.tensors == (TensorChange("b", "float32 [4]", after),)
    assert result.same_tensors == 1


def test_one_flipped_bit_is_a_difference() -> None:
    array = weights(4, 8)
    array.view(np.uint32)[3, 7] ^= 1
    result = difference(graphs.plain(), changed(replaced("w", array)))
    assert [t.name for t in result.tensors] == ["w"]
    assert not result.identical


def test_encodings_of_numbers_are_no_difference(tmp_path: Path) -> None:
    """raw_data, float_data and a file beside the model hold the same."""
    as_list = changed(replaced("w", weights(4, 8)))
    tensor = as_list.graph.initializer[0]
    tensor.CopyFrom(helper.make_tensor("w", TensorProto.FLOAT, [4, 8], weights(4, 8).ravel()))
    external = graphs.plain()
    external_data_helper.convert_model_to_external_data(external, location="w.bin", size_threshold=0)
    onnx.save(external, tmp_path / "m.onnx")
    for other in (as_list, tmp_path / "m.onnx"):
        result = difference(graphs.plain(), other)
        assert (result.tensors, result.same_tensors) == ((), 2)
        assert not result.identical


def test_nan_and_the_sign_of_zero_count_bit_for_bit() -> None:
    nan = changed(replaced("b", np.full(4, np.nan, np.float32)))
    assert difference(nan, nan).same_tensors == 2
    zeros = [changed(replaced("b", np.full(4, z, np.float32))) for z in (0.0, -0.0)]
    assert len(difference(*zeros).tensors) == 1


def rename_input(made: onnx.ModelProto) -> None:
    made.graph.input[0].name = made.graph.node[0].input[0] = "image"


def retype_input(made: onnx.ModelProto) -> None:
    made.graph.input[0].name = "h"
    made.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    made.graph.node.insert(0, node("Cast", ["h"], ["x"], to=TensorProto.FLOAT))


def reshape_input(made: onnx.ModelProto) -> None:
    made.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


def add_input(made: onnx.ModelProto) -> None:
    made.graph.input.append(helper.make_tensor_value_info("extra", TensorProto.INT64, [1]))


X = GraphValue("x", "float32", ("N", 8))


@pytest.mark.parametrize(
    ("edit", "wanted"),
    [
        (rename_input, ((X, GraphValue("image", "float32", ("N", 8))),)),
        (retype_input, ((X, None), (None, GraphValue("h", "float16", ("N", 8))))),
        (reshape_input, ((X, GraphValue("x", "float32", (1, 8))),)),
        (add_input, ((None, GraphValue("extra", "int64", (1,))),)),
    ],
    ids=lambda v: getattr(v, "__name__", ""),
)
def test_changed_inputs_and_outputs_are_shown(edit: Edit, wanted: object) -> None:
    result = difference(graphs.plain(), changed(edit))
    assert result.inputs == wanted
    assert result.outputs == ()


def test_opsets_and_metadata_are_compared() -> None:
    def edit(made: onnx.ModelProto) -> None:
        made.opset_import[0].version = 18
        made.opset_import.append(helper.make_opsetid("com.microsoft", 1))
        helper.set_model_props(made, {"labels": "a", "same": "s", "qtool.mode": "static"})

    def before(made: onnx.ModelProto) -> None:
        helper.set_model_props(made, {"labels": "b", "same": "s"})

    result = difference(changed(before), changed(edit))
    assert result.opsets == {"": (17, 18), "com.microsoft": (None, 1)}
    assert result.metadata == {"labels": ("b", "a"), "qtool.mode": (None, "static")}


def test_constants_of_one_name_in_two_branches_are_distinct() -> None:
    from tests.graph.inspection.test_read import branches

    def named_alike(seed: int) -> onnx.ModelProto:
        made = branches()
        for attribute in made.graph.node[3].attribute:
            for inner in attribute.g.node:
                for names in (inner.input, inner.output):
                    for index, name in enumerate(names):
                        names[index] = "w" if name.startswith("w_") else name
        constant = made.graph.node[3].attribute[0].g.node[0]
        constant.attribute[0].t.CopyFrom(numpy_helper.from_array(weights(8, 4, seed=seed)))
        return made

    result = difference(named_alike(0), named_alike(1))
    assert [t.name for t in result.tensors] in (["w"], ["w#2"])
    assert result.same_tensors == 2


def test_an_invalid_model_is_named_in_either_place(tmp_path: Path) -> None:
    good = tmp_path / "good.onnx"
    onnx.save(graphs.plain(), good)
    for pair in ((good, tmp_path / "none"), (tmp_path / "none", good)):
        with pytest.raises(ModelError, match="does not exist"):
            difference(*pair)
