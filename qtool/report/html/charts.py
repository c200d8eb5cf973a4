"""Charts as SVG, drawn by matplotlib: standalone files, and elements of a page.

A page forbids style attributes and has colours of its own, so that a chart follows dark and light. `inline`
therefore turns styles into attributes, and page.css maps the four colours.
"""

from __future__ import annotations

import base64
import io
import itertools
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from qtool.errors import EnvironmentFailure, printable
from qtool.report.figures import decibels
from qtool.report.model import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# From here on an error is that of float32 itself: it is drawn as exact, just above the most accurate other.
_EXACT_DB = 100.0
_ABOVE_DB = 3.0
_LONGEST_NAME = 24
_LARGEST = 1e9
# Colours that read on white and on black alike.
GREY, BLUE, ORANGE, RED = "#7d7d7d", "#2f81f7", "#d9822b", "#d1495b"
_COLOURS = (BLUE, ORANGE, RED, GREY)
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "qtool",  # the same report gives the same bytes
    "font.size": 10,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), GREY),
}
# Where a label may be, in points from its own point: the best place first.
_PLACES = tuple((side, height) for height in (5, -5, 17, -17, 29, -29) for side in (7, -7))
_WIDE, _NARROW = (5.2, 3.3), (4.2, 2.3)
Interval = tuple[float, float, float]
"""The low end, the middle and the high end."""


