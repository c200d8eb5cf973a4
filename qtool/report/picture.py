"""The plans that were raced, as dots on a plane: what the plots in the terminal and in SVG have in common."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from qtool.report.model import Report

# From here on an error is that of float32 itself: it is drawn as exact, just beyond the most accurate other.
_EXACT_DB = 100.0
_BEYOND_DB = 3.0
_MARGIN = 0.06
_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True)
class Dot:
    """A plan on the plane.

    Args:
        name: of the plan.
        x, y: where it is drawn.
        said: its figures in words.
        chosen: it is the answer.
        dominated: another one is as good in speed, error and size, and better in one.
    """

    name: str
    x: float
    y: float
    said: str
    chosen: bool
    dominated: bool


@dataclass(frozen=True)
class Axis:
    """An axis from `low` to `high`, with numbers at `ticks`.

    Args:
        label: what is on it, and in what unit.
    """

    label: str
    low: float
    high: float
    ticks: tuple[float, ...]

    def share(self, value: float) -> float:
        """How far along the axis a value is, from 0 to 1."""
        return min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)


@dataclass(frozen=True)
class Picture:
    """Dots, and the axes that they are on."""

    dots: tuple[Dot, ...]
    x: Axis
    y: Axis


def picture(report: Report) -> Picture:
    """Speed, or bytes where only weights are quantized, against SQNR."""
    front = set(report.front)
    finite = [t.sqnr for t in report.trials if abs(t.sqnr) < _EXACT_DB]
    low, high = min(finite, default=0.0) - _BEYOND_DB, max(finite, default=0.0) + _BEYOND_DB
    dots = []
    for trial in report.trials:
        exact = "exact" if trial.sqnr == math.inf else f"{trial.sqnr:.1f} dB"
        height = min(max(trial.sqnr, low), high) if not math.isnan(trial.sqnr) else low
        x = trial.bytes / 1e6 if report.weights_only else trial.speedup
        said = f"{trial.speedup:.2f}x, {exact}, {trial.bytes:,} bytes"
        dots.append(
            Dot(trial.name, _number(x), height, said, trial.name == report.chosen, trial.name not in front)
        )
    predicted = ", predicted" if any(not t.timed for t in report.trials) else ""
    label = "size (MB)" if report.weights_only else f"speed (times FP32{predicted})"
    return Picture(tuple(dots), _axis(label, [d.x for d in dots]), _axis("SQNR (dB)", [d.y for d in dots]))


def _number(value: float) -> float:
    """What can be drawn."""
    return min(max(value, 0.0), 1e6) if math.isfinite(value) else 0.0


def _axis(label: str, values: Sequence[float]) -> Axis:
    low, high = min(values, default=0.0), max(values, default=1.0)
    size = max(abs(low), abs(high), 1.0)
    room = _MARGIN * (high - low if high - low > 1e-6 * size else size)
    low, high = low - room, high + room
    return Axis(label, low, high, ticks(low, high))


def ticks(low: float, high: float, most: int = 6) -> tuple[float, ...]:
    """Round numbers from low to high, at most so many.

    Args:
        low, high: finite, low below high.
        most: at least 2.
    """
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(s * power for s in _STEPS if s * power >= raw)
    first = math.ceil(low / step)
    return tuple(n * step for n in range(first, math.floor(high / step) + 1))


def number(value: float, axis: Axis) -> str:
    """A tick's number, with as many digits as tell it from the next."""
    step = axis.ticks[1] - axis.ticks[0] if len(axis.ticks) > 1 else 1.0
    digits = max(0, math.ceil(-math.log10(step) - 1e-9)) if step > 0 else 0
    if digits < 8 and not math.isclose(step, round(step, digits), rel_tol=1e-6):
        digits += 1  # 0.25
    return f"{value:.{min(digits, 9)}f}"
