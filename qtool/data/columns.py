"""Columns of a table to inputs of a model, and cells to numbers."""

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

from qtool.data.found import Found
from qtool.data.model_inputs import ModelInput
from qtool.errors import DataError, UsageError, did_you_mean, printable

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_WHOLE = re.compile(r"[+-]?\d+", re.ASCII)
_BOOLEANS = {"true": True, "false": False, "0": False, "1": True, "0.0": False, "1.0": True}
# What a column is often called that is no input.
_NO_FEATURE = re.compile(r"label|target|class|y|id|index|outcome|unnamed.*|", re.IGNORECASE)
_SHOWN = 8


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Args:
        numeric: its cells are numbers, or lists of them.
        listed: its cells are lists.
    """

    name: str
    numeric: bool
    listed: bool = False


@dataclass(frozen=True)
class Slot:
    """One input and the columns that make it, by their places in the table.

    Args:
        name: what the samples call the input.
        shape: of a row; None where its cells are lists, which need not be equally long.
    """

    name: str
    spec: ModelInput
    columns: tuple[int, ...]
    shape: tuple[int, ...] | None


def is_number(text: str) -> bool:
    """Whether a cell holds a number, or nothing where one may be missing."""
    text = text.strip()
    return not text or text.lower() in ("nan", "na", "null") or bool(_NUMBER.fullmatch(text))


def chosen(columns: Sequence[Column], patterns: Sequence[str]) -> list[int]:
    """The places of the columns that --columns names, in the table's order; all without it.

    Raises:
        UsageError: a name or glob that no column has, or no column left.
    """
    names = [column.name for column in columns]
    ins: set[int] = set()
    outs: set[int] = set()
    for pattern in patterns:
        bare = pattern.removeprefix("!")
        found = {i for i, name in enumerate(names) if name == bare or fnmatchcase(name, bare)}
        if not found:
            hint = did_you_mean(bare, names) or f"columns: {_listed(names)}"
            raise UsageError(f"--columns: no column '{printable(bare)}'", hint)
        (outs if pattern.startswith("!") else ins).update(found)
    left = sorted((ins if _names_some(patterns) else set(range(len(names)))) - outs)
    if not left:
        raise UsageError(f"--columns {','.join(patterns)} leaves none of the {len(names)} columns")
    return left


def assigned(columns: Sequence[Column], found: Found) -> list[Slot]:
    """Which columns make which input: by name, by numbered names, else all numbers to the only input.

    Raises:
        DataError: an input without a column, or columns that are not as many as it takes.
        UsageError: --columns names what there is not.
    """
    patterns = found.reading.columns
    places = chosen(columns, patterns)
    if not found.wanted:
        raise DataError(f"{printable(found.text)}: the model has no input that columns could be for")
    named = {name: _called(name, columns, places) for name in found.wanted}
    if len(named) == 1 and not any(named.values()):
        named = dict.fromkeys(named, _all(columns, places, next(iter(found.wanted.values())), patterns))
    for name, its in named.items():
        if not its:
            have = [columns[i].name for i in places]
            close = get_close_matches(name, have, n=1, cutoff=0.6)
            other = f"columns: {_listed(have)}; --fill '{name}=0' makes up an input"
            raise DataError(
                f"{printable(found.text)}: no column for the input '{printable(name)}'",
                f"--map '{close[0]}={name}'" if close else other,
            )
    return [_slot(n, found.wanted[n], its, columns, found) for n, its in named.items()]


def _called(name: str, columns: Sequence[Column], places: Sequence[int]) -> list[int]:
    """The columns of an input by their names: its own, or NAME_0.., or NAME[0].., by their numbers."""
    exact = [i for i in places if columns[i].name == name]
    if exact:
        return exact
    for form in (r"_(\d{1,9})", r"\[(\d{1,9})\]"):
        pattern = re.compile(re.escape(name) + form)
        numbered = [(int(m[1]), i) for i in places if (m := pattern.fullmatch(columns[i].name))]
        if numbered:
            return [i for _, i in sorted(numbered)]
    return []


def _all(
    columns: Sequence[Column], places: Sequence[int], spec: ModelInput, patterns: Sequence[str]
) -> list[int]:
    """All columns of numbers, or of text for an input of strings; whatever was named, was meant."""
    if _names_some(patterns):
        return list(places)
    fit = [i for i in places if columns[i].numeric or spec.dtype == "str"]
    return [i for i in fit if not columns[i].listed] or fit


def _slot(name: str, spec: ModelInput, places: list[int], columns: Sequence[Column], found: Found) -> Slot:
    listed = [columns[i].name for i in places if columns[i].listed]
    if listed and len(places) > 1:
        raise DataError(
            f"{printable(found.text)}: the column '{printable(listed[0])}' holds lists, beside others"
        )
    if listed:
        return Slot(name, spec, tuple(places), None)
    shape = row_shape(spec, len(places))
    if shape is None:
        noun = "column" if len(places) == 1 else "columns"
        raise DataError(
            f"{printable(found.text)}: {len(places)} {noun} for the input '{printable(spec.name)}', "
            f"which takes {_takes(spec)}",
            _mismatch_hint(spec, [columns[i].name for i in places]),
        )
    return Slot(name, spec, tuple(places), shape)


def row_shape(spec: ModelInput, count: int) -> tuple[int, ...] | None:
    """The shape of one row of so many numbers as an input takes it; None when it does not.

    An open first axis is that of the batch, and 1; one more that is open takes what is left.
    """
    if spec.shape is None:
        return (1, count)
    axes = [1 if a is None or isinstance(a, str) else a for a in spec.shape[:1] if len(spec.shape) > 1]
    rest = spec.shape[len(axes) :]
    known = math.prod([*axes, *(a for a in rest if isinstance(a, int))])
    missing = sum(not isinstance(a, int) for a in rest)
    if missing > 1 or known == 0 or count % known or (not missing and count != known):
        return None
    return (*axes, *(a if isinstance(a, int) else count // known for a in rest))


def _takes(spec: ModelInput) -> str:
    fixed = math.prod(a for a in spec.shape or () if isinstance(a, int))
    missing = sum(not isinstance(a, int) for a in (spec.shape or ())[1:])
    return str(spec) if missing else f"{fixed} ({spec})"


def _mismatch_hint(spec: ModelInput, names: Sequence[str]) -> str:
    open_axes = sum(not isinstance(a, int) for a in (spec.shape or ())[1:])
    if open_axes > 1:
        return f"the model leaves its shape open: --shape {spec.name}=1,.."
    fixed = math.prod(a for a in spec.shape or () if isinstance(a, int))
    if len(names) > fixed:
        spare = next((n for n in names if _NO_FEATURE.fullmatch(n)), names[-1])
        return f"--columns '!{spare}' leaves one out; --columns a,b,'c*' names those to take"
    return f"columns: {_listed(names)}; are the others text?"


def array(slot: Slot, cells: Sequence[Any]) -> NDArray[np.generic]:
    """The input that a row's cells make.

    Args:
        slot: the input.
        cells: of its columns: text as a file has it, or Python's own values; None for nothing. For a
            column of lists, one array.

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
            raise ValueError(0, f"a list of {len(value)}; the input takes {_takes(spec)}")
        cells = list(value)
    values = [_checked(cell, spec, place) for place, cell in enumerate(cells)]
    if spec.dtype == "str":
        return np.array(values, np.str_).reshape(shape)
    with np.errstate(over="ignore"):
        made = np.array(values, spec.dtype)
    if spec.floating and not np.isfinite(made).all():
        place = int(np.flatnonzero(~np.isfinite(made))[0])
        raise ValueError(place, f"{values[place]} does not fit the model's {spec.dtype}")
    return made.reshape(shape)


