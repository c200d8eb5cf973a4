"""Sequences of classes that two models give: how many are equal, as they are and as CTC reads them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# The least share of steps without a symbol, by which the output of a CTC recognizer shows. Texts of 10
# symbols in 40 steps leave 75%, plates of 7 in 18 leave 61%.
LEAST_BLANK = 0.25


class SequenceCounts:
    """Counts over pairs of sequences.

    The blank of CTC is class 0 or the last class: the one that FP32 gives more often.
    """

    def __init__(self) -> None:
        self.sequences = self.equal = self.steps_equal = 0
        self._collapsed = np.zeros(2, np.int64)  # equal with blank 0, with the last class
        self._histogram = np.zeros(0, np.int64)
        self._last = 0

    def add(self, a: NDArray[np.int64], b: NDArray[np.int64], classes: int) -> None:
        """Add pairs of sequences, [S, T] each; `a` is FP32's.

        Args:
            a, b: class numbers.
            classes: how many there are; 0: unknown, and the blank is 0.
        """
        self.sequences += len(a)
        self.steps_equal += int(np.count_nonzero(a == b))
        self._last = max(self._last, classes - 1)
        counts = np.bincount(np.maximum(a, 0).reshape(-1), minlength=self._histogram.size)
        counts[: self._histogram.size] += self._histogram
        self._histogram = counts
        for x, y in zip(a, b, strict=True):
            if np.array_equal(x, y):
                self.equal += 1
                self._collapsed += 1
            else:
                for index, blank in enumerate((0, self._last)):
                    self._collapsed[index] += np.array_equal(collapsed(x, blank), collapsed(y, blank))

    @property
    def looks_like_ctc(self) -> bool:
        """Whether the blank is FP32's most frequent class, and frequent."""
        blanks = self._of(self._blank)
        return bool(
            blanks == self._histogram.max(initial=0) and blanks >= LEAST_BLANK * self._histogram.sum() > 0
        )

    @property
    def equal_collapsed(self) -> int:
        """The number that are equal after collapsing repeats and dropping blanks."""
        return int(self._collapsed[int(self._blank != 0)])

    @property
    def _blank(self) -> int:
        return self._last if self._of(self._last) > self._of(0) else 0

    def _of(self, index: int) -> int:
        return int(self._histogram[index]) if index < self._histogram.size else 0


def collapsed(classes: NDArray[np.int64], blank: int) -> NDArray[np.int64]:
    """Return the text of CTC steps [T]: repeats collapsed, then blanks dropped (Graves et al. 2006)."""
    first = np.ones(classes.size, bool)
    first[1:] = classes[1:] != classes[:-1]
    return np.asarray(classes[first & (classes != blank)])
