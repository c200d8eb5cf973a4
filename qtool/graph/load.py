"""Load an ONNX model: check it, parse it, and refuse what can't be represented."""

from __future__ import annotations

import hashlib
import logging
import os
import stat
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

import onnx
import onnx_ir as ir

from qtool.errors import ModelError, did_you_mean, is_out_of_memory, out_of_memory, printable
from qtool.graph.external import external_files
from qtool.graph.foreign import hub_hint, refuse_folder, refuse_foreign_file
from qtool.graph.limits import LIMITS, Survey, survey, too_deep
from qtool.graph.mapped import ARRAYS, mapped
from qtool.graph.repair import repair
from qtool.graph.shelf import shelve
from qtool.graph.structure import structure_problem
from qtool.graph.tensors import check_tensors
from qtool.runtime.heartbeat import beat, step, weighs

# Its warnings about unusual models would otherwise go to stderr.
logging.getLogger("onnx_ir").addHandler(logging.NullHandler())


@dataclass(frozen=True)
class Source:
    """A loaded model and its origin.

    Args:
        model: the model; large tensors may still be in their external files.
        path: the file, or None for a model in memory.
        digest: returns the sha256 of the file and its external data files, in sorted order.
        size: bytes on disk, external data included.
        raw: the serialized model, where there is no file.
        files: the model file and its external data.
        warnings: what was repaired, though the runtime accepts it.
    """

    model: ir.Model
    path: Path | None
    digest: Callable[[], str]
    size: int
    raw: bytes = b""
    files: tuple[Path, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def sha256(self) -> str:
        """Of the files."""
        return self.digest()

    @property
    def name(self) -> str:
        """The path, or 'model'."""
        return str(self.path) if self.path else "model"

    @property
    def loadable(self) -> Path | bytes:
        """The argument for a session."""
        return self.path or self.raw


def load(path: Path) -> Source:
    """Read, check and parse a model file.

    Raises:
        ModelError: it is missing, not a regular file, corrupt, invalid or beyond LIMITS, or holds sparse
            tensors, training info or map types, which can't be kept.
    """
    size = _regular_file(path)
    weighs(size)
    with step(str(path), "it is read and checked", ModelError):
        return _load(path, size)


def _load(path: Path, size: int) -> Source:
    proto = _parse(path, size)
    contents = _survey(proto, str(path))
    files = [path, *external_files(contents.tensors, path)]
    total = sum(f.stat().st_size for f in files)
    weighs(total)
    digest = _digest_of(files, total)
    warnings = _checked(
        proto, contents, str(path), lambda: onnx.checker.check_model(str(path), full_check=True)
    )
    return Source(
        from_proto(proto, str(path), path.parent),
        path,
        digest,
        total,
        files=tuple(files),
        warnings=warnings,
    )


def from_model(proto: onnx.ModelProto) -> Source:
    """Return the source of a model in memory, which is not changed.

    Raises:
        ModelError: as `load`.
    """
    try:
        raw = proto.SerializeToString(deterministic=True)
    except Exception as error:  # ValueError, EncodeError: too large, or nested too deep
        if is_out_of_memory(error):
            raise out_of_memory("model", "it is serialized") from error
        raise ModelError(f"model: can't be serialized: {printable(str(error))}", "name its file") from error
    if len(raw) > LIMITS.file_bytes:
        raise _too_large("model", len(raw))
    # Parsed anew: onnx-ir would share the caller's tensors, and rename them.
    copy = onnx.load_model_from_string(raw)
    contents = _survey(copy, "model")
    external_files(contents.tensors, None)
    warnings = _checked(copy, contents, "model", lambda: onnx.checker.check_model(copy, full_check=True))
    digest = hashlib.sha256(raw).hexdigest()
    return Source(from_proto(copy), None, lambda: digest, len(raw), raw, warnings=warnings)


def from_proto(proto: onnx.ModelProto, name: str = "model", folder: Path | None = None) -> ir.Model:
    """Return a checked model, whose side files are in `folder`, as onnx-ir."""
    try:
        model = ir.from_proto(proto)
        if folder is not None:
            ir.external_data.set_base_dir(model.graph, folder)
        return _with_arrays(model)
    except Exception as error:
        if is_out_of_memory(error):
            raise out_of_memory(name, "its graph is built") from error
        raise ModelError(f"{name}: can't be represented: {printable(str(error))}") from error


def _with_arrays(model: ir.Model) -> ir.Model:
    """Hold the constants of a model as arrays, or as tensors that read them.

    1. Protobuf copies all bytes of a tensor each time it is read: it becomes an array.
    2. onnx-ir keeps a side file mapped once it was read, and the memory with it: a tensor in one is mapped at
       each access, so that its pages are free when the array is.
    3. Many bytes of arrays go to a file (graph/shelf.py).
    """
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if isinstance(tensor, ir.TensorProtoTensor) and tensor.dtype in ARRAYS:
                value.const_value = ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=tensor.name)
            elif isinstance(tensor, ir.ExternalTensor):
                value.const_value = mapped(tensor)
    shelve(model)
    return model


def model_size(path: Path) -> int:
    """Return the bytes on disk of a model file and its external data."""
    return sum(f.stat().st_size for f in _files_of(path))


