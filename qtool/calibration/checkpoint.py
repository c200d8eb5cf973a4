"""A calibration that can be killed: what it has done so far, in a file."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from qtool.calibration.runner import SoFar
from qtool.calibration.serial import ranges_from_document, ranges_to_document
from qtool.errors import UsageError, printable
from qtool.graph.save import staged

SCHEMA = "qtool.checkpoint/1"
# Between two writings. What a kill can cost.
SECONDS = 10.0
_LARGEST = 1 << 32


@dataclass(frozen=True)
class Checkpoint:
    """Where a calibration stands.

    Args:
        so_far: samples done, and what they showed.
        digest: the sum of these samples' digests.
    """

    so_far: SoFar
    digest: int


class CheckpointFile:
    """The file of a calibration.

    Args:
        path: of the file; its folder must exist.
        run: what the calibration is of: all of it must be the same when it goes on.
        resume: go on from what is there; nothing there is a fresh start.

    Raises:
        UsageError: the file is there already and is not to be resumed, or is of another run, or damaged.
    """

    def __init__(self, path: Path, run: Mapping[str, str | int], *, resume: bool) -> None:
        self._path = path
        self._run = dict(run)
        self._written = time.monotonic()
        if path.exists() and not resume:
            raise UsageError(
                f"checkpoint '{path}' is there already", "add --resume to go on from it, or remove it"
            )

    def read(self) -> Checkpoint | None:
        """What is there; None when nothing is."""
        name = f"checkpoint '{self._path}'"
        try:
            if self._path.stat().st_size > _LARGEST:
                raise UsageError(f"{name} is larger than {_LARGEST:,} bytes", "is it the one?")
            document = json.loads(self._path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            raise UsageError(f"{name} can't be read: {printable(str(error), 120)}", "remove it") from error
        try:
            if document["schema"] != SCHEMA:
                raise UsageError(f"{name} is not of this version ({SCHEMA})", "remove it")
            for key, value in self._run.items():
                other = document["run"].get(key)
                if other != value:
                    raise UsageError(
                        f"{name} is of another run: its {key} is {printable(str(other), 80)}, not "
                        f"{printable(str(value), 80)}",
                        "the same model, samples and options, or remove it",
                    )
            so_far = SoFar(int(document["done"]), ranges_from_document(document["tensors"]))
            return Checkpoint(so_far, int(document["digest"], 16))
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
            raise UsageError(f"{name} is damaged: {printable(str(error), 120)}", "remove it") from error

    def keep(self, make: Callable[[], Checkpoint]) -> None:
        """Write where the calibration stands, whole or not at all, unless that was done a moment ago."""
        if time.monotonic() - self._written < SECONDS:
            return
        found = make()
        document = {
            "schema": SCHEMA,
            "run": self._run,
            "done": found.so_far.done,
            "digest": f"{found.digest:x}",
            "tensors": ranges_to_document(found.so_far.ranges),
        }
        with staged(self._path) as staging:
            staging.write_text(json.dumps(document))
            staging.commit()
        self._written = time.monotonic()

    def remove(self) -> None:
        """The calibration is done."""
        self._path.unlink(missing_ok=True)
