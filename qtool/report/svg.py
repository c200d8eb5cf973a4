"""The plans that were raced, as a picture for a page: no script, no font, no background."""

from __future__ import annotations

from collections.abc import Iterable
from xml.sax.saxutils import escape, quoteattr

from qtool.errors import printable
from qtool.report.model import Report
from qtool.report.picture import Dot, Picture, number, picture

_WIDTH, _HEIGHT = 720, 440
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 24, 56, 56
_LETTER = 6.6  # of 12 px text, about
_LONGEST = 24
# Greys and a blue that read on white and on black alike.
_STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#7d7d7d}.title{font-size:15px;font-weight:600}"
    ".grid{stroke:#7d7d7d;stroke-opacity:.25}.axis{stroke:#7d7d7d}"
    ".front{fill:none;stroke:#7d7d7d;stroke-opacity:.6;stroke-dasharray:4 4}"
    ".dot{fill:#7d7d7d}.dominated{fill:none;stroke:#7d7d7d;stroke-opacity:.7}.chosen{fill:#2f81f7}"
    ".name.chosen{fill:#2f81f7;font-weight:600}.name.dominated{fill:#7d7d7d;fill-opacity:.75;stroke:none}"
)


def to_svg(report: Report) -> str:
    """A standalone SVG document: a `circle` of class dot a plan, with its figures in its title."""
    found = picture(report)
    title = f"{printable(report.fp32.path, 60)}: plans that were raced"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" '
        f'height="{_HEIGHT}" role="img" aria-label={quoteattr(title)}>',
        f"<style>{_STYLE}</style>",
        _text(_LEFT, 24, title, "title"),
        _text(_LEFT, 42, _legend(found)),
        *_axes(found),
        _front(found),
        *(_dot(dot, found) for dot in found.dots),
        *_names(found),
        "</svg>",
    ]
    return "\n".join(part for part in parts if part) + "\n"


def _legend(found: Picture) -> str:
    rest = (
        "; hollow: another is as fast, as accurate and as small"
        if any(d.dominated for d in found.dots)
        else ""
    )
    return ("blue: chosen" if any(d.chosen for d in found.dots) else "none is the model written") + rest


def _at(x: float, y: float, found: Picture) -> tuple[float, float]:
    """Where a point of the plane is, in pixels."""
    return (
        round(_LEFT + found.x.share(x) * (_WIDTH - _LEFT - _RIGHT), 1),
        round(_TOP + (1 - found.y.share(y)) * (_HEIGHT - _TOP - _BOTTOM), 1),
    )


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start", more: str = "") -> str:
    named = f' class="{kind}"' if kind else ""
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}"{named}{more}>{escape(text)}</text>'


def _line(a: tuple[float, float], b: tuple[float, float], kind: str) -> str:
    return f'<line class="{kind}" x1="{a[0]}" y1="{a[1]}" x2="{b[0]}" y2="{b[1]}"/>'


def _axes(found: Picture) -> Iterable[str]:
    floor, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    for tick in found.y.ticks:
        _, y = _at(found.x.low, tick, found)
        yield _line((_LEFT, y), (right, y), "grid")
        yield _text(_LEFT - 8, y + 4, number(tick, found.y), anchor="end")
    for tick in found.x.ticks:
        x, _ = _at(tick, found.y.low, found)
        yield _line((x, floor), (x, floor + 5), "axis")
        yield _text(x, floor + 19, number(tick, found.x), anchor="middle")
    yield _line((_LEFT, floor), (right, floor), "axis")
    yield _line((_LEFT, _TOP), (_LEFT, floor), "axis")
    yield _text((_LEFT + right) / 2, _HEIGHT - 14, found.x.label, anchor="middle")
    middle = (_TOP + floor) / 2
    yield _text(16, middle, found.y.label, anchor="middle", more=f' transform="rotate(-90 16 {middle})"')


def _front(found: Picture) -> str:
    """A line through what no other plan beats."""
    places = sorted(_at(d.x, d.y, found) for d in found.dots if not d.dominated)
    return f'<polyline class="front" points="{" ".join(f"{x},{y}" for x, y in places)}"/>' if places else ""


def _kind(dot: Dot) -> str:
    return " chosen" if dot.chosen else " dominated" if dot.dominated else ""


def _dot(dot: Dot, found: Picture) -> str:
    x, y = _at(dot.x, dot.y, found)
    said = escape(f"{printable(dot.name, _LONGEST)}: {dot.said}")
    return (
        f'<circle class="dot{_kind(dot)}" cx="{x}" cy="{y}" r="{6 if dot.chosen else 4}">'
        f"<title>{said}</title></circle>"
    )


Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""


def _names(found: Picture) -> Iterable[str]:
    """A name beside each dot, where it covers nothing; the chosen one and the front first."""
    taken: list[Box] = []
    for dot in found.dots:
        x, y = _at(dot.x, dot.y, found)
        taken.append((x - 6, y - 6, x + 6, y + 6))
    for dot in sorted(found.dots, key=lambda d: (not d.chosen, d.dominated)):
        name = printable(dot.name, _LONGEST)
        x, y = _at(dot.x, dot.y, found)
        wide = len(name) * _LETTER
        for left, base in (
            (x + 9, y + 4),
            (x - 9 - wide, y + 4),
            (x - wide / 2, y - 10),
            (x - wide / 2, y + 20),
            (x + 7, y - 8),
            (x - 7 - wide, y + 16),
        ):
            box = (left, base - 10, left + wide, base + 2)
            inside = (
                box[0] > _LEFT and box[2] < _WIDTH - 4 and box[1] > _TOP - 12 and box[3] < _HEIGHT - _BOTTOM
            )
            if inside and not any(_meet(box, other) for other in taken):
                taken.append(box)
                yield _text(round(left, 1), round(base, 1), name, f"name{_kind(dot)}")
                break


def _meet(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
