"""Models that the full check refuses and the runtime accepts are repaired; others are not touched."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from qtool.errors import ModelError
from qtool.graph.load import from_model
from qtool.runtime.session import Session
from tests.graph.prepare.alike import assert_alike
from tests.graphs import model, node, samples, weights


def net() -> onnx.ModelProto:
    return model(
        [node("Conv", ["x", "w"], ["c"]), node("Relu", ["c"], ["y"])],
        {"x": (1, 2, 4, 4)},
        {"y": (1, 3, 4, 4)},
        {"w": weights(3, 2, 1, 1)},
    )


def shape(value: onnx.ValueInfoProto) -> onnx.TensorShapeProto:
    return value.type.tensor_type.shape


def stale_output(proto: onnx.ModelProto) -> None:
    shape(proto.graph.output[0]).dim[1].dim_value = 17


def stale_inner(proto: onnx.ModelProto) -> None:
    proto.graph.value_info.append(helper.make_tensor_value_info("c", TensorProto.FLOAT, [2, 2]))


def no_input_shape(proto: onnx.ModelProto) -> None:
    proto.graph.input[0].type.tensor_type.ClearField("shape")


def no_output_shape(proto: onnx.ModelProto) -> None:
    proto.graph.output[0].type.tensor_type.ClearField("shape")


def negative(proto: onnx.ModelProto) -> None:
    shape(proto.graph.input[0]).dim[0].dim_value = -1


def no_import(proto: onnx.ModelProto) -> None:
    proto.graph.node[1].CopyFrom(node("Gelu", ["c"], ["y"], domain="com.microsoft"))


def old_version(proto: onnx.ModelProto) -> None:
    """As onnxruntime's quantizer leaves it: an initializer that is no input."""
    proto.ir_version = 3


EDITS = (stale_output, stale_inner, no_input_shape, no_output_shape, negative, no_import, old_version)


@pytest.mark.parametrize("second", EDITS, ids=lambda e: e.__name__)
@pytest.mark.parametrize("first", EDITS, ids=lambda e: e.__name__)
def test_any_two_are_mended_together(
    first: Callable[[onnx.ModelProto], None], second: Callable[[onnx.ModelProto], None]
) -> None:
    proto = net()
    try:
        for edit in (first, second):
            edit(proto)
    except IndexError:
        return  # there is no shape left to be stale
    before = proto.SerializeToString(deterministic=True)
    Session(before)  # the runtime takes it
    source = from_model(proto)
    assert source.warnings
    assert len(set(source.warnings)) == len(source.warnings)
    assert proto.SerializeToString(deterministic=True) == before
    if no_import in (first, second) or {first, second} == {no_input_shape, stale_output}:
        return  # onnx infers nothing through an op of another domain; two wrongs tell no number of axes
    for value in (*source.model.graph.inputs, *source.model.graph.outputs):
        assert value.shape is not None
        assert len(value.shape) == 4
    if no_input_shape not in (first, second):
        assert list(source.model.graph.outputs[0].shape or ())[1:] == [3, 4, 4]


def test_valid_models_are_not_repaired() -> None:
    source = from_model(net())
    assert source.warnings == ()
    assert source.model.graph.outputs[0].shape == [1, 3, 4, 4]


def test_a_free_output_is_not_overruled_by_a_name() -> None:
    """A recorded size that inference does not know contradicts nothing."""
    proto = model(
        [node("Reshape", ["x", "s"], ["r"]), node("Relu", ["r"], ["y"])],
        {"x": ("n",), "s": (2,)},
        {"y": (3, 4)},
        {},
    )
    proto.graph.input[1].type.tensor_type.elem_type = TensorProto.INT64
    stale_inner(proto)
    proto.graph.value_info[0].name = "r"
    source = from_model(proto)
    assert source.model.graph.outputs[0].shape == [3, 4]


def test_axes_that_the_model_does_not_tell_stay_unknown() -> None:
    proto = model([node("Relu", ["x"], ["y"])], {"x": (1, 2)}, {"y": (1, 2)})
    for value in (proto.graph.input[0], proto.graph.output[0]):
        value.type.tensor_type.ClearField("shape")
    source = from_model(proto)
    assert source.model.graph.inputs[0].shape is None
    assert source.warnings == ("input 'x' has no shape", "output 'y' has no shape")


def test_an_initializer_of_any_size_may_be_there() -> None:
    proto = model(
        [node("Add", ["x", "w"], ["y"])], {"x": (1, 600)}, {"y": (1, 600)}, {"w": np.ones(600, np.float32)}
    )
    stale_output(proto)
    assert from_model(proto).model.graph.outputs[0].shape == [1, 600]


