"""A directory of .npz files: one sample a file, keys are input names."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Set
from pathlib import Path

from qtool.data.archive import Archive, Mark
from qtool.data.samples import Sample
from qtool.errors import DataError, did_you_mean, printable


class NpzDirectory:
    """Samples of `folder/*.npz` in natural order (2.npz before 10.npz).

    Raises:
        DataError: no such folder, no .npz in it; when read: a file that is no archive of plain arrays, or
            another one than the last time.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        held = _listed(folder)
        self.files = [folder / name for name in sorted(held, key=_natural) if name.endswith(".npz")]
        self._marks: dict[int, Mark] = {}
        if not self.files:
            kinds = ", ".join(sorted({Path(name).suffix or name for name in held})[:6])
            has = f"it has: {printable(kinds)}" if held else "it is empty"
            raise DataError(
                f"'{printable(str(folder))}' holds no .npz file ({has})",
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
                archive = Archive(file)
                if self._marks.setdefault(index, archive.mark) != archive.mark:
                    raise archive.changed()
                yield Sample(file.name, archive.arrays)


def _listed(folder: Path) -> list[str]:
    """The names in a folder."""
    name = printable(str(folder))
    try:
        return [path.name for path in folder.iterdir()]
    except FileNotFoundError:
        siblings: list[str] = []
        with contextlib.suppress(OSError):
            siblings = [p.name for p in folder.parent.iterdir() if p.is_dir()]
        hint = did_you_mean(folder.name, siblings)
        raise DataError(f"data directory '{name}' does not exist", hint) from None
    except NotADirectoryError:
        hint = "name a directory of .npz files, one sample a file"
        raise DataError(f"'{name}' is not a directory", hint) from None
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"data directory '{name}' can't be read: {reason}") from error


def _natural(name: str) -> list[tuple[int, int, str]]:
    """A key that sorts numbers by value: digits as (0, number, ''), the rest as (1, 0, text)."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in parts]
