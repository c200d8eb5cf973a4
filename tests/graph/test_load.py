"""Whatever is handed over as a model: loaded, or refused in one plain line."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, external_data_helper, helper, numpy_helper

from qtool.errors import ModelError
from qtool.graph.load import from_model, from_proto, load, model_size
from qtool.runtime.session import Session
from tests.graphs import model, node, rng, weights


def net() -> onnx.ModelProto:
    return model(
        [node("MatMul", ["x", "w"], ["h"]), node("Relu", ["h"], ["y"])],
        {"x": (1, 4)},
        {"y": (1, 300)},
        {"w": weights(4, 300)},
    )


def refused(path: Path) -> ModelError:
    with pytest.raises(ModelError) as caught:
        load(path)
    return plain(caught.value)


def plain(error: ModelError) -> ModelError:
    """One line that is fit for a terminal, and the documented exit code."""
    assert error.exit_code == 3
    assert error.message
    assert error.message.isprintable()
    assert error.hint.isprintable()
    return error


def external(folder: Path, data_name: str = "w.bin") -> Path:
    """A model whose weights lie in a file beside it."""
    path = folder / "m.onnx"
    proto = net()
    external_data_helper.convert_model_to_external_data(proto, location=data_name, size_threshold=0)
    onnx.save(proto, path)
    return path


# Files that are no models


def lfs_pointer(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:" + "4d" * 32 + "\nsize 12345\n")


def truncated(path: Path) -> None:
    path.write_bytes(net().SerializeToString()[:-50])


def flipped(path: Path) -> None:
    data = bytearray(net().SerializeToString())
    data[10] ^= 0xFF
    path.write_bytes(data)


BROKEN: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: None,
    "directory": Path.mkdir,
    "empty": Path.touch,
    "truncated": truncated,
    "flipped-bit": flipped,
    "random-bytes": lambda path: path.write_bytes(rng(1).bytes(5000)),
    "more-random-bytes": lambda path: path.write_bytes(rng(2).bytes(50)),
    "one-byte": lambda path: path.write_bytes(b"\x08"),
    "zeros": lambda path: path.write_bytes(bytes(1000)),
    "text": lambda path: path.write_text("hello\n"),
    "html": lambda path: path.write_text("<!doctype html><title>404</title>"),
    "git-lfs-pointer": lfs_pointer,
    "fifo": os.mkfifo,
    "dangling-symlink": lambda path: path.symlink_to("nowhere.onnx"),
    "symlink-loop": lambda path: path.symlink_to(path.name),
    "no-graph": lambda path: path.write_bytes(onnx.ModelProto(ir_version=8).SerializeToString()),
}


@pytest.mark.parametrize("make", BROKEN.values(), ids=BROKEN.keys())
def test_a_file_that_is_no_model_is_refused_by_its_path(
    tmp_path: Path, make: Callable[[Path], object]
) -> None:
    path = tmp_path / "m.onnx"
    make(path)
    assert "m.onnx" in refused(path).message


@pytest.mark.parametrize("device", ["/dev/null", "/dev/zero"])
def test_a_device_is_no_model(device: str) -> None:
    assert "regular file" in refused(Path(device)).message


def test_a_missing_model_gets_a_hint_at_a_similar_name(tmp_path: Path) -> None:
    onnx.save(net(), tmp_path / "resnet50.onnx")
    assert "'resnet50.onnx'" in refused(tmp_path / "resnet5O.onnx").hint


def test_a_missing_folder_is_a_missing_model(tmp_path: Path) -> None:
    assert "does not exist" in refused(tmp_path / "no" / "such" / "m.onnx").message


def test_a_path_through_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "can't be read" in refused(tmp_path / "file" / "m.onnx").message


def test_a_path_with_a_null_byte_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "m\0.onnx")


def test_a_pointer_or_truncated_file_gets_the_hint_that_explains_it(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    for make in (lfs_pointer, truncated):
        make(path)
        error = refused(path)
        assert "git-lfs" in error.hint
        assert "bytes" in error.message


# Models that are broken


def checkless(proto: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(proto.SerializeToString())
    return path


def test_an_invalid_graph_is_called_invalid(tmp_path: Path) -> None:
    proto = net()
    proto.graph.node[1].op_type = "NoSuchOp"
    assert "invalid" in refused(checkless(proto, tmp_path / "m.onnx")).message


@pytest.mark.parametrize("word", ["sparse", "Parser", "parse_me"])
def test_an_invalid_model_that_says_parse_somewhere_is_not_taken_for_a_broken_file(
    tmp_path: Path, word: str
) -> None:
    proto = net()
    proto.graph.node[1].op_type = f"{word}Op"
    error = refused(checkless(proto, tmp_path / "m.onnx"))
    assert "invalid" in error.message
    assert "git-lfs" not in error.hint


def test_names_with_control_characters_do_not_reach_the_terminal(tmp_path: Path) -> None:
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


def branches(inner: onnx.GraphProto) -> onnx.ModelProto:
    """An If whose branches are both `inner`."""
    nodes = [node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("c", TensorProto.BOOL, [])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [10])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


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


def test_what_the_representation_lacks_is_refused_not_raised() -> None:
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


# External data


def test_external_data_is_loaded_and_counted(tmp_path: Path) -> None:
    path = external(tmp_path)
    source = load(path)
    assert source.size == path.stat().st_size + (tmp_path / "w.bin").stat().st_size == model_size(path)
    np.testing.assert_array_equal(source.model.graph.initializers["w"].const_value.numpy(), weights(4, 300))


def test_the_digest_covers_the_external_data(tmp_path: Path) -> None:
    path = external(tmp_path)
    before = load(path).sha256
    data = (tmp_path / "w.bin").read_bytes()
    assert before == hashlib.sha256(path.read_bytes() + data).hexdigest()
    (tmp_path / "w.bin").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert load(path).sha256 != before


def test_a_model_elsewhere_finds_its_external_data_whatever_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    external(tmp_path)
    monkeypatch.chdir(tmp_path)
    relative = load(Path("m.onnx"))
    monkeypatch.chdir("/")
    absolute = load(tmp_path / "m.onnx")
    assert relative.sha256 == absolute.sha256
    assert absolute.model.graph.initializers["w"].const_value.numpy().shape == (4, 300)


@pytest.mark.parametrize("data_name", ["sub/w.bin", "../w.bin", "/etc/hostname", "m.onnx/../w.bin"])
def test_external_data_is_read_from_below_the_models_folder_only(tmp_path: Path, data_name: str) -> None:
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    path = external(folder, "w.bin")
    shutil.copy(folder / "w.bin", tmp_path / "w.bin")
    shutil.copy(folder / "w.bin", folder / "sub" / "w.bin")
    proto = onnx.load(path, load_external_data=False)
    for entry in proto.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = data_name
    checkless(proto, path)
    if data_name == "sub/w.bin":
        assert load(path).model.graph.initializers["w"].const_value.numpy().size == 1200
    else:
        refused(path)


def test_missing_external_data_is_refused_by_its_name(tmp_path: Path) -> None:
    path = external(tmp_path)
    (tmp_path / "w.bin").unlink()
    assert "w.bin" in refused(path).message


def test_missing_external_data_in_a_folder_named_parse_is_not_taken_for_a_broken_file(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "parser"
    folder.mkdir()
    path = external(folder)
    (folder / "w.bin").unlink()
    assert "does not parse" not in refused(path).message


def test_external_data_that_is_too_short_is_refused(tmp_path: Path) -> None:
    path = external(tmp_path)
    (tmp_path / "w.bin").write_bytes(b"short")
    refused(path)


@pytest.mark.parametrize(
    "entries",
    [
        {"offset": "-1"},
        {"offset": "abc"},
        {"offset": "²"},
        {"offset": "9" * 5000},
        {"offset": "4", "length": "4800"},
        {"length": "4"},
        {"length": "5000"},
        {"length": "-4800"},
        {"offset": "4"},
    ],
    ids=lambda e: str(e)[:30],
)
def test_external_data_of_another_extent_than_the_tensor_is_refused(
    tmp_path: Path, entries: dict[str, str]
) -> None:
    path = external(tmp_path)
    proto = onnx.load(path, load_external_data=False)
    tensor = proto.graph.initializer[0]
    del tensor.external_data[:]
    for key, value in {"location": "w.bin", **entries}.items():
        tensor.external_data.add(key=key, value=value)
    refused(checkless(proto, path))


def test_external_data_that_is_the_whole_file_needs_no_extent(tmp_path: Path) -> None:
    path = external(tmp_path)
    proto = onnx.load(path, load_external_data=False)
    tensor = proto.graph.initializer[0]
    del tensor.external_data[:]
    tensor.external_data.add(key="location", value="w.bin")
    source = load(checkless(proto, path))
    np.testing.assert_array_equal(source.model.graph.initializers["w"].const_value.numpy(), weights(4, 300))


@pytest.mark.parametrize("link", ["symlink_to", "hardlink_to"])
def test_external_data_through_a_link_out_of_the_folder_is_refused(tmp_path: Path, link: str) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    path = external(folder)
    (folder / "w.bin").rename(tmp_path / "real.bin")
    getattr(folder / "w.bin", link)(tmp_path / "real.bin")
    refused(path)


def test_external_data_of_a_branch_counts_too(tmp_path: Path) -> None:
    inner = helper.make_graph(
        [node("Identity", ["w"], ["o"])],
        "b",
        [],
        [helper.make_tensor_value_info("o", TensorProto.FLOAT, [10])],
        [numpy_helper.from_array(np.arange(10, dtype=np.float32), "w")],
    )
    proto = branches(inner)
    for attribute in proto.graph.node[0].attribute:
        tensor = attribute.g.initializer[0]
        raw = tensor.raw_data
        external_data_helper.set_external_data(tensor, "w.bin", 0, len(raw))
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
    (tmp_path / "w.bin").write_bytes(np.arange(10, dtype=np.float32).tobytes())
    path = checkless(proto, tmp_path / "m.onnx")
    source = load(path)
    assert source.size == path.stat().st_size + 40
    inner_graphs = list(source.model.graph.subgraphs())
    assert len(inner_graphs) == 2
    for graph in inner_graphs:
        np.testing.assert_array_equal(graph.initializers["w"].const_value.numpy(), np.arange(10))


@pytest.mark.parametrize(
    "entries",
    [
        {"location": "w.bin\0"},
        {"location": "w\x1b.bin"},
        {"location": "C:\\w.bin"},
        {"location": "..\\w.bin"},
        {"location": "*/_ORT_MEM_ADDR_/*"},
        {"location": "."},
        {"location": "w.bin/"},
        {"location": "w" * 5000},
    ],
    ids=lambda e: repr(e["location"])[:30],
)
def test_external_data_by_a_strange_name_is_refused_or_found(tmp_path: Path, entries: dict[str, str]) -> None:
    path = external(tmp_path)
    proto = onnx.load(path, load_external_data=False)
    tensor = proto.graph.initializer[0]
    del tensor.external_data[:]
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    checkless(proto, path)
    if entries["location"] != "w.bin/":
        refused(path)


def test_external_data_with_two_places_is_refused(tmp_path: Path) -> None:
    path = external(tmp_path)
    proto = onnx.load(path, load_external_data=False)
    proto.graph.initializer[0].external_data.add(key="location", value="other.bin")
    assert "twice" in refused(checkless(proto, path)).message


def test_external_data_of_a_model_in_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the working folder happens to have it: a model in memory has no folder."""
    proto = onnx.load(external(tmp_path), load_external_data=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="not loaded"):
        from_model(proto)


