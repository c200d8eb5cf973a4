"""Open an ONNX file: check it, parse it, refuse plainly what can't be represented."""

from __future__ import annotations

import hashlib
import logging
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir

from qtool.errors import ModelError, is_out_of_memory, out_of_memory, printable
from qtool.graph.caps import CAPS, Survey, survey, too_deep
from qtool.graph.external import external_files
from qtool.graph.repair import repair
from qtool.graph.tensors import check_tensors
from qtool.runtime.heartbeat import step, weighs

# What it has to say of odd models would go to stderr, unasked.
logging.getLogger("onnx_ir").addHandler(logging.NullHandler())


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
        warnings: what had to be mended, though the runtime takes it.
    """

    model: ir.Model
    path: Path | None
    sha256: str
    size: int
    raw: bytes = b""
    files: tuple[Path, ...] = ()
    warnings: tuple[str, ...] = ()

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
        ModelError: missing, not a regular file, corrupt, invalid, larger than any honest model, or holding
            what can't be kept (sparse tensors, training info, map types).
    """
    size = _regular_file(path)
    weighs(size)
    with step(str(path), "it is read and checked", ModelError):
        return _load(path, size)


def _load(path: Path, size: int) -> Source:
    proto = _parse(path, size)
    found = _look_through(proto, str(path))
    files = [path, *external_files(found.tensors, path)]
    total = sum(f.stat().st_size for f in files)
    weighs(total)
    warnings = _checked(proto, found, str(path), lambda: onnx.checker.check_model(str(path), full_check=True))
    model = from_proto(proto, str(path))
    ir.external_data.set_base_dir(model.graph, path.parent)
    return Source(model, path, _digest(files), total, files=tuple(files), warnings=warnings)


def from_model(proto: onnx.ModelProto) -> Source:
    """Take a model that a Python caller holds in memory; it is not changed.

    Raises:
        ModelError: the same as for a file, but for what only a file can be.
    """
    try:
        raw = proto.SerializeToString(deterministic=True)
    except Exception as error:  # ValueError, EncodeError: too large, or nested too deep
        if is_out_of_memory(error):
            raise out_of_memory("model", "it is serialized") from error
        raise ModelError(f"model: can't be serialized: {printable(str(error))}", "name its file") from error
    if len(raw) > CAPS.file_bytes:
        raise _too_large("model", len(raw))
    # Parsed anew: onnx-ir would share the caller's tensors, and rename them.
    copy = onnx.load_model_from_string(raw)
    found = _look_through(copy, "model")
    external_files(found.tensors, None)
    warnings = _checked(copy, found, "model", lambda: onnx.checker.check_model(copy, full_check=True))
    digest = hashlib.sha256(raw).hexdigest()
    return Source(from_proto(copy), None, digest, len(raw), raw, warnings=warnings)


def from_proto(proto: onnx.ModelProto, name: str = "model") -> ir.Model:
    """Make of a checked model what the rest of qtool works on."""
    try:
        return ir.from_proto(proto)
    except Exception as error:
        if is_out_of_memory(error):
            raise out_of_memory(name, "its graph is built") from error
        raise ModelError(f"{name}: can't be represented: {printable(str(error))}") from error


def model_size(path: Path) -> int:
    """Bytes on disk of a model file and the external data that it names."""
    proto = onnx.load(str(path), format="protobuf", load_external_data=False)
    files = external_files(survey(proto, str(path)).tensors, path)
    return path.stat().st_size + sum(f.stat().st_size for f in files)


def _parse(path: Path, size: int) -> onnx.ModelProto:
    if size > CAPS.file_bytes:
        raise _too_large(str(path), size)
    try:
        # By its content, whatever the file is called.
        return onnx.load(str(path), format="protobuf", load_external_data=False)
    except Exception as error:  # protobuf raises its own DecodeError, and others
        if is_out_of_memory(error):
            raise out_of_memory(str(path), "it is read") from error
        if "MaxDepth" in str(error):
            raise too_deep(str(path)) from error
        raise ModelError(
            f"{path}: not a readable ONNX model ({size:,} bytes; it does not parse)",
            "a truncated download, or a git-lfs pointer?",
        ) from error


def _too_large(name: str, size: int) -> ModelError:
    return ModelError(
        f"{name}: {size:,} bytes are more than a model can have ({CAPS.file_bytes:,})",
        "save its weights as external data, beside it",
    )


def _look_through(proto: onnx.ModelProto, name: str) -> Survey:
    """Refuse what no library should see, and what could not be kept."""
    found = survey(proto, name)
    if len(proto.training_info):
        raise ModelError(f"{name}: holds training info, which can't be kept", "export it for inference")
    if found.sparse:
        raise ModelError(
            f"{name}: holds sparse initializers, which can't be kept", "store them as dense tensors"
        )
    for graph in found.graphs:
        for value in (*graph.input, *graph.output, *graph.value_info):
            if _holds_map(value.type):
                raise ModelError(
                    f"{name}: '{printable(value.name)}' is a map, a type that can't be kept",
                    "export the classifier without ZipMap (skl2onnx: options={'zipmap': False})",
                )
    check_tensors(found.tensors, name)
    return found


def _holds_map(kind: onnx.TypeProto) -> bool:
    """Whether a type is a map, or a sequence of them, or that if there is one."""
    while kind.HasField("sequence_type") or kind.HasField("optional_type"):
        outer = kind.sequence_type if kind.HasField("sequence_type") else kind.optional_type
        kind = outer.elem_type
    return bool(kind.HasField("map_type"))


def _checked(proto: onnx.ModelProto, found: Survey, name: str, check: Callable[[], None]) -> tuple[str, ...]:
    """Hold a model against the full check; mend what the runtime would accept, and say so.

    Raises:
        ModelError: it is invalid.
    """
    try:
        check()
    except Exception as error:  # ValidationError, InferenceError, or RuntimeError from the C++ side
        if is_out_of_memory(error):
            raise out_of_memory(name, "it is checked") from error
        try:
            return repair(proto, found)
        except ValueError as still:
            raise ModelError(f"{name}: invalid: {printable(str(still))}") from error
    return ()


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


def _digest(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
