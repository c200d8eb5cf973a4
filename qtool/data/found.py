"""What the function that opens a kind of source is told."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from qtool.data.model_inputs import ModelInput, ModelInputs
from qtool.data.reading import Reading
from qtool.errors import DataError, printable


@dataclass(frozen=True)
class Found:
    """What a kind's function gets to open.

    Args:
        text: as the user wrote it.
        folder: where the files are; `names`, relative to it, natural order, one at least. A single file is
            a folder of one. Empty for kinds that are no path.
        inputs: what the model wants, shapes as the user gave them.
        reading: what else the user said.
        model: the model's folder, for files that lie beside it; None for a model in memory.
    """

    text: str
    folder: Path
    names: list[str]
    inputs: ModelInputs
    reading: Reading
    model: Path | None = None

    @property
    def files(self) -> list[Path]:
        """The files to be read."""
        return [self.folder / name for name in self.names]

    @cached_property
    def wanted(self) -> dict[str, ModelInput]:
        """The inputs that samples must have, as the samples call them: --map renames some, --fill makes up
        others.
        """
        rename, fill = self.reading.rename, self.reading.fill
        own = {n: p for n, p in self.inputs.items() if n not in rename.values()}
        renamed = {old: self.inputs[new] for old, new in rename.items() if new in self.inputs}
        return {n: p for n, p in (own | renamed).items() if p.name not in fill}

    def only(self, what: str) -> tuple[str, ModelInput]:
        """The one input of a model of one, and what the samples call it.

        Args:
            what: has no names for more: "a file .npy holds one array".

        Raises:
            DataError: the model has another number of inputs.
        """
        if len(self.wanted) != 1:
            names = printable(", ".join(self.wanted), 120) or "none"
            raise DataError(
                f"{printable(self.text)}: {what}, and the model has {len(self.wanted)} inputs ({names})",
                "save .npz files, whose keys are input names; or --fill INPUT=NUMBER for all but one",
            )
        return next(iter(self.wanted.items()))
