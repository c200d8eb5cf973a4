"""The side file of a model: its large tensors, one after the other, each computed as it is written.

A run that may be continued keeps a line for each finished tensor beside it: where the tensor ends, and the
digest of the file up to there. Another run goes on behind the last tensor whose digest is right, whatever a
crash has left of the file.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import onnx_ir as ir

from qtool.runtime.heartbeat import beat
from qtool.runtime.tempdirs import flush
from qtool.runtime.threads import in_threads

if TYPE_CHECKING:
    from hashlib import _Hash

SIDE_TENSOR_BYTES = 1024
_AHEAD = 3  # tensors a core: the integers, the scales and the zero points of a weight
_ALIGNMENT = 64  # of a tensor, in bytes: enough for any element type, and a cache line
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Finished:
    """The lines of the tensors that are finished.

    Args:
        file: of the lines.
        key: of the side file: all that its bytes follow from. Lines with another one are not used.
    """

    file: Path
    key: str

    def lines(self) -> list[str]:
        """Return the lines that may be used."""
        if not self.file.exists():
            return []
        key, *lines = self.file.read_text("utf-8").splitlines() or [""]
        return lines if key == self.key else []


def side_tensors(model: ir.Model) -> Iterator[tuple[ir.Value, ir.TensorProtocol]]:
    """Yield the tensors that are large enough for a side file."""
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if tensor is None or tensor.dtype == ir.DataType.STRING or tensor.nbytes < SIDE_TENSOR_BYTES:
                continue
            yield value, tensor


def layout(tensors: Sequence[ir.TensorProtocol]) -> list[int]:
    """Return the offset of each tensor in the file."""
    offsets, end = list[int](), 0
    for tensor in tensors:
        offsets.append(end + -end % _ALIGNMENT)
        end = offsets[-1] + tensor.nbytes
    return offsets


def write_side(
    file: Path, tensors: Sequence[ir.TensorProtocol], finished: Finished | None = None, *, durable: bool
) -> str:
    """Write tensors to a file, and return its digest.

    Args:
        file: the side file; it may hold finished tensors already.
        tensors: few are in memory at a time.
        finished: the lines to go on from, and to keep; None: begin anew.
        durable: flush the file to disk; else it has no digest.
    """
    digest = hashlib.sha256()
    ends = [offset + tensor.nbytes for offset, tensor in zip(layout(tensors), tensors, strict=True)]
    lines: IO[str] | None = None
    count = 0
    with contextlib.ExitStack() as stack:
        stream = stack.enter_context(file.open("r+b" if finished is not None and file.exists() else "w+b"))
        if finished is not None:
            old = finished.lines()
            count, digest = _taken_over(stream, ends, old)
            stream.seek(ends[count - 1] if count else 0)
            stream.truncate()
            lines = stack.enter_context(finished.file.open("w", encoding="utf-8"))
            lines.write("".join(f"{line}\n" for line in (finished.key, *old[:count])))
        for data, end in zip(
            in_threads(lambda tensor: tensor.tobytes(), tensors[count:], ahead=_AHEAD),
            ends[count:],
            strict=True,
        ):
            for part in (bytes(end - len(data) - stream.tell()), data):
                stream.write(part)
                if durable:
                    digest.update(part)
            if lines is not None:
                stream.flush()
                lines.write(f"{end} {digest.hexdigest()}\n")
                lines.flush()
            beat()
        if durable:
            stream.flush()
            flush(stream.fileno())
    return digest.hexdigest()


def _taken_over(stream: IO[bytes], ends: Sequence[int], lines: Sequence[str]) -> tuple[int, _Hash]:
    """Return the number of tensors in a file whose lines are right, and the digest up to the last."""
    digest = hashlib.sha256()
    for count, (end, line) in enumerate(zip(ends, lines, strict=False)):
        tried = digest.copy()
        while (left := end - stream.tell()) > 0 and (block := stream.read(min(left, _BLOCK))):
            tried.update(block)
        if line != f"{end} {tried.hexdigest()}":
            return count, digest
        digest = tried
        beat()
    return min(len(ends), len(lines)), digest
