"""A survey of samples: as tables for a terminal, and as JSON."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from qtool import __version__
from qtool.commands.data import InputSeen, SampleSeen, Survey
from qtool.data.model_inputs import ModelInput
from qtool.data.statistics import Figures
from qtool.errors import counted, printable
from qtool.report.tables import bare_table, labelled, plain
from qtool.serialize.json_format import JsonFormat

_MOST_INPUTS = 40
_MOST_SHAPES = 3


SURVEY = JsonFormat(Survey, "qtool.data/1", "survey", derived={Survey: {"version": lambda _: __version__}})


def render_survey(survey: Survey, console: Console) -> None:
    """Print how the samples are read, what each input gets of them, and the first few of them."""
    console.print(_heading(survey))
    if survey.settings:
        console.print(
            labelled([("read as" if i == 0 else "", plain(line)) for i, line in enumerate(survey.settings)])
        )
    console.print(Text(), _inputs(survey), Text(), _head(survey.head), sep="\n")


def _heading(survey: Survey) -> Text:
    looked = "" if survey.looked == survey.samples else f", {survey.looked:,} of them looked at"
    made_up = ", made up" if survey.synthetic else ""
    count = f"{counted(survey.samples, 'sample')}"
    return Text.assemble(
        plain(survey.source, "bold"), f"  {count} of the kind {survey.kind}{made_up}{looked}"
    )


def _inputs(survey: Survey) -> Table:
    table = bare_table("input", "wants", "types", "shapes", "min", "max", "mean", "std")
    for column in table.columns[1:4]:
        column.justify = "left"
    for entry in survey.inputs[:_MOST_INPUTS]:
        wants = str(ModelInput(entry.name, entry.wants, entry.dtype))
        cells = (entry.name, wants, ", ".join(entry.types), _shapes(entry))
        table.add_row(*map(plain, cells), *_figures(entry.figures))
        if len(entry.channels) > 1:
            for index, channel in enumerate(entry.channels):
                table.add_row(f"  channel {index}", "", "", "", *_figures(channel))
    if len(survey.inputs) > _MOST_INPUTS:
        table.add_row(f"and {len(survey.inputs) - _MOST_INPUTS} more (--json)")
    return table


def _shapes(entry: InputSeen) -> str:
    """Each with how many samples have it; of many, from the shortest to the longest of each axis."""
    shapes = entry.shapes
    if len(shapes) == 1:
        return _shape(shapes[0].shape)
    ranks = {len(s.shape) for s in shapes}
    if len(shapes) <= _MOST_SHAPES or len(ranks) > 1:
        return ", ".join(f"{_shape(s.shape)} ({s.samples})" for s in shapes[:_MOST_SHAPES])
    axes = list(zip(*(s.shape for s in shapes), strict=True))
    spans = (str(min(a)) if min(a) == max(a) else f"{min(a)}..{max(a)}" for a in axes)
    return f"[{', '.join(spans)}] ({len(shapes)} shapes)"


def _shape(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _figures(figures: Figures | None) -> list[str]:
    if figures is None or not figures.count:
        return [""] * 4
    low = "-inf" if figures.infinite else number(figures.minimum)
    return [low, *(number(n) for n in (figures.maximum, figures.mean, figures.std))]


def number(value: Any) -> str:
    """Four digits of a float, all of anything else."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e9:
        return str(int(value))
    return f"{value:.4g}" if isinstance(value, float) else repr(value)


def _head(head: tuple[SampleSeen, ...]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("sample", "input", "shape", "first values"):
        table.add_column(column, overflow="fold")
    for sample in head:
        label = sample.name
        for name, shape in list(sample.shapes.items())[:_MOST_INPUTS]:
            values = ", ".join(number(v) for v in sample.first[name])
            table.add_row(plain(label), plain(name), _shape(shape), plain(printable(values)))
            label = ""
    return table
