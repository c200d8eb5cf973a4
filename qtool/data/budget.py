"""The budget of a run: the inferences of the whole model, and the seconds, that choices may cost.

A sample that is read for a choice counts as one inference; sensitivity adds those that it repeats. Timing and
work on single layers (GPTQ) are not inferences of the whole model.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass, field

from qtool.data.samples import Sample, Samples, Wrapped


@dataclass
class Budget:
    """The inferences and seconds of a run.

    Args:
        most: the most inferences; None: any number.
        reserve: of these, the number that only the last steps may use: acceptance and the audit.
        seconds: after which nothing new is tried; 0: no limit.
        clock: seconds.
        spent: inferences so far.
        timing: seconds that timing took so far.
    """

    most: int | None = None
    reserve: int = 0
    seconds: float = 0.0
    clock: Callable[[], float] = time.monotonic
    spent: int = 0
    timing: float = 0.0
    started: float = field(init=False)

    def __post_init__(self) -> None:
        self.started = self.clock()

    def add(self, inferences: int) -> None:
        """Count inferences."""
        self.spent += inferences

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Count the seconds of a block as timing."""
        start = self.clock()
        try:
            yield
        finally:
            self.timing += self.clock() - start

    @property
    def elapsed(self) -> float:
        """The seconds since the run began."""
        return self.clock() - self.started

    @property
    def seconds_left(self) -> float:
        """The seconds that --time-budget leaves; infinity without it."""
        return max(self.seconds - self.elapsed, 0.0) if self.seconds else math.inf

    @property
    def out_of_time(self) -> bool:
        """Whether --time-budget is used up."""
        return not self.seconds_left

    def affords(self, inferences: int, *, last: bool = False) -> bool:
        """Return whether this number of further inferences are within the budget, and there is time.

        Args:
            inferences: their number.
            last: for one of the last steps, which may use the reserve.
        """
        most = math.inf if self.most is None else self.most - (0 if last else self.reserve)
        return not self.out_of_time and self.spent + inferences <= most

    def share(self, part: float) -> int | None:
        """Return a share of all inferences, or what is left where that is less; None: any number."""
        return (
            None
            if self.most is None
            else max(0, min(int(part * self.most), self.most - self.reserve - self.spent))
        )


class Counted(Wrapped):
    """Samples that count as inferences when they are read.

    Args:
        source: the samples.
        budget: which they are added to.
    """

    def __init__(self, source: Samples, budget: Budget) -> None:
        super().__init__(source)
        self._budget = budget

    def read(self, positions: Set[int] | None = None) -> Iterator[Sample]:
        for sample in self._source.read(positions):
            self._budget.add(1)
            yield sample

    @property
    def uncounted(self) -> Samples:
        """The samples without the count, for timing."""
        return self._source
