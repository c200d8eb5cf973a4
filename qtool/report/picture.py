"""The candidates of a run as a picture: speed, or size, against SQNR. matplotlib draws it."""

from __future__ import annotations

import io
import math
import warnings
from typing import TYPE_CHECKING, Any

from qtool.errors import EnvironmentFailure, printable
from qtool.report.figures import decibels
from qtool.report.model import Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# From here on an error is that of float32 itself: it is drawn as exact, just above the most accurate other.
_EXACT_DB = 100.0
_ABOVE_DB = 3.0
_LONGEST_NAME = 24
# A grey and a blue that read on white and on black alike.
_GREY, _BLUE = "#7d7d7d", "#2f81f7"
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "qtool",  # the same report gives the same bytes
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), _GREY),
}


def require_matplotlib() -> None:
    """Check that pictures can be drawn.

    Raises:
        EnvironmentFailure: matplotlib is missing.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise EnvironmentFailure("pictures need matplotlib", "pip install 'matplotlib>=3.8'") from error


def to_svg(report: Report) -> str:
    """Return a standalone SVG document without background.

    Raises:
        EnvironmentFailure: matplotlib is missing.
    """
    require_matplotlib()
    import matplotlib

    stream = io.StringIO()
    # Letters that matplotlib's own font lacks are the reader's to draw: the text stays text.
    ignored = warnings.catch_warnings(action="ignore", category=UserWarning)
    with matplotlib.rc_context(_STYLE), ignored:
        _figure(report).savefig(
            stream, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None}
        )
    return stream.getvalue()


def _figure(report: Report) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.4))
    axes = figure.add_subplot()
    axes.set_title(f"Candidates of {printable(report.fp32.path, 60)}", parse_math=False)
    predicted = ", predicted" if any(not trial.timed for trial in report.trials) else ""
    axes.set_xlabel("size (MB)" if report.weights_only else f"speed (times FP32{predicted})")
    axes.set_ylabel("SQNR on the select set (dB)")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    front = set(report.front)
    levels = [t.sqnr for t in report.trials if abs(t.sqnr) < _EXACT_DB]
    low, high = min(levels, default=0.0) - _ABOVE_DB, max(levels, default=0.0) + _ABOVE_DB
    points = []
    for trial in report.trials:
        x = trial.bytes / 1e6 if report.weights_only else trial.speedup
        x = min(max(x, 0.0), 1e6) if math.isfinite(x) else 0.0
        y = min(max(trial.sqnr, low), high) if not math.isnan(trial.sqnr) else low
        chosen, dominated = trial.name == report.chosen, trial.name not in front
        color = _BLUE if chosen else _GREY
        axes.scatter(x, y, s=60 if chosen else 28, color=color, facecolor="none" if dominated else color)
        if not dominated:
            points.append((x, y))
        if chosen or not dominated:
            label = f"{printable(trial.name, _LONGEST_NAME)}, {decibels(trial.sqnr)}"
            axes.annotate(
                label, (x, y), (6, 5), textcoords="offset points", color=color, size=9, parse_math=False
            )
    if points:
        axes.plot(*zip(*sorted(points), strict=True), color=_GREY, alpha=0.6, linestyle="--", linewidth=1)
    return figure
