"""Which tests run when: `make test` leaves out what `make test-all` runs at night (pytest --nightly)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

_VARIABLE = "NIGHTLY_TESTS"  # not QTOOL_..: qtool refuses variables that name no option


def be_nightly() -> None:
    """Run everything in this process and in those that it starts. Call it before test modules are imported."""
    os.environ[_VARIABLE] = "1"


def nightly() -> bool:
    """Return whether everything is to run."""
    return os.environ.get(_VARIABLE) == "1"


def sample(cases: Sequence[T], every: int) -> Sequence[T]:
    """Return one of every `every` cases, from the first on; all of them at night."""
    return cases if nightly() else cases[::every]
