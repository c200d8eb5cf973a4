"""A page: a verdict, then sections of facts, charts, tables and samples; one template renders it."""

from __future__ import annotations

import base64
import hashlib
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any, Literal

from qtool.errors import EnvironmentFailure, printable
from qtool.report.columns import Column, Columns, shown
from qtool.report.html.charts import require_matplotlib

if TYPE_CHECKING:
    from jinja2 import Template

Tone = Literal["good", "bad", "neutral"]
_LONGEST = 400
# Rows of a table; all are in the JSON. 500 nodes take 150 KB.
_MOST_ROWS = 2000
# Tables from here on have a field to filter by.
_FILTERED = 12


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Args:
        text: what it shows.
        code: it is a name.
        value: what it is sorted by; '': its text.
        tone: whether what it says is good.
    """

    text: str
    code: bool = False
    value: str = ""
    tone: Tone = "neutral"


@dataclass(frozen=True)
class Table:
    """A table that can be sorted, and filtered where it is long.

    Args:
        titles: of the columns.
        rows: of cells.
        numeric: for each column, whether it holds numbers.
        more: rows that are left out.
    """

    titles: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    numeric: tuple[bool, ...]
    more: int = 0

    @property
    def filtered(self) -> bool:
        """Whether it has a field to filter by."""
        return len(self.rows) >= _FILTERED


@dataclass(frozen=True)
class Details:
    """A summary that opens."""

    summary: str
    facts: tuple[tuple[str, str], ...] = ()
    charts: tuple[str, ...] = ()
    open: bool = False


@dataclass(frozen=True)
class Picture:
    """A sample: an image (a data URL), a chart (an element), or a text."""

    name: str
    caption: str
    image: str = ""
    chart: str = ""
    text: str = ""


@dataclass(frozen=True)
class Section:
    """A part of a page; whatever it lacks is empty."""

    title: str
    note: str = ""
    facts: tuple[tuple[str, str], ...] = ()
    charts: tuple[str, ...] = ()
    table: Table | None = None
    details: tuple[Details, ...] = ()
    pictures: tuple[Picture, ...] = ()
    commands: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        parts = (self.facts, self.charts, self.details, self.pictures, self.commands)
        return any(parts) or self.table is not None


@dataclass(frozen=True)
class Page:
    """A whole page.

    Args:
        title: of the document.
        tone: of the verdict.
        verdict: one line.
        models: the files.
        tiles: a label and a figure each.
        warnings: what a reader should know.
        sections: in order; empty ones are left out.
        version: of qtool.
    """

    title: str
    tone: Tone
    verdict: str
    models: tuple[str, ...]
    tiles: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = ()
    sections: tuple[Section, ...] = field(default=())
    version: str = ""


def table(columns: Columns, rows: Sequence[Any]) -> Table | None:
    """Return the rows as a table; None where there are none."""
    if not rows:
        return None
    columns = shown(columns, rows)
    cells = tuple(tuple(_cell(column, row) for column in columns.values()) for row in rows[:_MOST_ROWS])
    numeric = tuple(column.value is not None for column in columns.values())
    return Table(tuple(columns), cells, numeric, max(len(rows) - _MOST_ROWS, 0))


def _cell(column: Column, row: Any) -> Cell:
    text, value = column.text(row), ""
    if column.value is not None and text:
        number = float(column.value(row))
        value = "" if math.isnan(number) else repr(number).replace("inf", "Infinity")  # JavaScript's name
    tone: Tone = "neutral" if column.good is None else "good" if column.good(row) else "bad"
    return Cell(text, column.name, value, tone)


def render_page(page: Page) -> str:
    """Return one HTML file that loads nothing and runs only its own script, which its policy names by hash.

    Raises:
        EnvironmentFailure: jinja2 or matplotlib is missing.
    """
    require_html()
    style, script = _asset("page.css"), _asset("page.js")
    return _template().render(
        page=page, style=style, script=script, style_hash=_hash(style), script_hash=_hash(script)
    )


def require_html() -> None:
    """Check that pages can be rendered.

    Raises:
        EnvironmentFailure: jinja2 or matplotlib is missing.
    """
    try:
        import jinja2  # noqa: F401
    except ImportError as error:
        raise EnvironmentFailure(
            "an HTML report needs jinja2", "pip install 'jinja2>=3.1' 'matplotlib>=3.8'"
        ) from error
    require_matplotlib()


@cache
def _template() -> Template:
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    def clean(value: Any) -> Any:
        """Foreign text on one line, without control characters."""
        return (
            value if isinstance(value, Markup) or not isinstance(value, str) else printable(value, _LONGEST)
        )

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=clean,
        keep_trailing_newline=True,
    )  # fmt: skip
    return environment.from_string(_asset("page.html.jinja"))


@cache
def _asset(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def figures(rows: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return labels and texts, without those that have no text."""
    return tuple((label, text) for label, text in rows.items() if text)


def reproduce(arguments: Sequence[str], facts: Mapping[str, str] | None = None) -> Section:
    """Return the command line that makes a result again; nothing where it was made from Python."""
    if not arguments:
        return Section("Reproduce")
    return Section("Reproduce", facts=figures(facts or {}), commands=(shlex.join(arguments),))
