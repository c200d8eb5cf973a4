"""The ranges of one model, each computed once, at first use."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence

from qtool.calibration.ranges import Range, Ranges

Observe = Callable[[Sequence[str]], tuple[Ranges, Mapping[str, str]]]
"""From names of values to their ranges, and to the basis of each where no sample was run."""


class RangeMemo:
    """A memo of ranges by value name.

    Values are observed in fixed sets, which follow from the model alone: a range does not depend on the plans
    that need it, or on their order.

    Args:
        sets: names of values, each in one set at most; a value in no set has no range.
        observe: returns the ranges of a set, without values that never held an element.
        fixed: ranges that need no observation.
        parts: the memos of the buckets of steps, where the model has such.
    """

    def __init__(
        self,
        sets: Sequence[Sequence[str]],
        observe: Observe,
        fixed: Ranges | None = None,
        parts: Sequence[RangeMemo] = (),
    ) -> None:
        self.parts = parts
        self._fixed = fixed or {}
        self._sets = [[name for name in names if name not in self._fixed] for names in sets]
        self._set_of = {name: index for index, names in enumerate(self._sets) for name in names}
        self._observe = observe
        self._observed: dict[int, Ranges] = {}
        self._basis: dict[str, str] = {}
        self._lock = threading.Lock()

    def of(self, values: Iterable[str]) -> Ranges:
        """Return the ranges of these values. A value without a range is left out.

        Raises:
            DataError, RuntimeFailure: from the run over the samples.
        """
        ranges: dict[str, Range] = {}
        for name in values:
            if name in self._fixed:
                ranges[name] = self._fixed[name]
            if name not in self._set_of:
                continue
            observed = self._ranges_of(self._set_of[name])
            if name in observed:
                ranges[name] = observed[name]
        return ranges

    def basis(self, values: Iterable[str]) -> dict[str, str]:
        """Return the basis of each range for which no sample was run."""
        return {name: self._basis[name] for name in self.of(values) if name in self._basis}

    def _ranges_of(self, index: int) -> Ranges:
        with self._lock:
            if index not in self._observed:
                self._observed[index], basis = self._observe(self._sets[index])
                self._basis |= basis
            return self._observed[index]