def _checked(cell: Any, spec: ModelInput, place: int) -> Any:
    try:
        return _value(cell, spec)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(place, str(error)) from None


def _value(cell: Any, spec: ModelInput) -> Any:
    """A cell as the input's type; strict: nothing is guessed, and nothing lost."""
    if spec.dtype == "str":
        if not isinstance(cell, str):
            raise ValueError("an empty cell" if cell is None else f"{cell!r} is no text")
        return cell
    text = cell.strip() if isinstance(cell, str) else cell
    if text is None or text == "":
        raise ValueError("an empty cell")
    if spec.dtype == "bool":
        key = str(text).lower()
        if key not in _BOOLEANS:
            raise ValueError(f"'{printable(key, 40)}' is neither true nor false")
        return _BOOLEANS[key]
    number = _number(text) if isinstance(text, str) else text
    if number != number:  # NaN
        raise ValueError("NaN")
    if spec.floating:
        return float(number)
    return _whole(number, spec)


def _whole(number: Any, spec: ModelInput) -> int:
    whole, limits = int(number), np.iinfo(spec.dtype)
    if whole != number:
        raise ValueError(f"{number} is no whole number; the input takes {spec.dtype}")
    if not limits.min <= whole <= limits.max:
        raise ValueError(f"{whole} does not fit the model's {spec.dtype}")
    return whole


def _number(text: str) -> int | float:
    if _WHOLE.fullmatch(text):
        return int(text)
    if text.lower() in ("nan", "na", "null"):
        return math.nan
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"'{printable(text, 40)}' is no number")
    return float(text)


def _names_some(patterns: Sequence[str]) -> bool:
    return any(not pattern.startswith("!") for pattern in patterns)


def _listed(names: Sequence[str]) -> str:
    """Names for a message, the first few."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return printable(", ".join(names[:_SHOWN]), 200) + more


def described(slots: Sequence[Slot], columns: Sequence[Column]) -> tuple[str, ...]:
    """How a table is read, a line an input, and what of it is not."""
    lines = []
    for slot in slots:
        names = [columns[i].name for i in slot.columns]
        noun = "column" if len(names) == 1 else f"{len(names)} columns"
        shape = "" if slot.shape is None else " [" + ", ".join(map(str, slot.shape)) + "]"
        lines.append(f"input '{slot.name}'{shape}: {noun} {_listed(names)}")
    used = {i for slot in slots for i in slot.columns}
    if spare := [c.name for i, c in enumerate(columns) if i not in used]:
        lines.append(f"not used: {_listed(spare)}")
    return tuple(lines)
