"""The checkpoint of a calibration: its state in a file, from which a later run continues."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from qtool.calibration.ranges_file import check_ranges
from qtool.calibration.runner import SoFar
from qtool.errors import UsageError, printable
from qtool.graph.save import save_text
from qtool.serialize.json_format import JsonFormat

SCHEMA = "qtool.checkpoint/2"
SECONDS = 10.0
"""The time between two writes: the most that a kill can cost."""


@dataclass(frozen=True)
class Checkpoint:
    """The state of a calibration.

    Args:
        so_far: samples done, and their ranges.
        digest: the sum of these samples' digests.
    """

    so_far: SoFar
    digest: int


@dataclass(frozen=True)
class _Saved:
    """The content of the file.

    Args:
        run: the model, samples and options of the calibration.
        state: of the calibration.
    """

    run: Mapping[str, str]
    state: Checkpoint


_FORMAT = JsonFormat(
    _Saved,
    SCHEMA,
    "checkpoint",
    hint="remove it",
    largest=1 << 32,
    levels=1,
    check=lambda saved: check_ranges(saved.state.so_far.ranges),
)


class CheckpointFile:
    """The file of a calibration.

    Args:
        path: of the file; its folder must exist.
        run: the model, samples and options, which must be the same in a run that continues this one.
        resume: continue from the file; without a file, start afresh.

    Raises:
        UsageError: the file exists, and `resume` is not set.
    """

    def __init__(self, path: Path, run: Mapping[str, str], *, resume: bool) -> None:
        self._path = path
        self._run = dict(run)
        self._written = time.monotonic()
        if path.exists() and not resume:
            raise UsageError(
                f"checkpoint '{path}' is there already", "add --resume to go on from it, or remove it"
            )

    def read(self) -> Checkpoint | None:
        """Return the state in the file; None where there is none.

        Raises:
            UsageError: the file is damaged, or of another run.
        """
        if not self._path.exists():
            return None
        saved = _FORMAT.read(self._path)
        for key, value in self._run.items():
            other = saved.run.get(key)
            if other != value:
                raise UsageError(
                    f"checkpoint '{self._path}' is of another run: its {key} is "
                    f"{printable(str(other), 80)}, not {printable(value, 80)}",
                    "the same model, samples and options, or remove it",
                )
        return saved.state

    def keep(self, make: Callable[[], Checkpoint]) -> None:
        """Write the state atomically, unless that was done less than SECONDS ago."""
        if time.monotonic() - self._written < SECONDS:
            return
        save_text(self._path, _FORMAT.to_json(_Saved(self._run, make())))
        self._written = time.monotonic()

    def remove(self) -> None:
        """Remove the file: the calibration is complete."""
        self._path.unlink(missing_ok=True)
