"""The columns of a table that make each input of the model, and the numbers in their cells."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qtool.data.model_inputs import ModelInput
from qtool.data.samples import SourceSpec
from qtool.errors import DataError, UsageError, did_you_mean, printable

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_INTEGER = re.compile(r"[+-]?\d+", re.ASCII)
_MISSING = ("nan", "na", "null")
_BOOLEANS = {"true": True, "false": False, "0": False, "1": True, "0.0": False, "1.0": True}
# Common names of columns that are no input of a model.
_NO_FEATURE = re.compile(r"label|target|class|y|id|index|outcome|unnamed.*|", re.IGNORECASE)
_SHOWN = 8


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Args:
        numeric: its cells are numbers, or lists of them.
        lists: its cells are lists.
    """

    name: str
    numeric: bool
    lists: bool = False


@dataclass(frozen=True)
class InputColumns:
    """One input of the model and the columns that make it.

    Args:
        name: of the input in the samples.
        columns: their places in the table.
        shape: of a row; None where cells are lists, which may differ in length.
    """

    name: str
    spec: ModelInput
    columns: tuple[int, ...]
    shape: tuple[int, ...] | None


def is_number(text: str) -> bool:
    """Return whether a cell holds a number, or stands for a missing one."""
    text = text.strip()
    return not text or text.lower() in _MISSING or bool(_NUMBER.fullmatch(text))


def chosen(columns: Sequence[Column], patterns: Sequence[str]) -> list[int]:
    """Return the places of the columns that --columns chooses, in the order of the table; all without it.

    Raises:
        UsageError: a name or glob matches no column, or no column is left.
    """
    names = [column.name for column in columns]
    included: set[int] = set()
    excluded: set[int] = set()
    for pattern in patterns:
        glob = pattern.removeprefix("!")
        matches = {i for i, name in enumerate(names) if name == glob or fnmatchcase(name, glob)}
        if not matches:
            hint = did_you_mean(glob, names) or f"columns: {_joined(names)}"
            raise UsageError(f"--columns: no column '{printable(glob)}'", hint)
        (excluded if pattern.startswith("!") else included).update(matches)
    left = sorted((included if _includes(patterns) else set(range(len(names)))) - excluded)
    if not left:
        raise UsageError(f"--columns {','.join(patterns)} leaves none of the {len(names)} columns")
    return left


def assigned(columns: Sequence[Column], source: SourceSpec) -> list[InputColumns]:
    """Return the columns of each input: by its name, by numbered names, else all numbers to the only input.

    Raises:
        DataError: an input has no column, or more or fewer columns than it takes.
        UsageError: --columns names a column that is not there.
    """
    patterns = source.reading.columns
    places = chosen(columns, patterns)
    table = printable(source.text)
    if not source.wanted:
        raise DataError(f"{table}: the model has no input that columns could be for")
    by_input = {name: _columns_of(name, columns, places) for name in source.wanted}
    by_input = {n: own for n, own in by_input.items() if own or n in source.needed}
    if len(by_input) == 1 and not any(by_input.values()):
        ((name, spec),) = source.needed.items()
        by_input = {name: _all_columns(columns, places, spec, patterns)}
    for name, own in by_input.items():
        if not own:
            names = [columns[i].name for i in places]
            close = get_close_matches(name, names, n=1, cutoff=0.6)
            raise DataError(
                f"{table}: no column for the input '{printable(name)}'",
                f"--map '{close[0]}={name}'"
                if close
                else f"columns: {_joined(names)}; --fill '{name}=0' makes up an input",
            )
    slots = []
    for name, own in by_input.items():
        spec, names = source.wanted[name], [columns[i].name for i in own]
        lists = [columns[i].name for i in own if columns[i].lists]
        if lists and len(own) > 1:
            raise DataError(f"{table}: the column '{printable(lists[0])}' holds lists, beside others")
        shape = None if lists else row_shape(spec, len(own))
        if shape is None and not lists:
            noun = "column" if len(own) == 1 else "columns"
            raise DataError(
                f"{table}: {len(own)} {noun} for the input '{printable(spec.name)}', "
                f"which takes {_size(spec)}",
                _mismatch_hint(spec, names),
            )
        slots.append(InputColumns(name, spec, tuple(own), shape))
    return slots


def _columns_of(name: str, columns: Sequence[Column], places: Sequence[int]) -> list[int]:
    """Return the columns that have an input's name, or NAME_0, NAME_1 .., or NAME[0] .., by number."""
    if own := [i for i in places if columns[i].name == name]:
        return own
    for form in (r"_(\d{1,9})", r"\[(\d{1,9})\]"):
        pattern = re.compile(re.escape(name) + form)
        numbered = [(int(m[1]), i) for i in places if (m := pattern.fullmatch(columns[i].name))]
        if numbered:
            return [i for _, i in sorted(numbered)]
    return []


def _all_columns(
    columns: Sequence[Column], places: Sequence[int], spec: ModelInput, patterns: Sequence[str]
) -> list[int]:
    """Return all columns of numbers, or of text for an input of strings; all that --columns names."""
    if _includes(patterns):
        return list(places)
    fit = [i for i in places if columns[i].numeric or spec.dtype == "str"]
    return [i for i in fit if not columns[i].lists] or fit


