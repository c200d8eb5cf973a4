"""Inspections of small models of every kind, counted by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, external_data_helper, helper

from qtool.errors import ModelError
from qtool.graph.inspection.dtypes import infer_dtypes
from qtool.graph.inspection.model import GraphValue, Inspection, OpCount, Tensors
from qtool.graph.inspection.read import inspect_model
from qtool.graph.inspection.walk import walk
from qtool.graph.load import from_proto
from tests.graph.inspection import graphs
from tests.graph.inspection.graphs import QUANTIZED
from tests.graphs import ROOT, SAMPLE_MODELS, SHARED_MODELS, model, node, weights

# What each graph computes in, its forms, nodes on stored weights, weights (elements by type) and share.
INSPECTIONS: dict[str, tuple[dict[str, int], tuple[str, ...], int, dict[str, int], float]] = {
    "qdq": ({"int8": 2, "float32": 1, "convert": 6}, ("qdq",), 0, {"int8": 32, "int32": 4}, 32 / 36),
    "qoperator": ({"int8": 3, "convert": 2}, ("qoperator",), 0, {"int8": 32, "int32": 4, "uint8": 4}, 36 / 40),
    "dynamic": ({"int8": 1, "float32": 3, "convert": 2}, ("dynamic",), 0, {"int8": 32, "float32": 4}, 32 / 36),
    "sums": ({"int8": 1, "float32": 1, "convert": 2, "other": 1}, ("qoperator",), 0, {"int8": 32, "int32": 4}, 32 / 36),
    "lookup": ({"float32": 2, "convert": 1, "other": 1}, ("weight-only",), 1, {"int8": 800}, 1),
    "stored": ({"float32": 1, "convert": 1, "constant": 2}, ("weight-only",), 1, {"int8": 32}, 1),
    "weight_only": ({"float32": 1, "convert": 1, "constant": 1}, ("weight-only",), 1, {"int8": 32}, 1),
    "blocks_of_4_bits": ({"float32": 2}, ("weight-only",), 1, {"uint4": 160}, 1),
    "embedding": ({"float32": 1, "convert": 1, "other": 1}, ("weight-only",), 1, {"int8": 800}, 1),
    "lstm": ({"int8": 1}, ("dynamic",), 0, {"int8": 192, "float32": 32}, 192 / 224),
    "half": ({"float16": 2, "convert": 2}, ("float16",), 0, {"float16": 32}, 0),
}  # fmt: skip


@pytest.mark.parametrize("name", QUANTIZED)
def test_every_form_of_quantization_is_recognized(name: str) -> None:
    inspection = inspect_model(QUANTIZED[name]())
    computes, forms, stored, elements, share = INSPECTIONS[name]
    assert inspection.computes == computes
    assert inspection.forms == forms
    assert inspection.stored == stored
    assert {dtype: w.elements for dtype, w in inspection.weights.items()} == elements
    assert inspection.parameters == sum(elements.values())
    assert inspection.quantized_share == pytest.approx(share)


def test_a_float_model_is_not_quantized() -> None:
    inspection = inspect_model(graphs.plain())
    assert inspection.ops == {"Gemm": OpCount(1, {"float32": 1}), "Relu": OpCount(1, {"float32": 1})}
    assert inspection.weights == {"float32": Tensors(32, tensors=2, elements=36, bytes=144)}
    assert (inspection.quantized_share, inspection.half_share, inspection.forms, inspection.stored) == (
        0,
        0,
        (),
        0,
    )


def test_half_precision_has_its_own_share() -> None:
    assert inspect_model(graphs.half()).half_share == 1


def test_the_interface_has_names_types_and_symbolic_shapes() -> None:
    inspection = inspect_model(graphs.plain())
    assert inspection.inputs == (GraphValue("x", "float32", ("N", 8)),)
    assert inspection.outputs == (GraphValue("y", "float32", ("N", 4)),)


def test_a_sequence_type_names_its_elements() -> None:
    made = model(
        [node("SplitToSequence", ["x"], ["s"]), node("SequenceLength", ["s"], ["n"])], {"x": [4, 2]}, {}
    )
    made.graph.output.append(helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, [1, 2]))
    made.graph.output.append(helper.make_tensor_value_info("n", TensorProto.INT64, []))
    inspection = inspect_model(made)
    assert [(p.dtype, p.shape) for p in inspection.outputs] == [("sequence(float32)", (1, 2)), ("int64", ())]
    assert inspection.computes == {"float32": 1, "other": 1}


def test_an_initializer_that_is_an_input_too_is_a_weight_and_no_input() -> None:
    """IR 3 wants it so."""
    made = graphs.plain()
    made.ir_version = 3
    made.opset_import[0].version = 8
    for name, shape in (("w", [4, 8]), ("b", [4])):
        made.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    inspection = inspect_model(made)
    assert [p.name for p in inspection.inputs] == ["x"]
    assert inspection.parameters == 36


def test_metadata_and_recipe_are_shown() -> None:
    made = graphs.plain()
    helper.set_model_props(made, {"qtool.version": "1", "qtool.mode": "static", "labels": "a,b"})
    made.producer_name, made.producer_version = "maker", "2.0"
    inspection = inspect_model(made)
    assert inspection.recipe == {"mode": "static", "version": "1"}
    assert inspection.metadata["labels"] == "a,b"
    assert (inspection.producer, inspection.ir_version, inspection.opsets) == ("maker 2.0", 8, {"": 17})


def branches() -> onnx.ModelProto:
    """An If whose branches multiply by Constants of their own; no initializers at all."""

    def branch(name: str) -> onnx.GraphProto:
        return helper.make_graph(
            [
                node("Constant", [], [f"w_{name}"], value=onnx.numpy_helper.from_array(weights(8, 4))),
                node("MatMul", ["x", f"w_{name}"], [f"y_{name}"]),
            ],
            name,
            [],
            [helper.make_tensor_value_info(f"y_{name}", TensorProto.FLOAT, None)],
        )

    graph = helper.make_graph(
        [
            node("Shape", ["x"], ["n"]),
            node("Gather", ["n", "zero"], ["rows"]),
            node("Greater", ["rows", "zero"], ["c"]),
            node("If", ["c"], ["y"], then_branch=branch("a"), else_branch=branch("b")),
            node("Relu", ["y"], ["z"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 8])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [2, 4])],
        [onnx.numpy_helper.from_array(np.array(0), "zero")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_nested_graphs_and_their_constants_are_counted() -> None:
    inspection = inspect_model(branches())
    assert inspection.graphs == 2
    assert inspection.ops["MatMul"] == OpCount(2, {"float32": 2})
    assert inspection.ops["Relu"].computes == {"float32": 1}, "behind an If, whose type its branches tell"
    assert inspection.ops["If"].computes == {"other": 1}
    assert inspection.weights == {"float32": Tensors(32, tensors=2, elements=64, bytes=256)}
    assert inspection.computes == {"float32": 3, "constant": 2, "other": 4}


def called(times: int = 2) -> onnx.ModelProto:
    """A function with a Gemm in it, called more than once."""
    body = helper.make_function(
        "local", "Dense", ["a", "w"], ["o"],
        [node("MatMul", ["a", "w"], ["m"]), node("Relu", ["m"], ["o"])],
        [helper.make_opsetid("", 17)],
    )  # fmt: skip
    nodes = [
        node("Dense", ["x" if i == 0 else f"h{i}", "w"], [f"h{i + 1}"], domain="local") for i in range(times)
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4])],
        [helper.make_tensor_value_info(f"h{times}", TensorProto.FLOAT, [2, 4])],
        [onnx.numpy_helper.from_array(weights(4, 4), "w")],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    return helper.make_model(graph, opset_imports=opsets, functions=[body], ir_version=8)


def test_a_function_is_looked_into_once() -> None:
    inspection = inspect_model(called(3))
    assert inspection.functions == 1
    assert inspection.ops["local::Dense"] == OpCount(3, {"other": 3})
    assert inspection.ops["MatMul"] == OpCount(1, {"float32": 1})
    assert inspection.parameters == 16


def test_functions_that_call_functions_do_not_multiply() -> None:
    """Three levels of ten calls each are three bodies. (With nine, 'billion laughs', it is not loaded.)"""
    made = called(1)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    for level in range(3):
        inner = "Dense" if level == 0 else f"F{level - 1}"
        nodes = [
            node(inner, ["a" if i == 0 else f"t{i}", "w"], [f"t{i + 1}"], domain="local") for i in range(10)
        ]
        made.functions.append(helper.make_function("local", f"F{level}", ["a", "w"], ["t10"], nodes, opsets))
    made.graph.node[0].op_type = "F2"
    inspection = inspect_model(made)
    assert inspection.nodes == 1 + 3 * 10 + 2
    assert inspection.ops["Relu"].computes == {"float32": 1}, "its type comes through all the calls"


def test_external_data_is_counted_and_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = graphs.plain()
    external_data_helper.convert_model_to_external_data(made, location="w.bin", size_threshold=0)
    onnx.save(made, tmp_path / "m.onnx")

    def refuse(self: ir.ExternalTensor) -> None:
        raise AssertionError("read")

    monkeypatch.setattr(ir.ExternalTensor, "_load", refuse)
    inspection = inspect_model(tmp_path / "m.onnx")
    assert inspection.external == {"w.bin": (tmp_path / "w.bin").stat().st_size}
    assert inspection.bytes == sum(f.stat().st_size for f in tmp_path.iterdir())
    assert inspection.weights["float32"].bytes == 144


def test_a_model_in_memory_is_called_model() -> None:
    inspection = inspect_model(graphs.plain())
    assert (inspection.path, inspection.external) == ("model", {})
    assert inspection.bytes == len(graphs.plain().SerializeToString())


@pytest.mark.parametrize("content", [b"", b"no model", graphs.plain().SerializeToString()[:-40]])
def test_what_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError):
        inspect_model(path)
    with pytest.raises(ModelError):
        inspect_model(tmp_path / "missing.onnx")


def test_ops_come_commonest_first_and_formats_narrowest_first() -> None:
    inspection = inspect_model(graphs.qdq())
    assert list(inspection.ops)[:2] == ["DequantizeLinear", "QuantizeLinear"]
    assert list(inspection.computes) == ["int8", "float32", "convert"]


MODELS = sorted([*SHARED_MODELS.glob("*/model.onnx"), *SAMPLE_MODELS.glob("*/model.onnx")])


@pytest.mark.parametrize("path", MODELS, ids=[p.parent.name for p in MODELS])
def test_real_models_add_up(path: Path) -> None:
    """Every node is in one kind; every constant is a weight or not; the weights fill most of the file."""
    inspection: Inspection = inspect_model(path)
    assert inspection.nodes == sum(inspection.computes.values())
    assert inspection.computes["float32"] > 0
    assert inspection.quantized_share == 0
    assert inspection.forms == ()
    assert 0.8 * inspection.bytes < inspection.weights["float32"].bytes < inspection.bytes
    assert inspection.weights.keys() == {"float32"}


def chain(depth: int) -> onnx.ModelProto:
    """A function that calls a function that calls a function .."""
    made = called(1)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    for level in range(depth):
        inner = "Dense" if level == 0 else f"F{level - 1}"
        nodes = [node(inner, ["a", "w"], ["o"], domain="local")]
        made.functions.append(helper.make_function("local", f"F{level}", ["a", "w"], ["o"], nodes, opsets))
    made.graph.node[0].op_type = f"F{depth - 1}"
    return made


def test_functions_may_be_nested_deeper_than_python_recurses() -> None:
    """Newer versions of onnx's checker refuse that; qtool does not depend on them there."""
    made = from_proto(chain(2000))
    walked = walk(made)
    assert len(walked.nodes) == 2000 + 3
    assert infer_dtypes(made, walked).of(walked.nodes[0].outputs[0]) == ir.DataType.FLOAT


