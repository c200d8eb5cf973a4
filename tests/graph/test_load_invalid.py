"""Files that parse, but hold an invalid model, or one with parts that are not supported: refused plainly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qtool.errors import ModelError
from qtool.graph.load import from_proto, load
from tests.graph.model_files import branches, checkless, net, plain, refused
from tests.graphs import node


def test_an_invalid_graph_is_called_invalid(tmp_path: Path) -> None:
    proto = net()
    proto.graph.node[1].op_type = "NoSuchOp"
    assert "invalid" in refused(checkless(proto, tmp_path / "m.onnx")).message


@pytest.mark.parametrize("word", ["sparse", "Parser", "parse_me"])
def test_an_invalid_model_is_not_reported_as_unreadable(tmp_path: Path, word: str) -> None:
    proto = net()
    proto.graph.node[1].op_type = f"{word}Op"
    error = refused(checkless(proto, tmp_path / "m.onnx"))
    assert "invalid" in error.message
    assert "truncated" not in error.hint


def test_control_characters_in_names_are_escaped(tmp_path: Path) -> None:
    proto = net()
    proto.graph.node[1].name = "evil\x1b[2J\n\rnode"
    proto.graph.node[1].op_type = "No\x1b[31mSuchOp"
    refused(checkless(proto, tmp_path / "m.onnx"))


@pytest.mark.parametrize("name", [b"tiny", b"Relu_y", b"h"], ids=["graph", "node", "value"])
def test_a_name_in_broken_utf8_loads_or_is_refused(tmp_path: Path, name: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(net().SerializeToString().replace(name, b"\xff" * len(name)))
    try:
        load(path)
    except ModelError as error:
        plain(error)


def test_a_cycle_is_refused(tmp_path: Path) -> None:
    proto = net()
    proto.graph.node[0].input[0] = "y"
    refused(checkless(proto, tmp_path / "m.onnx"))


def test_a_sparse_initializer_is_refused_plainly(tmp_path: Path) -> None:
    proto = net()
    values = numpy_helper.from_array(np.ones(2, np.float32), "s")
    indices = numpy_helper.from_array(np.array([1, 5], np.int64), "s_indices")
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [10]))
    error = refused(checkless(proto, tmp_path / "m.onnx"))
    assert "sparse" in error.message
    assert "dense" in error.hint


def test_a_sparse_initializer_in_a_branch_is_refused_plainly(tmp_path: Path) -> None:
    inner = helper.make_graph(
        [node("Identity", ["s"], ["o"])],
        "b",
        [],
        [helper.make_tensor_value_info("o", TensorProto.FLOAT, [10])],
    )
    values = numpy_helper.from_array(np.ones(2, np.float32), "s")
    indices = numpy_helper.from_array(np.array([1, 5], np.int64), "s_indices")
    inner.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [10]))
    assert "sparse" in refused(checkless(branches(inner), tmp_path / "m.onnx")).message


def test_training_info_is_refused_plainly(tmp_path: Path) -> None:
    proto = net()
    proto.training_info.add()
    assert "training" in refused(checkless(proto, tmp_path / "m.onnx")).message


def zipmap() -> onnx.ModelProto:
    """A classifier as skl2onnx exports it: its probabilities are a sequence of maps."""
    graph = helper.make_graph(
        [helper.make_node("ZipMap", ["x"], ["y"], domain="ai.onnx.ml", classlabels_int64s=[0, 1])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2])],
        [
            helper.make_value_info(
                "y",
                helper.make_sequence_type_proto(
                    helper.make_map_type_proto(
                        TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, [])
                    )
                ),
            )
        ],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def test_a_map_output_is_refused_plainly(tmp_path: Path) -> None:
    error = refused(checkless(zipmap(), tmp_path / "m.onnx"))
    assert "'y'" in error.message
    assert "map" in error.message
    assert "zipmap" in error.hint


def test_unsupported_fields_are_model_errors() -> None:
    proto = net()
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(np.ones(1, np.float32), "v"),
        numpy_helper.from_array(np.array([1], np.int64), "i"),
        [3],
    )
    proto.graph.node.insert(0, helper.make_node("Constant", [], ["k"], sparse_value=sparse))
    try:
        from_proto(proto)
    except ModelError as error:
        plain(error)
