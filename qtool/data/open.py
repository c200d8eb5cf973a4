"""From what the user named to a source: the one place to add a kind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sized
from pathlib import Path
from typing import Any

from qtool.data.memory import InMemory, Spooled
from qtool.data.npz import NpzDirectory
from qtool.data.samples import Source
from qtool.errors import DataError

Data = str | Path | Iterable[Mapping[str, Any]]


def open_source(data: Data) -> Source:
    """A directory of .npz files by its path, or any iterable of dicts (input name -> array).

    Raises:
        DataError: missing, empty, or of no known kind.
    """
    if isinstance(data, str):
        return NpzDirectory(Path(data))
    if isinstance(data, Path):
        return NpzDirectory(data)
    if not isinstance(data, Iterable):
        raise DataError(
            f"samples of no known kind: {type(data).__name__}", "a directory of .npz, or an iterable of dicts"
        )
    samples: Iterable[Mapping[str, Any]] = data
    if not isinstance(data, Sized):
        return Spooled(samples)
    if not len(data):
        raise DataError("the list of samples is empty")
    return InMemory(samples, len(data))