def model_digest(path: Path) -> str:
    """Return the sha256 of a model, as its Source has it, without a check of the model.

    Raises:
        ModelError: it can't be read.
    """
    with step(str(path), "it is read", ModelError):
        return _digest(_files_of(path))


def _files_of(path: Path) -> list[Path]:
    proto = parse(path)
    return [path, *external_files(survey(proto, str(path)).tensors, path)]


def parse(path: Path) -> onnx.ModelProto:
    """Read a model file, without its external data and without a check.

    Raises:
        ModelError: it is missing, not a regular file, or does not parse.
    """
    return _parse(path, _regular_file(path))


def _parse(path: Path, size: int) -> onnx.ModelProto:
    if size > LIMITS.file_bytes:
        raise _too_large(str(path), size)
    try:
        # By its content, whatever its suffix.
        return onnx.load(str(path), format="protobuf", load_external_data=False)
    except Exception as error:  # protobuf raises its own DecodeError, and others
        if is_out_of_memory(error):
            raise out_of_memory(str(path), "it is read") from error
        if "MaxDepth" in str(error):
            raise too_deep(str(path)) from error
        raise ModelError(
            f"{path}: not a readable ONNX model ({size:,} bytes; it does not parse)",
            "a truncated download?",
        ) from error


def _too_large(name: str, size: int) -> ModelError:
    return ModelError(
        f"{name}: {size:,} bytes are more than a model can have ({LIMITS.file_bytes:,})",
        "save its weights as external data, beside it",
    )


def _survey(proto: onnx.ModelProto, name: str) -> Survey:
    """Return the contents of a model, unless a limit is exceeded or something in it can't be kept."""
    contents = survey(proto, name)
    if len(proto.training_info):
        raise ModelError(f"{name}: holds training info, which can't be kept", "export it for inference")
    if contents.sparse:
        raise ModelError(
            f"{name}: holds sparse initializers, which can't be kept", "store them as dense tensors"
        )
    if not proto.graph.output:
        raise ModelError(
            f"{name}: invalid: it has no outputs, so that it computes nothing", "export it with its outputs"
        )
    for graph in contents.graphs:
        for value in (*graph.input, *graph.output, *graph.value_info):
            if _holds_map(value.type):
                raise ModelError(
                    f"{name}: '{printable(value.name)}' is a map, a type that can't be kept",
                    "export the classifier without ZipMap (skl2onnx: options={'zipmap': False})",
                )
    check_tensors(contents.tensors, name)
    return contents


def _holds_map(kind: onnx.TypeProto) -> bool:
    """Return whether a type is a map, or a sequence or optional of maps."""
    while kind.HasField("sequence_type") or kind.HasField("optional_type"):
        outer = kind.sequence_type if kind.HasField("sequence_type") else kind.optional_type
        kind = outer.elem_type
    return bool(kind.HasField("map_type"))


def _checked(
    proto: onnx.ModelProto, contents: Survey, name: str, check: Callable[[], None]
) -> tuple[str, ...]:
    """Run the full check; repair what the runtime would accept, and return warnings of it.

    Raises:
        ModelError: it is invalid.
    """
    try:
        check()
    except Exception as error:  # ValidationError, InferenceError, or RuntimeError from the C++ side
        if is_out_of_memory(error):
            raise out_of_memory(name, "it is checked") from error
        try:
            return repair(proto, contents)
        except ValueError as still:
            if problem := structure_problem(proto.graph):
                raise ModelError(f"{name}: invalid: {problem}", "export it anew") from error
            raise ModelError(f"{name}: invalid: {printable(str(still))}") from error
    return ()


def _regular_file(path: Path) -> int:
    try:
        info = path.stat()
    except FileNotFoundError:
        hint = _similar_file(path) or hub_hint(path)
        raise ModelError(f"model '{path}' does not exist", hint) from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise ModelError(f"model '{printable(str(path))}' can't be read: {printable(str(error))}") from error
    if stat.S_ISDIR(info.st_mode):
        refuse_folder(path)
    if not stat.S_ISREG(info.st_mode):
        raise ModelError(f"model '{path}' is not a regular file")
    if not os.access(path, os.R_OK):
        raise ModelError(f"model '{path}' can't be read: permission denied")
    if info.st_size == 0:
        raise ModelError(f"model '{path}' is empty")
    refuse_foreign_file(path)
    return info.st_size


def _similar_file(path: Path) -> str:
    folder = path.parent
    names = [f.name for f in folder.glob("*.onnx")] if folder.is_dir() else []
    return did_you_mean(path.name, names)


# Bytes from which a digest is computed while the work goes on.
_AT_ONCE = 1 << 26


def _digest_of(files: list[Path], size: int) -> Callable[[], str]:
    """Return what returns the digest of files: of large ones it is computed while the work goes on."""
    if size < _AT_ONCE:
        digest = _digest(files)
        return lambda: digest
    made: Future[str] = Future()

    def make() -> None:
        try:
            made.set_result(_digest(files))
        except BaseException as error:
            made.set_exception(error)

    Thread(target=make, daemon=True).start()
    return made.result


def _digest(files: list[Path]) -> str:
    digest, block = hashlib.sha256(), memoryview(bytearray(1 << 18))
    for file in files:
        with file.open("rb", buffering=0) as stream:
            while count := stream.readinto(block):
                digest.update(block[:count])
                beat()
    return digest.hexdigest()
