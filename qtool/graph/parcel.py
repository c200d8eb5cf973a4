"""A model that a worker opens, on this machine or on another one."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Parcel:
    """The argument of a session, in a form that travels.

    Args:
        loadable: the argument itself, where it is valid for the worker.
        name: of the model file among `files`.
        files: name -> bytes, of a model for another machine.
    """

    loadable: Path | bytes = b""
    name: str = ""
    files: Mapping[str, bytes] = field(default_factory=dict)

    @classmethod
    def of(cls, loadable: Path | bytes, *, local: bool) -> Parcel:
        """Return the parcel of a model, alone in its folder where it is a file.

        Args:
            loadable: the argument of a session.
            local: the worker is on this machine.
        """
        if local or isinstance(loadable, bytes):
            return cls(loadable)
        files = {file.name: file.read_bytes() for file in loadable.parent.iterdir() if file.is_file()}
        return cls(name=loadable.name, files=files)

    @contextmanager
    def opened(self) -> Iterator[Path | bytes]:
        """Yield the argument of a session."""
        if not self.files:
            yield self.loadable
            return
        with tempfile.TemporaryDirectory(prefix="qtool-parcel-") as folder:
            for name, data in self.files.items():
                Path(folder, name).write_bytes(data)
            yield Path(folder, self.name)
