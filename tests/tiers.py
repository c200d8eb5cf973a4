"""The two tiers of tests: `make test` leaves out what `make test-all` runs at night (pytest --nightly)."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

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


def in_turn(cases: Iterable[Any], *axes: Iterable[Any]) -> list[tuple[Any, ...]]:
    """Return every case with one combination of the axes, in turn; with every combination at night.

    Each round starts one further on, so that cases which are a product themselves meet every combination.
    """
    combinations = list(itertools.product(*axes))
    rows = [case if isinstance(case, tuple) else (case,) for case in cases]
    if nightly():
        return [(*row, *values) for row in rows for values in combinations]
    count = len(combinations)
    return [(*row, *combinations[(i + i // count) % count]) for i, row in enumerate(rows)]


def examples(count: int) -> int:
    """Return how many examples hypothesis draws: a fifth of `count`, all of them at night."""
    return count if nightly() else max(count // 5, 1)
