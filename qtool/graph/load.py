"""Open an ONNX file: check it, parse it, refuse plainly what can't be represented."""

from __future__ import annotations

import hashlib
import math
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir

from qtool.errors import ModelError, printable
from qtool.steps import step, weighs


@dataclass(frozen=True)
class Source:
    """A loaded model and where it came from.

    Args:
        model: the model; large tensors may still lie in their external files.
        path: the file, or None for a model handed over in memory.
        sha256: of the file and its external data, in the order in which the model names them.
        size: bytes on disk, external data included.
        raw: the serialized model, when there is no file.
        files: the model file and its external data.
    """

    model: ir.Model
    path: Path | None
    sha256: str
    size: int
    raw: bytes = b""
    files: tuple[Path, ...] = ()

    @property
    def name(self) -> str:
        return str(self.path) if self.path else "model"

    @property
    def loadable(self) -> Path | bytes:
        """What a session opens."""
        return self.path or self.raw


def load(path: Path) -> Source:
    """Read, check and parse a model file.

    Raises:
        ModelError: missing, not a regular file, corrupt, invalid, or holding what can't be kept
            (sparse initializers, training info, map types).
    """
    size = _regular_file(path)
    weighs(size)
    with step(str(path), "it is read and checked", ModelError):
        return _load(path, size)


def _load(path: Path, size: int) -> Source:
    try:
        # By its content, whatever the file is called.
        proto = onnx.load(str(path), format="protobuf", load_external_data=False)
    except Exception as error:  # protobuf raises its own DecodeError, and others
        raise ModelError(
            f"{path}: not a readable ONNX model ({size:,} bytes; it does not parse)",
            "a truncated download, or a git-lfs pointer?",
        ) from error
    files = [path, *_external_files(proto, path)]
    total = sum(f.stat().st_size for f in files)
    weighs(total)
    try:
        onnx.checker.check_model(str(path))
    except Exception as error:  # ValidationError, or RuntimeError from the C++ side
        raise ModelError(f"{path}: invalid: {printable(str(error))}") from error
    model = from_proto(proto, str(path))
    ir.external_data.set_base_dir(model.graph, path.parent)
    return Source(model, path, _digest(files), total, files=tuple(files))


def from_proto(proto: onnx.ModelProto, name: str = "model") -> ir.Model:
    """Parse a model in memory.

    Raises:
        ModelError: it holds what the representation would lose.
    """
    if len(proto.training_info):
        raise ModelError(f"{name}: holds training info, which can't be kept", "export it for inference")
    for graph in _graphs(proto.graph):
        if len(graph.sparse_initializer):
            raise ModelError(
                f"{name}: holds sparse initializers, which can't be kept", "store them as dense tensors"
            )
        for value in (*graph.input, *graph.output, *graph.value_info):
            if value.type.HasField("map_type") or value.type.sequence_type.elem_type.HasField("map_type"):
                raise ModelError(
                    f"{name}: '{printable(value.name)}' is a map, a type that can't be kept",
                    "export the classifier without ZipMap (skl2onnx: options={'zipmap': False})",
                )
    try:
        return ir.from_proto(proto)
    except Exception as error:
        raise ModelError(f"{name}: can't be represented: {printable(str(error))}") from error


def from_model(proto: onnx.ModelProto) -> Source:
    """Take a model that a Python caller holds in memory; it is not changed.

    Raises:
        ModelError: the checker refuses it.
    """
    try:
        onnx.checker.check_model(proto)
    except Exception as error:
        raise ModelError(f"model: invalid: {printable(str(error))}") from error
    raw = proto.SerializeToString(deterministic=True)
    # Parsed anew: onnx-ir would share the caller's tensors, and rename them.
    copy = onnx.load_model_from_string(raw)
    return Source(from_proto(copy), None, hashlib.sha256(raw).hexdigest(), len(raw), raw)


def model_size(path: Path) -> int:
    """Bytes on disk of a model file and the external data that it names."""
    proto = onnx.load(str(path), format="protobuf", load_external_data=False)
    return path.stat().st_size + sum(f.stat().st_size for f in _external_files(proto, path))


def _regular_file(path: Path) -> int:
    try:
        info = path.stat()
    except FileNotFoundError:
        raise ModelError(f"model '{path}' does not exist", _similar_file(path)) from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise ModelError(f"model '{printable(str(path))}' can't be read: {printable(str(error))}") from error
    if not stat.S_ISREG(info.st_mode):
        raise ModelError(f"model '{path}' is not a regular file")
    if not os.access(path, os.R_OK):
        raise ModelError(f"model '{path}' can't be read: permission denied")
    if info.st_size == 0:
        raise ModelError(f"model '{path}' is empty")
    return info.st_size


def _similar_file(path: Path) -> str:
    from qtool.errors import did_you_mean

    folder = path.parent
    names = [f.name for f in folder.glob("*.onnx")] if folder.is_dir() else []
    return did_you_mean(path.name, names)


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _graphs(attribute.g)
            for inner in attribute.graphs:
                yield from _graphs(inner)


def _external_files(proto: onnx.ModelProto, path: Path) -> list[Path]:
    """The external data files of a model, sorted.

    Raises:
        ModelError: one that is missing, too short, or anywhere but a regular file below the model's folder.
    """
    tensors = [t for g in _graphs(proto.graph) for t in g.initializer]
    tensors += [
        a.t
        for g in _graphs(proto.graph)
        for n in g.node
        for a in n.attribute
        if a.type == onnx.AttributeProto.TENSOR
    ]
    files: dict[Path, None] = {}
    for tensor in tensors:
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        entries = {e.key: e.value for e in tensor.external_data}
        files[_external_file(path, tensor, entries)] = None
    return sorted(files)


def _external_file(path: Path, tensor: onnx.TensorProto, entries: dict[str, str]) -> Path:
    where = f"{path}: external data of '{printable(tensor.name, 80)}'"
    location = Path(entries.get("location", ""))
    if location.is_absolute() or ".." in location.parts or not location.parts:
        raise ModelError(f"{where} lies outside the model's folder", "copy the real file beside the model")
    file = path.parent / location
    if file.is_symlink() or not file.is_file():
        raise ModelError(f"{where}: '{printable(str(location))}' is missing, or no regular file there")
    offset, length = (entries.get(key, "") or "0" for key in ("offset", "length"))
    if not all(re.fullmatch("[0-9]{1,18}", number) for number in (offset, length)):
        raise ModelError(f"{where} has an offset or length that is no number")
    wanted = _tensor_bytes(tensor)
    if "length" in entries and wanted is not None and int(length) != wanted:
        raise ModelError(f"{where} has a length of {int(length):,} bytes; the tensor takes {wanted:,}")
    if int(offset) + max(int(length), wanted or 0) > file.stat().st_size:
        raise ModelError(f"{where}: '{printable(str(location))}' is too short", "a truncated download?")
    return file


def _tensor_bytes(tensor: onnx.TensorProto) -> int | None:
    """The bytes that a tensor's data takes; None for types that have no fixed width."""
    try:
        dtype = ir.DataType(tensor.data_type)
        bits: int = math.prod(tensor.dims) * dtype.bitwidth
        return -(-bits // 8)
    except (ValueError, TypeError, KeyError):
        return None


def _digest(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