def test_attributes_that_a_function_gets_from_its_caller_are_unknown_here() -> None:
    made = called(1)
    del made.functions[:]
    to = onnx.AttributeProto(name="to", ref_attr_name="kind", type=onnx.AttributeProto.INT)
    value = onnx.AttributeProto(name="value", ref_attr_name="weight", type=onnx.AttributeProto.TENSOR)
    cast, constant = node("Cast", ["m"], ["o"]), node("Constant", [], ["k"])
    cast.attribute.append(to)
    constant.attribute.append(value)
    nodes = [constant, node("MatMul", ["a", "w"], ["n"]), node("Mul", ["n", "k"], ["m"]), cast]
    opsets = [helper.make_opsetid("", 17)]
    made.functions.append(
        helper.make_function("local", "Dense", ["a", "w"], ["o"], nodes, opsets, ["kind", "weight"])
    )
    call = made.graph.node[0]
    call.attribute.append(helper.make_attribute("kind", 1))
    call.attribute.append(helper.make_attribute("weight", onnx.numpy_helper.from_array(weights(4))))
    inspection = inspect_model(made)
    assert inspection.ops["MatMul"].computes == {"float32": 1}
    assert inspection.ops["Constant"].computes == {"constant": 1}


FIXTURES = ROOT / "tests/rewrite/fixtures"


def test_it_lists_what_lacks_a_scale_in_a_model_of_another_tool() -> None:
    missing = inspect_model(FIXTURES / "pytorch-x86.onnx").missing
    assert [(m.value, m.made_by, m.read_by) for m in missing] == [
        ("conv2d_1", "Conv node_conv2d_1", ("Add node_add",)),
        ("relu_2", "Relu node_relu_2", ("ReduceMean node_mean",)),
    ]


def test_a_weight_without_a_scale_is_missing_too() -> None:
    made = graphs.qdq()
    conv = next(n for n in made.graph.node if n.op_type == "Conv")
    conv.input[1] = "plain"
    made.graph.initializer.append(onnx.numpy_helper.from_array(weights(4, 8, 1, 1), "plain"))
    assert [(m.value, m.made_by) for m in inspect_model(made).missing if m.value == "plain"] == [
        ("plain", "")
    ]


@pytest.mark.parametrize("name", ["pytorch-xnnpack", "tensorflow"])
def test_nothing_is_missing_where_all_is_quantized(name: str) -> None:
    assert inspect_model(FIXTURES / f"{name}.onnx").missing == ()
