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
from qtool.graph.abandoned import alone_in, is_abandoned, make_temporary, sweep
from qtool.steps import step, writes_in

# protobuf can't serialize 2 GiB; weights go to a side file well before that.
SIDE_FILE_BYTES = 1 << 30
_SIDE_TENSOR_BYTES = 1024
_SIDE_ALIGNMENT = 64  # of a tensor in it, in bytes: what any element type needs, and a cache line


def tensor_bytes(model: ir.Model) -> int:
    """Bytes of all initializers, nested graphs included."""
    return sum(
        v.const_value.nbytes
        for g in model.graphs()
        for v in g.initializers.values()
        if v.const_value is not None
    )


def _side_tensors(model: ir.Model) -> Iterator[tuple[ir.Value, ir.TensorProtocol]]:
    """The tensors that are worth their place in a side file, and those that lie in another."""
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if tensor is None or tensor.dtype == ir.DataType.STRING:
                continue
            if tensor.nbytes >= _SIDE_TENSOR_BYTES or isinstance(tensor, ir.ExternalTensor):
                yield value, tensor


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
        sweep(target.parent)
        self._handles: dict[Path, int] = {}
        self.path = self._temporary()
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
            with step(str(self.target), "the checker looks at what was written", ModelError):
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
        if self._side is not None:
            self._side.chmod(0o666 & ~mask)
        ours = re.compile(re.escape(self.target.name) + r"\.[0-9a-f]{16}\.data")
        with alone_in(self.target.parent):
            self.path.replace(self.target)
            self._committed = True
            for file in list(self.target.parent.iterdir()):
                # Not the side file of a run that is about to commit: it holds a lock on that.
                if ours.fullmatch(file.name) and file != self._side and is_abandoned(file):
                    file.unlink(missing_ok=True)
        self._release()

    def discard(self) -> None:
        """Leave nothing behind."""
        if not self._committed:
            self.path.unlink(missing_ok=True)
            self._drop_side()
        self._release()

    def _temporary(self) -> Path:
        """A new temporary file beside the target, locked as long as this lasts."""
        folder = self.target.parent
        writes_in(str(folder.resolve()))
        handle, path = make_temporary(folder)
        self._handles[path] = handle
        return path

    def _release(self) -> None:
        for handle in self._handles.values():
            os.close(handle)
        self._handles.clear()

    def _write_side(self, model: ir.Model) -> ir.Model:
        """Write the large tensors beside, and return a clone that refers to them."""
        folder, draft, clone = self.target.parent, self._temporary(), model.clone()
        self._side, self._own_side = draft, True
        places: list[tuple[ir.Value, ir.TensorProtocol, int]] = []
        digest = hashlib.sha256()
        with draft.open("wb") as stream:
            for value, tensor in _side_tensors(clone):
                data = tensor.tobytes()
                padding = bytes(-stream.tell() % _SIDE_ALIGNMENT)
                for part in (padding, data):
                    stream.write(part)
                    digest.update(part)
                places.append((value, tensor, stream.tell() - len(data)))
            stream.flush()
            os.fsync(stream.fileno())
        # Named by content, so that an older side file of the same model is never overwritten.
        final = folder / f"{self.target.name}.{digest.hexdigest()[:16]}.data"
        # The side file of the model that is in place may be this very one: it is not ours to discard.
        self._own_side = not final.exists()
        self._side = draft.replace(final)
        for value, tensor, offset in places:
            value.const_value = ir.ExternalTensor(
                final.name,
                offset,
                tensor.nbytes,
                tensor.dtype,
                shape=ir.Shape(tensor.shape.numpy()),
                name=tensor.name or "",
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