def row_shape(spec: ModelInput, count: int) -> tuple[int, ...] | None:
    """Return the shape in which an input takes a row of `count` numbers; None if it does not.

    An open first axis is the batch, and 1. One more open axis takes what is left.
    """
    if spec.shape is None:
        return (1, count)
    axes = [1 if a is None or isinstance(a, str) else a for a in spec.shape[:1] if len(spec.shape) > 1]
    rest = spec.shape[len(axes) :]
    fixed = math.prod([*axes, *(a for a in rest if isinstance(a, int))])
    open_axes = sum(not isinstance(a, int) for a in rest)
    if open_axes > 1 or fixed == 0 or count % fixed or (not open_axes and count != fixed):
        return None
    return (*axes, *(a if isinstance(a, int) else count // fixed for a in rest))


def _open_axes(spec: ModelInput) -> int:
    return sum(not isinstance(a, int) for a in (spec.shape or ())[1:])


def _fixed_size(spec: ModelInput) -> int:
    return math.prod(a for a in spec.shape or () if isinstance(a, int))


def _size(spec: ModelInput) -> str:
    return str(spec) if _open_axes(spec) else f"{_fixed_size(spec)} ({spec})"


def _mismatch_hint(spec: ModelInput, names: Sequence[str]) -> str:
    if _open_axes(spec) > 1:
        return f"the model leaves its shape open: --shape {spec.name}=1,.."
    if len(names) > _fixed_size(spec):
        spare = next((n for n in names if _NO_FEATURE.fullmatch(n)), names[-1])
        return f"--columns '!{spare}' leaves one out; --columns a,b,'c*' names those to take"
    return f"columns: {_joined(names)}; are the others text?"


def array(slot: InputColumns, cells: Sequence[Any]) -> NDArray[np.generic]:
    """Return the input that the cells of a row make.

    Args:
        slot: the input.
        cells: of its columns: text as a .csv has it, or Python's own values; None for an empty cell. For a
            column of lists, one list.

    Raises:
        ValueError: the place of a cell in `cells`, and what is wrong with it.
    """
    spec, shape = slot.spec, slot.shape
    if shape is None:
        (value,) = cells
        if value is None:
            raise ValueError(0, "an empty cell")
        shape = row_shape(spec, len(value))
        if shape is None:
            raise ValueError(0, f"a list of {len(value)}; the input takes {_size(spec)}")
        cells = list(value)
    values = []
    for place, cell in enumerate(cells):
        try:
            values.append(_value(cell, spec))
        except (ValueError, TypeError, OverflowError) as error:
            raise ValueError(place, str(error)) from None
    if spec.dtype == "str":
        return np.array(values, np.str_).reshape(shape)
    with np.errstate(over="ignore"):
        made = np.array(values, spec.dtype)
    if spec.floating and not np.isfinite(made).all():
        place = int(np.flatnonzero(~np.isfinite(made))[0])
        raise ValueError(place, f"{values[place]} does not fit the model's {spec.dtype}")
    return made.reshape(shape)


def _value(cell: Any, spec: ModelInput) -> Any:
    """Return a cell as a value of the input's type. Nothing is guessed, and nothing rounded to an integer.

    Raises:
        ValueError: it is no such value.
    """
    if spec.dtype == "str":
        if not isinstance(cell, str):
            raise ValueError("an empty cell" if cell is None else f"{cell!r} is no text")
        return cell
    if isinstance(cell, str):
        cell = cell.strip()
    if cell is None or cell == "":
        raise ValueError("an empty cell")
    if spec.dtype == "bool":
        key = str(cell).lower()
        if key not in _BOOLEANS:
            raise ValueError(f"'{printable(key, 40)}' is neither true nor false")
        return _BOOLEANS[key]
    number = _number(cell) if isinstance(cell, str) else cell
    if number != number:  # NaN
        raise ValueError("NaN")
    if spec.floating:
        return float(number)
    integer, limits = int(number), np.iinfo(spec.dtype)
    if integer != number:
        raise ValueError(f"{number} is no whole number; the input takes {spec.dtype}")
    if not limits.min <= integer <= limits.max:
        raise ValueError(f"{integer} does not fit the model's {spec.dtype}")
    return integer


def _number(text: str) -> int | float:
    """Return the number that a text is; stricter than Python, which takes 1_000 and infinity."""
    if _INTEGER.fullmatch(text):
        return int(text)
    if text.lower() in _MISSING:
        return math.nan
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"'{printable(text, 40)}' is no number")
    return float(text)


def _includes(patterns: Sequence[str]) -> bool:
    """Return whether --columns names columns to take, and not only columns to leave out."""
    return any(not pattern.startswith("!") for pattern in patterns)


def _joined(names: Sequence[str]) -> str:
    """Return the first names, for a message."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return printable(", ".join(names[:_SHOWN]), 200) + more


def described(slots: Sequence[InputColumns], columns: Sequence[Column]) -> tuple[str, ...]:
    """Return how a table is read: a line for each input, and one for the columns that are not used."""
    lines = []
    for slot in slots:
        names = [columns[i].name for i in slot.columns]
        noun = "column" if len(names) == 1 else f"{len(names)} columns"
        shape = "" if slot.shape is None else " [" + ", ".join(map(str, slot.shape)) + "]"
        lines.append(f"input '{slot.name}'{shape}: {noun} {_joined(names)}")
    used = {i for slot in slots for i in slot.columns}
    if spare := [c.name for i, c in enumerate(columns) if i not in used]:
        lines.append(f"not used: {_joined(spare)}")
    return tuple(lines)
