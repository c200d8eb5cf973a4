"""What the function that opens a kind of source is told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from qtool.data.ports import Ports
from qtool.data.reading import Reading


@dataclass(frozen=True)
class Found:
    """What a kind's function gets to open.

    Args:
        text: as the user wrote it.
        folder: where the files are; `names`, relative to it, natural order, one at least. A single file is
            a folder of one. Empty for kinds that are no path.
        ports: what the model wants, shapes as the user gave them.
        reading: what else the user said.
        model: the model's folder, for files that lie beside it; None for a model in memory.
    """

    text: str
    folder: Path
    names: list[str]
    ports: Ports
    reading: Reading
    model: Path | None = None

    @property
    def files(self) -> list[Path]:
        """The files to be read."""
        return [self.folder / name for name in self.names]
