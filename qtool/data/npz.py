"""A directory of .npz files: one sample a file, keys are input names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Set
from pathlib import Path

import numpy as np

from qtool.data.samples import Arrays, Sample
from qtool.errors import DataError, did_you_mean, printable
from qtool.steps import step


class NpzDirectory:
    """Samples of `folder/*.npz` in natural order (2.npz before 10.npz).

    Raises:
        DataError: no such folder, no .npz in it; when read: a file that is no archive of plain arrays.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.exists():
            siblings = (
                [p.name for p in folder.parent.iterdir() if p.is_dir()] if folder.parent.is_dir() else []
            )
            raise DataError(f"data directory '{folder}' does not exist", did_you_mean(folder.name, siblings))
        if not folder.is_dir():
            raise DataError(
                f"'{folder}' is not a directory", "name a directory of .npz files, one sample a file"
            )
        self.folder = folder
        self.files = sorted(folder.glob("*.npz"), key=_natural)
        if not self.files:
            held = sorted({p.suffix or p.name for p in folder.iterdir()})[:6]
            raise DataError(
                f"'{folder}' holds no .npz file"
                + (f" (it has: {', '.join(held)})" if held else " (it is empty)"),
                "save one sample a file: np.savez(path, **{input_name: array})",
            )

    @property
    def name(self) -> str:
        return str(self.folder)

    def __len__(self) -> int:
        return len(self.files)

    def read(self, positions: Set[int] | None = None) -> Iterator[Sample]:
        for index, file in enumerate(self.files):
            if positions is None or index in positions:
                with step(str(file), "it is read", DataError):
                    sample = Sample(file.name, self._load(file))
                yield sample

    @staticmethod
    def _load(file: Path) -> Arrays:
        try:
            # Our own stream: numpy leaves its file open when a member can't be read.
            with file.open("rb") as stream:
                archive = np.load(stream, allow_pickle=False)
                if isinstance(archive, np.ndarray):
                    raise DataError(f"{file}: a single array, not an .npz archive of named arrays")
                with archive:
                    arrays = {key: archive[key] for key in archive.files}
            for key, array in arrays.items():
                if not isinstance(array, np.ndarray):
                    raise DataError(f"{file}: '{printable(key)}' is not an array")
            return arrays
        except DataError:
            raise
        except Exception as error:  # zipfile, zlib, numpy and the OS each raise their own
            raise DataError(f"{file}: not a readable .npz file: {printable(str(error), 120)}") from error


def _natural(path: Path) -> list[tuple[int, int, str]]:
    """A key that sorts numbers by value: digits as (0, number, ''), the rest as (1, 0, text)."""
    parts = re.split(r"(\d+)", path.name)
    return [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in parts]
