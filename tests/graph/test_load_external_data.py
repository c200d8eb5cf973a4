"""Weights in files beside the model: read from below its folder only, in the extent that the tensor needs."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, external_data_helper, helper, numpy_helper

from qtool.errors import ModelError
from qtool.graph.load import from_model, load, model_size
from tests.graph.model_files import branches, checkless, external, refused
from tests.graphs import node, weights


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


def test_external_data_does_not_depend_on_the_working_folder(
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
