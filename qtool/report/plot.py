"""The plans that were raced, drawn with characters."""

from __future__ import annotations

from qtool.errors import printable
from qtool.report.picture import Picture, number

_WIDEST, _NARROWEST = 72, 24
_HEIGHT = 14
# Chosen, on the front, dominated; the axes: upright, corner, flat, a tick on each.
UNICODE = "◆●·│└─┤┬"
ASCII = "#o.|+-|+"


def plot(found: Picture, width: int, signs: str = UNICODE) -> list[str]:
    """Lines of at most `width` characters; none where there is no room.

    Args:
        found: dots and axes.
        width: columns of the terminal.
        signs: UNICODE or ASCII.
    """
    chosen, front, dominated, upright, corner, flat, tick, below = list(signs)
    marks = [number(t, found.y) for t in found.y.ticks]
    margin = max(map(len, marks), default=0)
    inner = min(width, _WIDEST) - margin - 2
    if inner < _NARROWEST or not found.dots:
        return []
    grid = [[" "] * inner for _ in range(_HEIGHT)]

    def place(x: float, y: float) -> tuple[int, int]:
        return round((1 - found.y.share(y)) * (_HEIGHT - 1)), round(found.x.share(x) * (inner - 1))

    # Those that count are drawn last, over what is there.
    for dot in sorted(found.dots, key=lambda d: (d.chosen, not d.dominated)):
        row, column = place(dot.x, dot.y)
        grid[row][column] = chosen if dot.chosen else dominated if dot.dominated else front
    for dot in found.dots:
        if dot.chosen:
            _name(grid, place(dot.x, dot.y), printable(dot.name, inner // 2))
    rows = {place(0, t)[0]: mark for t, mark in zip(found.y.ticks, marks, strict=True)}
    lines = [found.y.label]
    for row, cells in enumerate(grid):
        axis = tick if row in rows else upright
        lines.append(f"{rows.get(row, ''):>{margin}} {axis}{''.join(cells)}".rstrip())
    columns = {place(t, 0)[1]: number(t, found.x) for t in found.x.ticks}
    rule = "".join(below if column in columns else flat for column in range(inner))
    lines += [f"{'':{margin}} {corner}{rule}", f"{'':{margin}}  {_spread(columns, inner)}".rstrip()]
    wide = margin + 2 + inner
    return [*lines, f"{found.x.label[:wide]:>{wide}}"]


def _name(grid: list[list[str]], at: tuple[int, int], name: str) -> None:
    """The name beside a dot, on the side where there is room for it."""
    row, column = at
    for start in (column + 2, column - 1 - len(name)):
        cells = range(start, start + len(name))
        if cells.start >= 0 and cells.stop <= len(grid[row]) and all(grid[row][c] == " " for c in cells):
            grid[row][start : cells.stop] = name
            return


def _spread(columns: dict[int, str], width: int) -> str:
    """Numbers centred below their ticks; one that would touch the last is left out."""
    line = ""
    for column, mark in sorted(columns.items()):
        start = min(max(column - len(mark) // 2, 0), width - len(mark))
        if start > len(line) or not line:
            line = f"{line:{start}}{mark}"
    return line
