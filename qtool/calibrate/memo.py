"""The ranges of one model, each found once, at first use."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence

from qtool.calibrate.ranges import Range, Ranges

Observe = Callable[[Sequence[str]], tuple[Ranges, Mapping[str, str]]]
"""From names of values to their ranges, and to what each rests on where no sample was run."""


class RangeMemo:
    """A memo of ranges by value name.

    Values are observed in fixed sets, which follow from the model alone: a range never depends on which plans
    asked for it, or in which order.

    Args:
        sets: names of values, each in one set at most; what is in none has no range.
        observe: finds the ranges of a set; values that never held an element are not in its result.
    """

    def __init__(self, sets: Sequence[Sequence[str]], observe: Observe) -> None:
        self._set_of = {name: index for index, names in enumerate(sets) for name in names}
        self._sets = sets
        self._observe = observe
        self._found: dict[int, Ranges] = {}
        self._basis: dict[str, str] = {}
        self._lock = threading.Lock()

    def of(self, values: Iterable[str]) -> Ranges:
        """Return the ranges of these values. A value without a range is left out.

        Raises:
            DataError, RuntimeFailure: from the run over the samples.
        """
        found: dict[str, Range] = {}
        for name in values:
            if name not in self._set_of:
                continue
            ranges = self._ranges_of(self._set_of[name])
            if name in ranges:
                found[name] = ranges[name]
        return found

    def basis(self, values: Iterable[str]) -> dict[str, str]:
        """Return what each range rests on that no sample was run for."""
        return {name: self._basis[name] for name in self.of(values) if name in self._basis}

    def _ranges_of(self, index: int) -> Ranges:
        with self._lock:
            if index not in self._found:
                self._found[index], basis = self._observe(self._sets[index])
                self._basis |= basis
            return self._found[index]
