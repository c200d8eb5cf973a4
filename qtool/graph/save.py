"""Write a model: the whole new file or the old one, never a part."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx_ir as ir

from qtool.errors import EnvironmentFailure, ModelError, UsageError, printable

# protobuf can't serialize 2 GiB; weights go to a side file well before that.
SIDE_FILE_BYTES = 1 << 30
_SIDE_TENSOR_BYTES = 1024


def tensor_bytes(model: ir.Model) -> int:
    """Bytes of all initializers, nested graphs included."""
    return sum(
        v.const_value.nbytes
        for g in model.graphs()
        for v in g.initializers.values()
        if v.const_value is not None
    )


def to_bytes(model: ir.Model) -> bytes:
    """Serialize a model whose tensors fit in one protobuf; external ones are read in."""
    data: bytes = ir.to_proto(ir.external_data.load_to_model(model.clone())).SerializeToString(
        deterministic=True
    )
    return data


def forget_inner_shapes(graph: onnx.GraphProto) -> None:
    """Drop value_info: any tool infers it again, and in a small model it is a tenth of the file."""
    del graph.value_info[:]
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs:
                forget_inner_shapes(inner)


class Staging:
    """A file that is written and checked under a temporary name beside its target.

    Use `staged`; call `write`, judge `path`, then `commit`.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        handle, name = tempfile.mkstemp(prefix=".qtool-", suffix=".tmp", dir=target.parent)
        os.close(handle)
        self.path = Path(name)
        self._side: Path | None = None
        self._own_side = True
        self._committed = False

    def write(self, model: ir.Model) -> None:
        """Write the model (again) under the temporary name, flushed to disk and checked.

        Raises:
            ModelError: the checker refuses what was written: our bug, caught before anyone sees it.
        """
        self.write_unchecked(model)
        try:
            onnx.checker.check_model(str(self.path), full_check=True)
        except Exception as error:
            raise ModelError(
                f"the rewritten model is invalid: {printable(str(error))}", "a bug in qtool: please report it"
            ) from error

    def write_unchecked(self, model: ir.Model) -> None:
        """The same for a model that only a session of ours will read."""
        self._drop_side()
        if tensor_bytes(model) > SIDE_FILE_BYTES:
            model = self._write_side(model)
        proto = ir.to_proto(ir.external_data.load_to_model(model.clone()) if self._side is None else model)
        forget_inner_shapes(proto.graph)
        data = proto.SerializeToString(deterministic=True)
        with self.path.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())

    def write_text(self, text: str) -> None:
        """Write a text file under the temporary name, flushed to disk."""
        with self.path.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())

    def commit(self) -> None:
        """Rename into place. The model's rename is what commits; its side file is complete by then."""
        mask = os.umask(0)
        os.umask(mask)
        self.path.chmod(0o666 & ~mask)
        ours = re.compile(re.escape(self.target.name) + r"\.[0-9a-f]{16}\.data")
        old_sides = {f for f in self.target.parent.iterdir() if ours.fullmatch(f.name)}
        self.path.replace(self.target)
        self._committed = True
        _sync_folder(self.target.parent)
        for old in old_sides - {self._side}:
            old.unlink(missing_ok=True)

    def discard(self) -> None:
        """Leave nothing behind."""
        if not self._committed:
            self.path.unlink(missing_ok=True)
            self._drop_side()

    def _write_side(self, model: ir.Model) -> ir.Model:
        # Named by content, so that an older side file of the same model is never overwritten.
        draft = f".qtool-{self.path.stem.removeprefix('.qtool-')}.data.tmp"
        folder = self.target.parent
        self._side, self._own_side = folder / draft, True
        clone = ir.external_data.unload_from_model(
            model.clone(), folder, draft, size_threshold_bytes=_SIDE_TENSOR_BYTES
        )
        digest = hashlib.sha256()
        with self._side.open("rb") as stream:
            os.fsync(stream.fileno())
            while block := stream.read(1 << 20):
                digest.update(block)
        final = folder / f"{self.target.name}.{digest.hexdigest()[:16]}.data"
        # The side file of the model that is in place may be this very one: it is not ours to discard.
        self._own_side = not final.exists()
        self._side = self._side.replace(final)
        for graph in clone.graphs():
            for value in graph.initializers.values():
                tensor = value.const_value
                if isinstance(tensor, ir.ExternalTensor):
                    value.const_value = ir.ExternalTensor(
                        final.name,
                        tensor.offset,
                        tensor.length,
                        tensor.dtype,
                        shape=tensor.shape,
                        name=tensor.name,
                        base_dir=folder,
                    )
        return clone

    def _drop_side(self) -> None:
        if self._side is not None and self._own_side:
            self._side.unlink(missing_ok=True)
        self._side = None


@contextlib.contextmanager
def staged(target: Path) -> Iterator[Staging]:
    """A Staging for the target, discarded on any way out but `commit`.

    Raises:
        EnvironmentFailure: the folder is missing or can't be written.
    """
    if not target.parent.is_dir():
        raise EnvironmentFailure(f"output folder '{target.parent}' does not exist")
    try:
        staging = Staging(target)
    except OSError as error:
        raise EnvironmentFailure(f"can't write in '{target.parent}': {error.strerror}") from error
    try:
        yield staging
    except OSError as error:
        raise EnvironmentFailure(f"can't write '{target}': {error.strerror or error}") from error
    finally:
        staging.discard()


def check_target(target: Path, inputs: list[Path], force: bool) -> None:
    """Refuse a target that is one of the inputs, by whatever name, or that exists without --force.

    Raises:
        UsageError: as said.
    """
    if target.is_dir():
        raise UsageError(f"output '{target}' is a folder", f"name a file in it: {target / 'int8.onnx'}")
    if not target.exists():
        return
    for source in inputs:
        if source.exists() and source.samefile(target):
            raise UsageError(f"output '{target}' is the input '{source}'", "write to another file")
    if not target.is_file():
        raise UsageError(f"output '{target}' exists and is not a regular file")
    if not force:
        raise UsageError(f"output '{target}' exists", "add --force to replace it")


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def model_for_session(model: ir.Model) -> Iterator[bytes | Path]:
    """A model in the form that a session opens: bytes, or a temporary file when it is too large for that."""
    if tensor_bytes(model) <= SIDE_FILE_BYTES:
        yield to_bytes(model)
        return
    with (
        tempfile.TemporaryDirectory(prefix="qtool-model-") as folder,
        staged(Path(folder) / "m.onnx") as staging,
    ):
        staging.write_unchecked(model)
        yield staging.path
