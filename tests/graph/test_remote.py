"""Models, samples and outputs behind URLs, in the memory of this process."""

from __future__ import annotations

from pathlib import Path

import fsspec
import numpy as np
import onnx
import pytest
from fsspec.registry import known_implementations

from qtool.errors import DataError, EnvironmentFailure, ModelError
from qtool.graph.load import load
from qtool.graph.remote import exists, fetch, public, upload
from tests.graph.model_files import branches
from tests.graphs import model, node, weights


def put(url: str, data: bytes) -> None:
    with fsspec.open(url, "wb") as stream:
        stream.write(data)


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
    assert exists("memory://c/copy/deep/1.txt")
    upload(tmp_path / "never written", "memory://c/none")
    assert not exists("memory://c/none")


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
