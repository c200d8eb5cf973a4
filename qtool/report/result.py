"""What quantize and tune return."""

from __future__ import annotations

from dataclasses import dataclass, field

from qtool.calibration.ranges import Ranges
from qtool.plan.model import Plan
from qtool.report.model import Report


@dataclass(frozen=True)
class Result:
    """What quantize and tune return.

    Args:
        report: what was done and how well it went.
        plan: what would do it again; its sites have scales unless it was a dry run.
        ranges: the calibration behind it.
    """

    report: Report
    plan: Plan
    ranges: Ranges = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<Result {'ok' if self.ok else 'failed'}: {self.report!r}, {self.plan!r}>"

    @property
    def ok(self) -> bool:
        """Whether every gate held; only then is the output in place."""
        return not self.report.failed