def test_a_stale_branch_is_mended() -> None:
    def branch(name: str) -> onnx.GraphProto:
        out = helper.make_tensor_value_info(name, TensorProto.FLOAT, [9])
        return helper.make_graph([node("Relu", ["x"], [name])], name, [], [out])

    proto = model([node("Relu", ["x"], ["y"])], {"x": (1, 4)}, {"y": (1, 4)}, {"c": np.bool_(True)})
    proto.graph.node[0].CopyFrom(node("If", ["c"], ["y"], then_branch=branch("a"), else_branch=branch("b")))
    Session(proto.SerializeToString())
    assert "inner values" in from_model(proto).warnings[0]


@pytest.mark.parametrize(
    "edit",
    [
        lambda p: p.graph.node[0].input.pop(),
        lambda p: p.graph.node[1].attribute.append(helper.make_attribute("no", 1)),
        lambda p: setattr(p.graph.input[0].type.tensor_type, "elem_type", TensorProto.INT8),
        lambda p: setattr(p.graph.output[0].type.tensor_type, "elem_type", TensorProto.INT8),
        lambda p: p.ClearField("opset_import"),
        lambda p: setattr(p.graph.node[1], "domain", "nobody.knows"),
        lambda p: p.graph.input.pop(),
    ],
)
def test_invalid_models_are_refused(edit: Callable[[onnx.ModelProto], object]) -> None:
    proto = net()
    edit(proto)
    stale_inner(proto)
    with pytest.raises(ModelError, match="invalid") as caught:
        from_model(proto)
    assert caught.value.message.isprintable()


def group_norm(result: str = "y", opset: int = 18) -> onnx.ModelProto:
    """One scale and bias a group, as until opset 20; in a branch where `result` is not the output."""
    norm = node("GroupNormalization", ["x", "g", "b"], [result], num_groups=2, epsilon=0.1)
    constants = {"g": weights(2) + 1, "b": weights(2, seed=1)}
    proto = model(
        [node("Relu", ["x"], ["y"])], {"x": ("n", 4, 3, 3)}, {"y": ("n", 4, 3, 3)}, constants, opset=opset
    )
    if result == "y":
        proto.graph.node[0].CopyFrom(norm)
    else:
        out = helper.make_tensor_value_info(result, TensorProto.FLOAT, ["n", 4, 3, 3])
        branch = helper.make_graph([norm], "branch", [], [out])
        other = helper.make_graph([node("Relu", ["x"], ["other"])], "other", [], [out])
        other.output[0].name = "other"
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.bool_(True), "c"))
        proto.graph.node[0].CopyFrom(node("If", ["c"], ["y"], then_branch=branch, else_branch=other))
    return proto


@pytest.mark.parametrize("opset", [18, 20])
@pytest.mark.parametrize("result", ["y", "inner"])
def test_a_deprecated_group_norm_is_written_out_with_the_same_result(result: str, opset: int) -> None:
    proto = group_norm(result, opset)
    source = from_model(proto)
    assert "GroupNormalization" in source.warnings[0]
    assert_alike(proto, source.model, samples(2, x=(2, 4, 3, 3)))


def test_a_group_norm_of_a_later_opset_stays() -> None:
    proto = model(
        [node("GroupNormalization", ["x", "g", "b"], ["y"], num_groups=2)],
        {"x": ("n", 4, 3, 3)},
        ["y"],
        {"g": weights(4), "b": weights(4)},
        opset=21,
        ir_version=10,
    )
    source = from_model(proto)
    assert source.warnings == ()
    assert [n.op_type for n in source.model.graph] == ["GroupNormalization"]


@pytest.mark.parametrize("opset", [17, 21])
def test_a_norm_of_onnxruntime_without_a_domain_is_written_out_with_the_same_result(opset: int) -> None:
    """As the model builder of onnxruntime-genai writes it."""
    norm = helper.make_node(
        "SimplifiedLayerNormalization", ["x", "g"], ["y"], epsilon=0.1, axis=-1, stash_type=1
    )
    proto = model(
        [node("Relu", ["x"], ["y"])], {"x": (2, 3, 8)}, {"y": (2, 3, 8)}, {"g": weights(8)}, opset=opset
    )
    proto.graph.node[0].CopyFrom(norm)
    source = from_model(proto)
    assert "SimplifiedLayerNormalization" in source.warnings[0]
    assert_alike(proto, source.model, samples(2, x=(2, 3, 8)))
    del proto.graph.node[0].input[1]
    with pytest.raises(ModelError, match="No Op registered for SimplifiedLayerNormalization"):
        from_model(proto)