def test_external_data_through_a_linked_folder_is_refused(tmp_path: Path) -> None:
    path = external(tmp_path)
    (tmp_path / "real").mkdir()
    (tmp_path / "w.bin").rename(tmp_path / "real" / "w.bin")
    (tmp_path / "sub").symlink_to("real")
    proto = onnx.load(path, load_external_data=False)
    next(e for e in proto.graph.initializer[0].external_data if e.key == "location").value = "sub/w.bin"
    assert "symbolic link" in refused(checkless(proto, path)).message


# Anything at all


def in_a_fork(work: Callable[[], None]) -> int:
    """The status of a child that does it: a native crash is one of its own, and not of the tests'."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="crashes must stay in a child")
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.integers(0, 5300), st.integers(0, 30), st.binary(max_size=8)), min_size=1, max_size=5
    )
)
def test_a_damaged_model_loads_or_is_refused(tmp_path: Path, cuts: list[tuple[int, int, bytes]]) -> None:
    """Nothing else: no other exception, no crash."""
    data = net().SerializeToString()
    for at, size, put in cuts:
        data = data[:at] + put + data[at + size :]
    path = tmp_path / "m.onnx"
    path.write_bytes(data)

    def attempt() -> None:
        try:
            load(path)
        except ModelError as error:
            plain(error)

    assert in_a_fork(attempt) == 0


# What loads


@pytest.mark.parametrize(
    "name", ["m.onnx", "m", "m.pb", "m.json", "m.txt", "m.onnxtxt", "mit leer.onnx", "é.onnx"]
)
def test_a_model_loads_whatever_its_file_is_called(tmp_path: Path, name: str) -> None:
    path = checkless(net(), tmp_path / name)
    source = load(path)
    assert source.path == source.loadable == path
    assert source.name == str(path)
    assert source.size == path.stat().st_size == model_size(path)
    assert source.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_symlink_to_a_model_is_a_model(tmp_path: Path) -> None:
    onnx.save(net(), tmp_path / "real.onnx")
    (tmp_path / "m.onnx").symlink_to("real.onnx")
    assert load(tmp_path / "m.onnx").sha256 == load(tmp_path / "real.onnx").sha256


def test_loading_leaves_the_file_and_its_folder_alone(tmp_path: Path) -> None:
    path = external(tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    load(path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_model_in_memory_is_a_source_that_a_session_opens() -> None:
    proto = net()
    before = proto.SerializeToString(deterministic=True)
    source = from_model(proto)
    assert (source.path, source.name, source.size) == (None, "model", len(before))
    assert source.sha256 == hashlib.sha256(before).hexdigest()
    assert Session(source.loadable).outputs == ["y"]
    assert proto.SerializeToString(deterministic=True) == before


def test_a_broken_model_in_memory_is_refused() -> None:
    proto = net()
    proto.graph.node[1].op_type = "No\x1bSuchOp"
    with pytest.raises(ModelError) as caught:
        from_model(proto)
    plain(caught.value)


def test_a_loaded_model_says_what_the_file_said(tmp_path: Path) -> None:
    proto = net()
    proto.metadata_props.add(key="k", value="v")
    proto.producer_name = "someone"
    source = load(checkless(proto, tmp_path / "m.onnx"))
    reloaded = ir.to_proto(source.model)
    assert reloaded.metadata_props[0].key == "k"
    assert reloaded.producer_name == "someone"
    assert [n.name for n in reloaded.graph.node] == [n.name for n in proto.graph.node]
