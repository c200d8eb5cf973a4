"""Write a model atomically: the target is the old file or the complete new one."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx
import onnx_ir as ir

from qtool.errors import (
    EnvironmentFailure,
    ModelError,
    UsageError,
    is_out_of_memory,
    out_of_memory,
    printable,
)
from qtool.graph.shelf import link
from qtool.graph.side_file import Finished, layout, side_tensors, write_side
from qtool.graph.view import in_side_file
from qtool.runtime.heartbeat import step, writing_in
from qtool.runtime.tempdirs import alone_in, flush, flush_folder, locked, sweep, temporary

# protobuf can't serialize 2 GiB: above this size, weights go to a side file. Those that come from one are
# computed as they are written, and go to one from this size on: a protobuf holds all of them, twice.
SIDE_FILE_BYTES = 1 << 30
STREAMED_BYTES = 1 << 27
# A model of this size is opened only to run samples: that takes several times the memory of its floats.
LARGE_BYTES = 1 << 27
_LINES = "finished"  # the file of the finished tensors of a side file


def tensor_bytes(model: ir.Model) -> int:
    """Return the bytes of all initializers, nested graphs included."""
    return sum(
        v.const_value.nbytes
        for g in model.graphs()
        for v in g.initializers.values()
        if v.const_value is not None
    )


def to_bytes(model: ir.Model) -> bytes:
    """Return the bytes of a model whose tensors fit in one protobuf; those in files are read."""
    proto = ir.to_proto(model)
    forget_inner_shapes(proto.graph)
    data: bytes = proto.SerializeToString(deterministic=True)
    return data


def needs_side_file(model: ir.Model) -> bool:
    """Return whether the weights of a model are written to a second file."""
    size = tensor_bytes(model)
    if size > SIDE_FILE_BYTES:
        return True
    values = (v for graph in model.graphs() for v in graph.initializers.values())
    return size > STREAMED_BYTES and any(map(in_side_file, values))


def file_size(model: ir.Model) -> int:
    """Return the bytes of the model once saved, without the padding of a side file."""
    if needs_side_file(model):
        return tensor_bytes(model)  # the rest is negligible
    return len(to_bytes(model))


def forget_inner_shapes(graph: onnx.GraphProto) -> None:
    """Drop value_info: tools infer it again, and it is a tenth of the file of a small model.

    The runtime shares memory between values whose axes have equal names. Exporters give outputs of different
    sizes one name: as an inner value such an output would fail at run time.
    """
    del graph.value_info[:]
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs:
                forget_inner_shapes(inner)


class Staging:
    """A file that is written and checked in a temporary folder beside its target.

    Use `staged`; call `write`, judge `path`, then `commit`.

    Args:
        target: the final file.
        folder: the temporary folder, which holds nothing else.
        stack: ends with the run.
        resumable: a side file is written in a folder that stays if the run ends early: TARGET.part.
        resume: go on from such a folder.
    """

    def __init__(
        self, target: Path, folder: Path, stack: contextlib.ExitStack, *, resumable: bool, resume: bool
    ) -> None:
        self.target = target
        self.path = folder / target.name
        self._folder = folder
        self._side: Path | None = None
        self._stack, self._resumable, self._resume = stack, resumable, resume
        self._stays = False

    def write(self, model: ir.Model) -> None:
        """Write the model (again), flush it to disk and check it.

        Raises:
            ModelError: the checker refuses the written file, which is a bug of qtool.
        """
        self.write_unchecked(model, durable=True)
        try:
            with step(str(self.target), "the checker reads the written file", ModelError):
                onnx.checker.check_model(str(self.path), full_check=True)
        except Exception as error:
            if is_out_of_memory(error):
                raise out_of_memory(str(self.target), "it is checked") from error
            raise ModelError(
                f"the rewritten model is invalid: {printable(str(error))}", "a bug in qtool: please report it"
            ) from error

    def write_unchecked(self, model: ir.Model, *, durable: bool = False) -> None:
        """Write a model that only a session of this process reads, unless it is durable: flushed to disk.

        A session maps the tensors of a side file, and copies those of a protobuf more than once.
        """
        if self._resumable and durable and needs_side_file(model):
            self._stay(self.target.with_name(f"{self.target.name}.part"))
        elif self._side is not None:
            self._side.unlink()
        self._side = None
        if not durable or needs_side_file(model):
            model = self._write_side(model, durable=durable)
        proto = ir.to_proto(model)
        forget_inner_shapes(proto.graph)
        data = proto.SerializeToString(deterministic=True)
        del proto  # as large as the model
        self._write(data, durable=durable)

    def write_text(self, text: str) -> None:
        """Write a text file and flush it to disk."""
        self._write(text.encode(), durable=True)

    def commit(self) -> None:
        """Rename into place: first the side file, then the model, whose rename commits."""
        folder = self.target.parent
        with alone_in(folder):
            try:
                if self._side is not None:
                    self._side.replace(folder / self._side.name)
                    flush_folder(folder)
                self.path.replace(self.target)
                flush_folder(folder)
            finally:  # the side file of the old model, or of the new one where its rename failed
                self._remove_unnamed()
        self.discard()

    def _write(self, data: bytes, *, durable: bool) -> None:
        with self.path.open("wb") as stream:
            stream.write(data)
            if durable:
                stream.flush()
                flush(stream.fileno())

    def _write_side(self, model: ir.Model, *, durable: bool) -> ir.Model:
        """Write the large tensors to a side file, and return a clone that refers to it."""
        draft, clone = self._folder / "side", model.clone()
        pairs = list(side_tensors(clone))
        if not durable:
            pairs = [(value, tensor) for value, tensor in pairs if not link(value, self._folder)]
        values, tensors = [value for value, _ in pairs], [tensor for _, tensor in pairs]
        finished = Finished(self._folder / _LINES, _key(model, tensors)) if self._stays else None
        digest = write_side(draft, tensors, finished, durable=durable)
        # Named by content, so that an older side file of the same model is never overwritten.
        self._side = draft.replace(self._folder / f"{self.target.name}.{digest[:16]}.data")
        for value, tensor, offset in zip(values, tensors, layout(tensors), strict=True):
            value.const_value = ir.ExternalTensor(
                self._side.name,
                offset,
                tensor.nbytes,
                tensor.dtype,
                shape=ir.Shape(tensor.shape.numpy()),
                name=tensor.name or "",
                base_dir=self._folder,
            )
        return clone

    def _stay(self, folder: Path) -> None:
        """Write in a folder that stays if this run ends early, and go on from its side file."""
        if not self._stays:
            folder.mkdir(exist_ok=True)
            if not self._stack.enter_context(locked(folder)):
                raise UsageError(f"another run writes in '{folder}'", "let it end")
            if not self._resume:
                (folder / _LINES).unlink(missing_ok=True)
            self._folder, self.path, self._stays = folder, folder / self.target.name, True
        for file in list(folder.iterdir()):
            if _is_side_file(file, self.target):
                file.replace(folder / "side")

    def discard(self) -> None:
        """Remove what was written, also where it would stay for a later run."""
        if self._stays:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _remove_unnamed(self) -> None:
        """Remove side files of the target that no model in its folder refers to."""
        with contextlib.suppress(OSError):  # a file that stays does no harm
            for file in list(self.target.parent.iterdir()):
                if _is_side_file(file, self.target) and not _is_named(file):
                    file.unlink(missing_ok=True)


def _key(model: ir.Model, tensors: Iterable[ir.TensorProtocol]) -> str:
    """Return a digest of all that the bytes of a side file follow from: the recipe, and the tensors."""
    recipe = sorted(model.metadata_props.items())
    made = [(t.name, t.dtype.name, *t.shape.numpy()) for t in tensors]
    return hashlib.sha256(repr((recipe, made)).encode()).hexdigest()


def _is_side_file(file: Path, target: Path) -> bool:
    """Return whether a file has the name of a side file of the target."""
    return re.fullmatch(re.escape(target.name) + r"\.[0-9a-f]{16}\.data", file.name) is not None


def _is_named(side: Path) -> bool:
    """Return whether a model beside a side file refers to it, or may. A model has less than 2 GiB."""
    for file in side.parent.iterdir():
        try:
            other = file.is_file() and file.name != side.name and file.stat().st_size < 1 << 31
            if other and _holds(file, os.fsencode(side.name)):
                return True
        except FileNotFoundError:
            continue
        except OSError:  # unreadable: it may
            return True
    return False


def _holds(file: Path, text: bytes) -> bool:
    """Return whether a file holds some bytes; little of it is in memory at a time."""
    end = b""
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            if text in end + block:
                return True
            end = block[-len(text) :]
    return False


@contextlib.contextmanager
def staged(target: Path, *, resumable: bool = False, resume: bool = False) -> Iterator[Staging]:
    """Yield a Staging for the target; on exit, everything that was not committed is removed.

    Args:
        target: the final file.
        resumable: but for a side file that another run can go on from.
        resume: go on from one.

    Raises:
        EnvironmentFailure: the folder is missing or can't be written, or the disk is full.
    """
    with folder_beside(target) as place, contextlib.ExitStack() as stack:
        yield Staging(target, place, stack, resumable=resumable, resume=resume)


@contextlib.contextmanager
def folder_beside(target: Path) -> Iterator[Path]:
    """Yield a temporary folder beside a target, in which it is made; on exit, what is left there is removed.

    Raises:
        EnvironmentFailure: as `staged`.
    """
    folder = target.parent
    if not folder.is_dir():
        raise EnvironmentFailure(f"output folder '{folder}' does not exist")
    sweep(folder)
    with contextlib.ExitStack() as stack:
        stack.enter_context(writing_in(str(folder.resolve())))
        try:
            place = stack.enter_context(temporary(folder))
        except OSError as error:
            raise EnvironmentFailure(f"can't write in '{folder}': {error.strerror}") from error
        try:
            yield place
        except OSError as error:
            raise EnvironmentFailure(f"can't write '{target}': {error.strerror or error}") from error


def save_text(target: Path, text: str) -> None:
    """Write a text file atomically.

    Raises:
        EnvironmentFailure: as `staged`.
    """
    with staged(target) as staging:
        staging.write_text(text)
        staging.commit()


def target_path(name: str | Path) -> Path:
    """Return the path of a file to write.

    Raises:
        UsageError: it ends with a slash, so that it names a folder.
    """
    text = str(name)
    if text.endswith(tuple(slash + dot for slash in {os.sep, os.altsep or "/"} for dot in ("", "."))):
        raise UsageError(f"output '{text}' is a folder", f"name a file in it: {Path(text) / 'int8.onnx'}")
    return Path(name)


def check_target(target: Path, inputs: Iterable[Path], force: bool) -> None:
    """Refuse a target that is one of the inputs, by whatever name, or that exists without --force.

    Raises:
        UsageError: as above; or libraries can't open a file of this name.
        EnvironmentFailure: its folder is missing or can't be written.
    """
    name, folder = f"output '{target}'", target.parent
    try:
        str(target).encode()
        exists = _is_there(target)
    except UnicodeEncodeError:
        raise UsageError(f"{name} is not UTF-8", "the runtime opens only UTF-8 names") from None
    except ValueError as error:  # a null character
        raise UsageError(f"{name}: {error}") from error
    except OSError as error:
        raise EnvironmentFailure(f"{name}: {error.strerror}") from error
    if target.is_dir():
        raise UsageError(f"{name} is a folder", f"name a file in it: {target / 'int8.onnx'}")
    for source in inputs:
        if exists and _is_same(source, target):
            raise UsageError(f"{name} is the input '{source}'", "write to another file")
        if _is_side_file(source, target) and _is_same(source.parent, folder):
            raise UsageError(f"{name} would take the name of the input's '{source}'", "choose another name")
    if exists and target.exists() and not target.is_file():
        raise UsageError(f"{name} exists and is not a regular file")
    if exists and not force:
        raise UsageError(f"{name} exists", "add --force to replace it")
    if not folder.is_dir():
        raise EnvironmentFailure(f"output folder '{folder}' does not exist")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise EnvironmentFailure(f"can't write in '{folder}': permission denied")


def _is_there(path: Path) -> bool:
    """Return whether the name exists, even as a broken link."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _is_same(a: Path, b: Path) -> bool:
    try:
        return a.samefile(b)
    except (OSError, ValueError):
        return False
