"""Models, samples and outputs behind URLs, in the memory of this process."""

from __future__ import annotations

from pathlib import Path

import fsspec
import numpy as np
import onnx
import pytest
from fsspec.registry import known_implementations

from qtool.commands.folder_files import unneeded
from qtool.errors import DataError, EnvironmentFailure, ModelError
from qtool.graph.load import load
from qtool.graph.remote import fetch, one_in_other, placeholders, public, upload
from tests.graph.model_files import branches
from tests.graphs import model, node, weights


def put(url: str, data: bytes) -> None:
    with fsspec.open(url, "wb") as stream:
        stream.write(data)


def names_at(folder: str) -> set[str]:
    return {path.removeprefix(f"{folder}/") for path in fsspec.filesystem("memory").find(folder)}


def test_a_model_travels_with_its_external_data(tmp_path: Path) -> None:
    made = model([node("MatMul", ["x", "w"], ["y"])], {"x": (2, 32)}, {"y": (2, 32)}, {"w": weights(32, 32)})
    (tmp_path / "own").mkdir()
    file = tmp_path / "own" / "m.onnx"
    onnx.save(made, file, save_as_external_data=True, location="m.data", size_threshold=0)
    upload(file, "memory://a/out.onnx")
    assert {f["name"] for f in fsspec.filesystem("memory").ls("/a")} == {"/a/out.onnx", "/a/m.data"}
    (tmp_path / "there").mkdir()
    fetched = fetch("memory://a/out.onnx", tmp_path / "there", ModelError)
    array = load(fetched).model.graph.initializers["w"].const_value
    assert array is not None
    np.testing.assert_array_equal(array.numpy(), weights(32, 32))


def test_the_external_data_of_nested_graphs_is_fetched(tmp_path: Path) -> None:
    output = onnx.helper.make_tensor_value_info("o", onnx.TensorProto.FLOAT, [10])
    weight = onnx.numpy_helper.from_array(weights(10), "w")
    inner = onnx.helper.make_graph([node("Identity", ["w"], ["o"])], "inner", [], [output], [weight])
    (tmp_path / "own").mkdir()
    file = tmp_path / "own" / "m.onnx"
    onnx.save(branches(inner), file, save_as_external_data=True, location="m.data", size_threshold=0)
    upload(file, "memory://d/m.onnx")
    (tmp_path / "there").mkdir()
    fetched = fetch("memory://d/m.onnx", tmp_path / "there", ModelError)
    assert fetched.with_name("m.data").read_bytes() == file.with_name("m.data").read_bytes()


def test_a_folder_travels_whole(tmp_path: Path) -> None:
    put("memory://b/calib/0.txt", b"0")
    put("memory://b/calib/deep/1.txt", b"1")
    folder = fetch("memory:/b/calib/", tmp_path, DataError)  # as pathlib spells it
    assert sorted(str(p.relative_to(folder)) for p in folder.rglob("*.txt")) == ["0.txt", "deep/1.txt"]
    upload(folder, "memory://c/copy")
    assert names_at("/c/copy") == {"0.txt", "deep/1.txt"}
    upload(tmp_path / "never written", "memory://c/none")
    assert not names_at("/c/none")


def test_an_output_replaces_an_earlier_one_and_what_fails_leaves_it(tmp_path: Path) -> None:
    for name in ("model.onnx", "model.onnx.0.data"):
        put(f"memory://e/small/{name}", b"old")
    assert placeholders("memory://e/small", tmp_path / "small")
    upload(tmp_path / "small", "memory://e/small")  # nothing was written
    assert fsspec.filesystem("memory").cat("/e/small/model.onnx") == b"old"
    (tmp_path / "small/model.onnx").write_bytes(b"new")
    (tmp_path / "small/model.onnx.0.data").rename(tmp_path / "small/model.onnx.1.data")
    upload(tmp_path / "small", "memory://e/small")
    assert names_at("/e/small") == {"model.onnx", "model.onnx.1.data"}
    assert not placeholders("memory://e/none", tmp_path / "none")


def test_what_is_left_out_of_a_folder_of_models_comes_empty(tmp_path: Path) -> None:
    models = ("model.onnx", "model.onnx_data", "onnx/model.onnx", "config.json")
    left_out = ("model_fp16.onnx", "model_fp16.onnx_data", "onnx/model_quantized.onnx", "model.safetensors")
    for name in models + left_out:
        put(f"memory://f/export/{name}", b"x")
    folder = fetch("memory://f/export", tmp_path, ModelError, unneeded)
    sizes = {file.relative_to(folder).as_posix(): file.stat().st_size for file in folder.rglob("*.*")}
    assert sizes == dict.fromkeys(models, 1) | dict.fromkeys(left_out, 0)
    assert unneeded(["a.safetensors", "b.npz"]) == set()


def test_a_name_that_leads_out_of_its_folder_is_refused(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    put("memory://g/export/a.npz", b"x")
    memory.store["/g/export/../../out.npz"] = memory.store["/g/export/a.npz"]
    try:
        with pytest.raises(EnvironmentFailure, match="leads out of its folder"):
            fetch("memory://g/export", tmp_path, DataError)
    finally:
        del memory.store["/g/export/../../out.npz"]
    assert list(tmp_path.iterdir()) == []


def test_urls_in_each_other() -> None:
    assert one_in_other("s3://b/a", "s3:/b/a/?x=1")
    assert one_in_other("s3://b/a/m.onnx", "s3://b/a")
    assert not one_in_other("s3://b/a", "s3://b/ab")
    assert not one_in_other("s3://b/a", "gs://b/a")


@pytest.mark.parametrize(
    ("url", "error", "message"),
    [
        ("memory://none/m.onnx", ModelError, "memory://none/m.onnx does not exist"),
        ("nosuch://user:secret@host/m?key=1", EnvironmentFailure, "nosuch://host/m can't be reached"),
    ],
)
def test_an_error_is_one_line_without_secrets(
    tmp_path: Path, url: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as caught:
        fetch(url, tmp_path, ModelError)
    assert str(caught.value).startswith(message)
    assert "secret" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"class": "no_s3fs.S3FileSystem", "err": "Install s3fs to access S3"}
    monkeypatch.setitem(known_implementations, "s3", row)
    with pytest.raises(EnvironmentFailure, match="a package for s3:// is not installed") as caught:
        fetch("s3://bucket/m.onnx", tmp_path, ModelError)
    assert caught.value.hint == "pip install s3fs"


def test_what_is_secret_is_not_shown() -> None:
    assert public("s3://key:secret@bucket/a/m.onnx?token=1") == "s3://bucket/a/m.onnx"
