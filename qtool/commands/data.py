"""A look at samples before they are used: how they are read, what a model gets of them, what looks wrong."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from qtool.commands.prepare import load_model, made_up, read_samples
from qtool.data.doubts import LOOKED_AT
from qtool.data.fit import fit
from qtool.data.image_input import frame_of
from qtool.data.model_inputs import Axis, ModelInput, inputs_of, with_shapes
from qtool.data.open import Data
from qtool.data.reading import Reading
from qtool.data.samples import Arrays, check_used, evenly, where
from qtool.data.statistics import Figures, InputStatistics
from qtool.data.transforms import chosen
from qtool.errors import DataError, printable
from qtool.options import ModelLike, Progress, silent
from qtool.runtime.heartbeat import beat
from qtool.runtime.session import Session

_HEAD = 3
_VALUES = 6
_LONGEST_TEXT = 40
# What hands the numbers of an input on as they are, to a look-up in a table.
_PASSING = ("Cast", "Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose")


@dataclass(frozen=True)
class ShapeSeen:
    """A shape, and how many samples have it."""

    shape: tuple[int, ...]
    samples: int


@dataclass(frozen=True)
class InputSeen:
    """One input of the model over the samples that were looked at.

    Args:
        name, dtype, wants: the model's; an axis is a number, a name, or None where it is open; no axes at all
            (None): of any rank.
        types: of the samples' arrays, which are converted to `dtype`.
        shapes: the commonest first.
        figures: None of text.
        channels: the same of each channel, where the input looks like one for images.
    """

    name: str
    dtype: str
    wants: tuple[Axis, ...] | None
    types: tuple[str, ...]
    shapes: tuple[ShapeSeen, ...]
    figures: Figures | None
    channels: tuple[Figures, ...] = ()


@dataclass(frozen=True)
class SampleSeen:
    """One sample: the shape of each input, and its first values."""

    name: str
    shapes: dict[str, tuple[int, ...]]
    first: dict[str, tuple[Any, ...]]


@dataclass(frozen=True)
class Survey:
    """The statistics of samples, held against a model.

    Args:
        source: as the user named it.
        kind: a row of tables/sources.py.
        settings: how they are read, a line each.
        samples: how many there are; `looked` of them were looked at.
        synthetic: made up, and so no ground for a verdict.
        head: the first of them that were looked at.
        warnings: what looks wrong and may be right.
    """

    source: str
    kind: str
    settings: tuple[str, ...]
    samples: int
    looked: int
    synthetic: bool
    inputs: tuple[InputSeen, ...]
    head: tuple[SampleSeen, ...]
    warnings: tuple[str, ...]


def survey(
    data: Data,
    model: ModelLike,
    *,
    reading: Reading | None = None,
    data_format: str = "",
    progress: Progress = silent,
) -> Survey:
    """Read samples as `calibrate` and `quantize` do, hold each against the model, and say what they are.

    Args:
        data: a source that tables/sources.py knows, or an object that data/iterables.py takes.
        model: a path, or a model in memory; it is opened, and not run.
        reading: how samples are to be read; those that its `samples` and `seed` choose are looked at, else
            at most 100, evenly.
        data_format: the kind of the source, where it does not show that.
        progress: called as the samples pass.

    Raises:
        QtoolError: ModelError, UsageError, EnvironmentFailure; DataError where a sample does not fit.
    """
    reading = reading or Reading()
    source = load_model(model)
    session = Session(source.loadable, name=source.name, optimize=False)
    ports = with_shapes(inputs_of(source.model), reading.shape)
    samples = read_samples(source, data, replace(reading, samples=0), data_format)
    check_used(reading, [samples])
    if not len(samples):
        raise DataError(f"{samples.name}: no samples")
    positions = _positions(len(samples), reading)
    frames = {name: frame_of(port) for name, port in ports.items()}
    tallies = {name: InputStatistics(frame.axis if frame else None) for name, frame in frames.items()}
    tables = {name: rows for name in ports if (rows := _rows(source.model, name))}
    head: list[SampleSeen] = []
    for done, sample in enumerate(samples.read(positions), start=1):
        arrays = fit(sample, session.inputs, session.input_dtypes, samples.name)
        for name, rows in tables.items():
            _found_in(arrays[name], rows, f"{where(samples.name, sample.name)}: input '{printable(name)}'")
        for name, statistics in tallies.items():
            statistics.add(arrays[name], str(sample.inputs[name].dtype))
        if len(head) < _HEAD:
            head.append(_sample(sample.name, arrays))
        beat()
        progress("survey", done, len(positions))
    return Survey(
        source=samples.name,
        kind=samples.traits.kind,
        settings=samples.traits.notes,
        samples=len(samples),
        looked=len(positions),
        synthetic=samples.traits.synthetic,
        inputs=tuple(_input(ports[name], statistics) for name, statistics in tallies.items()),
        head=tuple(head),
        warnings=(*made_up(samples), *samples.doubts()),
    )


def _positions(total: int, reading: Reading) -> frozenset[int]:
    """Those that the user's options choose, as they do elsewhere; else some, evenly."""
    if 0 < reading.samples < total:
        return chosen(total, reading)
    return evenly(total, total if reading.samples else LOOKED_AT)


def _input(port: ModelInput, statistics: InputStatistics) -> InputSeen:
    return InputSeen(
        name=port.name,
        dtype=port.dtype,
        wants=port.shape,
        types=tuple(name for name, _ in statistics.source_dtypes.most_common()),
        shapes=tuple(ShapeSeen(shape, count) for shape, count in statistics.shapes.most_common()),
        figures=None if port.dtype == "str" else statistics.all.figures(),
        channels=tuple(channel.figures() for channel in statistics.channels),
    )


def _sample(name: str, arrays: Arrays) -> SampleSeen:
    first = {k: tuple(_plain(v) for v in a.reshape(-1)[:_VALUES].tolist()) for k, a in arrays.items()}
    return SampleSeen(name, {k: a.shape for k, a in arrays.items()}, first)


def _plain(value: Any) -> Any:
    return printable(value, _LONGEST_TEXT) if isinstance(value, str) else value


def _rows(model: ir.Model, name: str) -> int | None:
    """Rows of the constant table in which the numbers of an input are looked up; None: there is none."""
    waiting = [value for value in model.graph.inputs if value.name == name]
    while waiting:
        value = waiting.pop()
        for node, index in value.uses():
            if node.op_type in _PASSING and index == 0:
                waiting += node.outputs[:1]
            elif node.op_type == "Gather" and index == 1 and node.inputs[0] is not None:
                table, axis = node.inputs[0].const_value, node.attributes.get("axis")
                rows = table.shape[0] if table is not None and len(table.shape) else None
                if isinstance(rows, int) and (axis is None or axis.as_int() == 0):
                    return rows
    return None


def _found_in(array: np.ndarray, rows: int, named: str) -> None:
    """Whether a table has all the rows that an input asks for.

    Raises:
        DataError: it has not; the runtime would fail on it.
    """
    if array.size and (array.max() >= rows or array.min() < -rows):
        odd = int(array.max() if array.max() >= rows else array.min())
        raise DataError(
            f"{named} holds {odd:,}; the model looks it up in a table of {rows:,} rows",
            "is the tokenizer another model's?",
        )