def require_matplotlib() -> None:
    """Check that charts can be drawn.

    Raises:
        EnvironmentFailure: matplotlib is missing.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise EnvironmentFailure("charts need matplotlib", "pip install 'matplotlib>=3.8'") from error


def to_svg(report: Report) -> str:
    """Return the candidates of a run as a standalone SVG document without background.

    Raises:
        EnvironmentFailure: matplotlib is missing.
    """
    return _document(lambda axes: _front(axes, report), _WIDE, f"Candidates of {report.fp32.path}")


def front(report: Report) -> str:
    """Return the candidates of a run, speed or size against SQNR, as an element."""
    return inline(lambda axes: _front(axes, report), _WIDE, "Pareto front: speed or size against SQNR")


def intervals(rows: Mapping[str, Interval], label: str) -> str:
    """Return ratios with their intervals, one below the other, and a line at 1."""

    def draw(axes: Axes) -> None:
        for place, ends in enumerate(rows.values()):
            low, middle, high = (_finite(x) for x in ends)
            axes.plot([low, high], [place, place], color=BLUE, linewidth=2)
            axes.plot([middle], [place], "o", color=BLUE)
            axes.annotate(
                f"{middle:.2f}x", (middle, place), (0, 7), textcoords="offset points", ha="center",
                color=GREY, parse_math=False,
            )  # fmt: skip
        axes.axvline(1.0, color=GREY, linewidth=1, linestyle="--")
        names = [printable(name, _LONGEST_NAME) for name in rows]
        axes.set_yticks(range(len(rows)), names, parse_math=False)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlabel(label)
        axes.margins(x=0.15)

    return inline(draw, (5.2, 0.8 + 0.45 * len(rows)), label)


def depth(series: Mapping[str, Sequence[tuple[float, float]]], label: str) -> str:
    """Return SQNR in dB along the depth of the graph: a curve of (position, dB) each.

    Exact points are drawn just above all others; those that were not measured are left out.
    """
    levels = [y for points in series.values() for _, y in points if abs(y) < _EXACT_DB]
    low, high = min(levels, default=0.0) - _ABOVE_DB, max(levels, default=0.0) + _ABOVE_DB

    def draw(axes: Axes) -> None:
        for (name, points), color in zip(series.items(), itertools.cycle(_COLOURS), strict=False):
            measured = [(x, min(max(y, low), high)) for x, y in points if not math.isnan(y)]
            if measured:
                few = len(measured) < 60
                axes.plot(
                    *zip(*measured, strict=True), color=color, label=name, linewidth=1.5, markersize=4,
                    marker="o" if few else "",
                )  # fmt: skip
        axes.set_xlabel("position in the graph")
        axes.set_ylabel("SQNR (dB)")
        if len(series) > 1:
            axes.legend(frameon=False)

    return inline(draw, _WIDE, label)


def histogram(
    ends: tuple[float, float],
    before: Sequence[int] | NDArray[np.int64],
    after: Sequence[int] | NDArray[np.int64],
    clip: tuple[float, float],
    label: str,
) -> str:
    """Return the counts of values before and after quantization, and the ends of the integer grid.

    Args:
        ends: of the bins, which have equal widths. Returns '' where there are none.
        before, after: counts.
        clip: the ends of the grid.
        label: the title.
    """
    if not len(before) or not ends[0] < ends[1]:
        return ""
    edges = np.linspace(*ends, len(before) + 1)

    def draw(axes: Axes) -> None:
        axes.stairs(before, edges, color=GREY, fill=True, alpha=0.4, label="before")
        axes.stairs(after, edges, color=BLUE, label="after")
        inside = [end for end in clip if math.isfinite(end) and edges[0] <= end <= edges[-1]]
        for end in inside:
            axes.axvline(end, color=RED, linewidth=1, linestyle="--")
        if inside:
            axes.plot([], [], color=RED, linestyle="--", linewidth=1, label="clip point")
        axes.set_title(printable(label, 40), fontsize=9, parse_math=False)
        axes.set_yscale("symlog", linthresh=1)
        axes.set_ylabel("values")
        axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncol=3)

    return inline(draw, _NARROW, label)


def curve(values: Sequence[float], label: str) -> str:
    """Return a signal."""
    return inline(
        lambda axes: axes.plot([_finite(x) for x in values], color=BLUE, linewidth=1), _NARROW, label
    )


def picture(shape: Sequence[int], pixels: str) -> str:
    """Return an image as a data URL; '' where there is none.

    Args:
        shape: height, width, channels.
        pixels: bytes as base64.
    """
    require_matplotlib()
    from matplotlib.image import imsave

    try:
        data = base64.b64decode(pixels, validate=True)
    except ValueError:
        return ""
    if len(shape) != 3 or min(shape) < 1 or shape[2] not in (1, 3) or len(data) != math.prod(shape):
        return ""
    array = np.frombuffer(data, np.uint8).reshape(shape).repeat(3 // shape[2], axis=2)
    stream = io.BytesIO()
    imsave(stream, array, format="png")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"


def inline(draw: Any, size: tuple[float, float], label: str) -> str:
    """Return a chart as an `svg` element without scripts, styles, links and namespaces.

    Args:
        draw: draws on axes.
        size: in inches.
        label: its description for a screen reader.
    """
    root = ElementTree.fromstring(_document(draw, size, ""))
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.rpartition("}")[2] in ("metadata", "style"):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        style = element.attrib.pop("style", "")
        plain = {name.rpartition("}")[2]: value for name, value in element.attrib.items()}
        if not _referenced(plain.get("id", "")):
            plain.pop("id", None)
        plain |= _attributes(style)
        element.attrib.clear()
        element.attrib.update(plain)
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.attrib |= {
        "role": "img",
        "aria-label": printable(label),
        "class": "chart",
        "stroke-linejoin": "round",
    }
    return ElementTree.tostring(root, encoding="unicode")


def _referenced(name: str) -> bool:
    """Whether matplotlib made an id to refer to it: a letter and ten digits of a hash."""
    return len(name) == 11 and name[0] in "mpch"


def _attributes(style: str) -> dict[str, str]:
    """Return the declarations of a style as attributes, without the font: the page has its own."""
    pairs = (part.partition(":") for part in style.split(";") if ":" in part)
    attributes = {name.strip(): value.strip() for name, _, value in pairs}
    attributes.pop("font-family", None)
    return attributes


def _document(draw: Any, size: tuple[float, float], title: str) -> str:
    """Return the SVG document of one pair of axes."""
    require_matplotlib()
    import matplotlib
    from matplotlib.figure import Figure

    stream = io.StringIO()
    # Letters that matplotlib's own font lacks are the reader's to draw: the text stays text.
    ignored = warnings.catch_warnings(action="ignore", category=UserWarning)
    with matplotlib.rc_context(_STYLE), ignored:
        figure: Figure = Figure(figsize=size)
        axes = figure.add_subplot()
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if title:
            axes.set_title(printable(title, 60), parse_math=False)
        draw(axes)
        figure.savefig(stream, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None})
    return stream.getvalue()


def _finite(x: float) -> float:
    """Return a number that can be drawn."""
    return 0.0 if math.isnan(x) else min(max(x, -_LARGEST), _LARGEST)


def _front(axes: Axes, report: Report) -> None:
    predicted = ", predicted" if any(not trial.timed for trial in report.trials) else ""
    axes.set_xlabel("size (MB)" if report.weights_only else f"speed (times FP32{predicted})")
    axes.set_ylabel("SQNR on the select set (dB)")
    front = set(report.front)
    levels = [t.sqnr for t in report.trials if abs(t.sqnr) < _EXACT_DB]
    low, high = min(levels, default=0.0) - _ABOVE_DB, max(levels, default=0.0) + _ABOVE_DB
    points, labels = [], []
    for trial in report.trials:
        x = trial.bytes / 1e6 if report.weights_only else trial.speedup
        x = min(max(x, 0.0), 1e6) if math.isfinite(x) else 0.0
        y = min(max(trial.sqnr, low), high) if not math.isnan(trial.sqnr) else low
        chosen, dominated = trial.name == report.chosen, trial.name not in front
        color = BLUE if chosen else GREY
        axes.scatter(x, y, s=60 if chosen else 28, color=color, facecolor="none" if dominated else color)
        if not dominated:
            points.append((x, y))
        if chosen or not dominated:
            text = f"{printable(trial.name, _LONGEST_NAME)}, {decibels(trial.sqnr)}"
            labels.append((not chosen, (x, y), text, color))
    if points:
        axes.plot(*zip(*sorted(points), strict=True), color=GREY, alpha=0.6, linestyle="--", linewidth=1)
    _label(axes, [label[1:] for label in sorted(labels)])


def _label(axes: Axes, labels: Sequence[tuple[tuple[float, float], str, str]]) -> None:
    """Write (point, text, colour) beside the points, the first ones where they like.

    A label that overlaps others in every place is left out: the table below the chart has all.
    """
    from matplotlib.transforms import Bbox

    axes.margins(0.12)
    size = 4 * axes.figure.dpi / 72
    centres = [axes.transData.transform(point) for point, _, _ in labels]
    taken = [Bbox.from_extents(x - size, y - size, x + size, y + size) for x, y in centres]
    for point, text, color in labels:
        for right, up in _PLACES:
            label = axes.annotate(
                text, point, (right, up), textcoords="offset points", color=color, size=9, parse_math=False,
                ha="left" if right > 0 else "right", va="bottom" if up > 0 else "top",
            )  # fmt: skip
            box = label.get_window_extent()
            if not box.count_overlaps(taken):
                taken.append(box)
                break
            label.remove()
