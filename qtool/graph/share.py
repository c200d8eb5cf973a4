"""Weights that several models of a folder have in common, in one side file."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import onnx

from qtool.graph.limits import survey
from qtool.graph.load import parse
from qtool.runtime.heartbeat import beat
from qtool.runtime.tempdirs import flush

SHARED = "shared"  # the name of such a side file begins with it
_LEAST_BYTES = 1024  # of a tensor; below that the reference is half as large
_LEAST_SHARE = 0.1  # of all bytes, that sharing must save
_ALIGNMENT = 64


def share_weights(models: Sequence[Path]) -> tuple[Path, int] | None:
    """Write tensors of equal bytes once, to a side file beside the models that have them.

    The side file also holds the other external data of these models, whose own side files are removed.

    Args:
        models: files of one folder, which are written anew.

    Returns:
        The side file, and the bytes that it saves; None where less than a tenth would be saved.
    """
    contents = {path: list(_digests(path)) for path in models}
    sizes = {digest: size for pairs in contents.values() for digest, size in pairs}
    counts = Counter(digest for pairs in contents.values() for digest in dict(pairs))
    files = {*models, *(file for path in models for file in side_files(path))}
    saved = sum((count - 1) * sizes[digest] for digest, count in counts.items())
    if saved <= _LEAST_SHARE * sum(file.stat().st_size for file in files):
        return None
    shared = {digest for digest, count in counts.items() if count > 1}
    sharing = [path for path, pairs in contents.items() if shared & dict(pairs).keys()]
    draft, places, hashed = models[0].parent / f"{SHARED}.data", dict[bytes, int](), hashlib.sha256()
    with draft.open("wb") as stream:
        for path in sharing:
            for tensor, (digest, _) in zip(_tensors(parse(path)), contents[path], strict=True):
                if digest in places or not (digest in shared or _is_external(tensor)):
                    continue
                padding = bytes(-stream.tell() % _ALIGNMENT)
                places[digest] = stream.tell() + len(padding)
                for part in (padding, _data(tensor, path)):
                    stream.write(part)
                    hashed.update(part)
        stream.flush()
        flush(stream.fileno())
    # Named by content, as other side files are: models of two folders that meet in one keep their own.
    side = draft.replace(draft.with_name(f"{SHARED}.{hashed.hexdigest()[:16]}.data"))
    for path in sharing:
        _refer(path, side.name, contents[path], places)
    return side, saved


def side_files(path: Path) -> set[Path]:
    """Return the files that a model's external data names, whether they exist or not.

    Raises:
        ModelError: the model can't be read.
    """
    tensors = survey(parse(path), str(path)).tensors
    return {path.parent / e.value for t in tensors for e in t.external_data if e.key == "location"}


def _refer(path: Path, side: str, contents: Sequence[tuple[bytes, int]], places: Mapping[bytes, int]) -> None:
    """Write a model whose tensors are in a side file, and remove its own one."""
    proto, own = parse(path), side_files(path)
    for tensor, (digest, size) in zip(_tensors(proto), contents, strict=True):
        if digest not in places:
            continue
        tensor.ClearField("raw_data")
        tensor.ClearField("external_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", side), ("offset", places[digest]), ("length", size)):
            tensor.external_data.add(key=key, value=str(value))
    with path.open("wb") as stream:
        stream.write(proto.SerializeToString(deterministic=True))
        stream.flush()
        flush(stream.fileno())
    for file in own:
        file.unlink(missing_ok=True)


def _tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yield the initializers that are large, or in a side file; nested graphs included."""
    for tensor in _initializers(proto.graph):
        if _is_external(tensor) or len(tensor.raw_data) >= _LEAST_BYTES:
            yield tensor
        beat()


def _digests(path: Path) -> Iterator[tuple[bytes, int]]:
    """Yield the digest and the size of each of these tensors; one is in memory at a time."""
    for tensor in _tensors(parse(path)):
        data = _data(tensor, path)
        yield hashlib.sha256(data).digest(), len(data)


def _initializers(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs:
                yield from _initializers(inner)


def _is_external(tensor: onnx.TensorProto) -> bool:
    return bool(tensor.data_location == onnx.TensorProto.EXTERNAL)


def _data(tensor: onnx.TensorProto, path: Path) -> bytes:
    """Return the bytes of a tensor of a model."""
    if not _is_external(tensor):
        return bytes(tensor.raw_data)
    place = {entry.key: entry.value for entry in tensor.external_data}
    with (path.parent / place["location"]).open("rb") as stream:
        stream.seek(int(place.get("offset", 0)))
        data: bytes = stream.read(int(place["length"]) if "length" in place else -1)
        return data
