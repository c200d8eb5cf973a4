"""Models of other tools are recognised by their first bytes, and the hint is the way to ONNX."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from pathlib import Path

import onnx
import pytest

from qtool.graph.load import load
from tests.graph.model_files import net, refused


def archive(*names: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as made:
        for name in names:
            made.writestr(name, b"x")
    return stream.getvalue()


def field(tag: int, content: bytes) -> bytes:
    """Return a field of a protobuf message with a length."""
    size = b""
    rest = len(content)
    while rest >= 0x80:
        size, rest = size + bytes([rest & 0x7F | 0x80]), rest >> 7
    return bytes([tag << 3 | 2]) + size + bytes([rest]) + content


HEADER = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
NODE = field(1, b"x" * 200) + field(2, b"Placeholder")
FILES = {
    # the file, what it is, what the hint names
    "checkpoint": (archive("archive/data.pkl", "archive/data/0"), "PyTorch checkpoint", "torch.onnx.export"),
    "torchscript": (archive("m/data.pkl", "m/code/__torch__.py", "m/constants.pkl"), "TorchScript", "torch.jit.load"),
    "exported": (archive("m/archive_format", "m/models/model.json"), "ExportedProgram", "torch.export.load"),
    "legacy": (pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2), "PyTorch checkpoint", "torch.onnx.export"),
    "sklearn": (pickle.dumps({"a": 1}), "pickle", "skl2onnx"),
    "keras": (archive("metadata.json", "config.json", "model.weights.h5"), "Keras", "format='onnx'"),
    "h5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5", "tf2onnx.convert --keras"),
    "tflite": (b"\x1c\0\0\0TFL3" + bytes(100), "TensorFlow Lite", "tf2onnx.convert --tflite"),
    "graphdef": (field(1, NODE) * 3, "TensorFlow graph", "tf2onnx.convert --graphdef"),
    "saved-model": (b"\x08\x01" + field(2, field(1, field(4, b"serve"))), "SavedModel", "--saved-model"),
    "coreml": (b"\x08\x05" + field(2, field(1, field(1, b"image")) * 90), "Core ML", "optimum-cli"),
    "safetensors": (struct.pack("<Q", len(HEADER)) + HEADER + bytes(4), "safetensors", "optimum-cli export onnx"),
    "gguf": (b"GGUF\x03\0\0\0" + bytes(100), "GGUF", "optimum-cli export onnx"),
    "openvino": (b'<?xml version="1.0"?>\n<net name="m" version="11">', "OpenVINO", "export"),
    "ort": (b"\x18\0\0\0ORTM" + bytes(100), ".ort", ".onnx"),
    "paddle": (field(1, b"\x08\x00\x10\xff" * 9), "PaddlePaddle", "paddle2onnx"),
    "npz": (archive("x.npy"), "samples", "--calib"),
    "zip": (archive("model.onnx"), "zip archive", "unpack"),
    "broken-zip": (archive("data.pkl")[:40], "zip archive", "unpack"),
    "gzip": (b"\x1f\x8b\x08" + bytes(30), "gzip", "unpack"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs pointer", "git lfs pull"),
    "page": (b"\n<!DOCTYPE html><html>", "web page", "download"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_tool_is_recognised_whatever_its_name(name: str, tmp_path: Path) -> None:
    content, kind, way = FILES[name]
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    error = refused(path)
    assert kind in error.message and "no ONNX model" in error.message
    assert way in error.hint
    assert "{" not in error.hint


@pytest.mark.parametrize("producer", ["", "pytorch", "\n", "x" * 10, "tf2onnx" * 40])
def test_onnx_models_are_no_others(producer: str, tmp_path: Path) -> None:
    proto = net()
    proto.producer_name = producer
    onnx.save(proto, tmp_path / "model.pt")
    assert load(tmp_path / "model.pt").model.graph is not None


def test_folders_say_what_they_hold(tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    assert "optimum-cli export onnx" in refused(tmp_path).hint
    (tmp_path / "onnx").mkdir()
    onnx.save(net(), tmp_path / "onnx" / "model.onnx")
    assert refused(tmp_path).hint == f"name the file: {tmp_path / 'onnx' / 'model.onnx'}"
    (tmp_path / "onnx" / "saved_model.pb").touch()
    (tmp_path / "onnx" / "model.onnx").unlink()
    assert "--saved-model" in refused(tmp_path / "onnx").hint


def test_the_id_of_a_hub_is_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    hint = "optimum-cli export onnx --model prajjwal1/bert-tiny onnx/"
    assert hint in refused(Path("prajjwal1/bert-tiny")).hint
    (tmp_path / "models").mkdir()
    for name in ("models/bert-tiny", "a/b/c", "no/model.onnx", "bert"):
        assert "hub" not in refused(Path(name)).hint
