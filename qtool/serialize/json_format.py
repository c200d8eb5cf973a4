"""The JSON files of qtool: frozen dataclasses as documents, read back strictly. cattrs converts.

Fields become keys, enums their values, infinity and nan the strings "inf", "-inf" and "nan", integers beyond
2**53 decimal strings, and arrays {"dtype", "values"} or {"dtype", "shape", "base64"}. A document is accepted
only if writing what was read gives the same document: no wrong type, no unknown or missing field, no edited
derived value passes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from qtool.errors import UsageError, printable
from qtool.runtime.heartbeat import step
from qtool.tables.qtypes import QTYPES, Granularity, QType

if TYPE_CHECKING:
    from cattrs import Converter

T = TypeVar("T")

NOT_FINITE = ("inf", "-inf", "nan")
# Integers beyond this lose digits in programs that read every JSON number as a double.
_LARGEST_INTEGER = 1 << 53
# Larger arrays are base64. Counts of 64 bits are mostly small: as digits they are shorter.
_MOST_VALUES = 16
_EVERY_LEVEL = 1000


@dataclass(frozen=True)
class JsonFormat(Generic[T]):
    """A kind of JSON file.

    Args:
        kind: the dataclass that a file holds.
        schema: name and version, the first field of every file.
        noun: the name of such a file in messages.
        hint: how to make one.
        largest: bytes that a file may have.
        levels: levels of nesting that are written an entry a line.
        check: raises ValueError where values contradict each other.
        derived: class -> key -> a value that follows from the fields, written for other programs and checked
            when a file is read.
        omitted: class -> fields with defaults that are not written.
    """

    kind: type[T]
    schema: str
    noun: str
    hint: str = ""
    largest: int = 1 << 28
    levels: int = _EVERY_LEVEL
    check: Callable[[T], None] = lambda _: None
    derived: Mapping[type, Mapping[str, Callable[[Any], Any]]] = field(default_factory=dict)
    omitted: Mapping[type, tuple[str, ...]] = field(default_factory=dict)

    def document(self, value: T) -> dict[str, Any]:
        """Return a value as plain dicts, lists, strings and numbers."""
        return {"schema": self.schema, **self._converter.unstructure(value, self.kind)}

    def to_json(self, value: T) -> str:
        """Return the text of a file, which is the same for equal values."""
        text = _indented(self.document(value), self.levels) + "\n"
        return text.encode("utf-8", "backslashreplace").decode()  # file names that are not UTF-8

    def digest(self, value: T) -> str:
        """Return a sha256 of a value's document, independent of the order of fields and keys."""
        text = json.dumps(self.document(value), sort_keys=True, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def from_json(self, text: str, name: str) -> T:
        """Read a value back from the text of a file.

        Args:
            text: that `to_json` made.
            name: of the file, for errors.

        Raises:
            UsageError: not JSON, another schema, or a field that is wrong, unknown or missing.
        """
        from cattrs import transform_error

        try:
            document = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique)
        except (ValueError, RecursionError) as error:
            raise UsageError(
                f"{name}: not JSON, expected a {self.noun}: {printable(str(error), 120)}", self.hint
            ) from error
        schema = document.pop("schema", None) if isinstance(document, dict) else None
        if schema != self.schema:
            shown = f"schema {printable(repr(schema), 60)}" if schema is not None else "no schema"
            raise UsageError(
                f"{name}: not a {self.noun} of this version ({shown}, expected '{self.schema}')", self.hint
            )
        try:
            value = self._converter.structure(document, self.kind)
            self.check(value)
            problem = _difference(document, self._converter.unstructure(value, self.kind), "")
        except (ValueError, ArithmeticError) as error:
            problem = str(error)
        except Exception as error:  # cattrs raises a group with the place of each error
            text, _, place = transform_error(error, path="")[0].rpartition(" @ ")
            problem = f"{place.lstrip('.')}: {text}".removeprefix(": ")
        if problem:
            raise UsageError(f"{name}: damaged {self.noun}: {printable(problem, 200)}", self.hint)
        return value

    def read(self, path: Path) -> T:
        """Read a value from a file.

        Raises:
            UsageError: the file can't be read, is too large, or `from_json` refuses it.
        """
        name = f"{self.noun} '{printable(str(path))}'"
        try:
            if path.exists() and not path.is_file():
                raise UsageError(f"{name} is not a regular file")
            if (size := path.stat().st_size) > self.largest:
                raise UsageError(f"{name} has {size:,} bytes, more than {self.largest:,}")
            with step(str(path), "it is read", UsageError):
                text = path.read_bytes().decode("utf-8-sig")
        except (OSError, ValueError) as error:  # ValueError: not UTF-8; a null character in the name
            reason = getattr(error, "strerror", None) or printable(str(error), 120)
            raise UsageError(f"{name} can't be read: {reason}") from error
        return self.from_json(text, printable(str(path)))

    @cached_property
    def _converter(self) -> Converter:
        return _converter(self.derived, self.omitted)


def _converter(
    derived: Mapping[type, Mapping[str, Callable[[Any], Any]]], omitted: Mapping[type, tuple[str, ...]]
) -> Converter:
    from cattrs import Converter
    from cattrs.strategies import configure_tagged_union

    converter = Converter(
        forbid_extra_keys=True, unstruct_collection_overrides={tuple: list, frozenset: sorted}
    )
    converter.register_structure_hook(bool, _read_bool)
    converter.register_structure_hook(int, _read_int)
    converter.register_structure_hook(float, _read_float)
    converter.register_structure_hook(str, _read_str)
    converter.register_unstructure_hook(int, lambda n: str(n) if abs(n) > _LARGEST_INTEGER else n)
    converter.register_unstructure_hook(float, lambda x: float(x) if math.isfinite(x) else str(float(x)))
    converter.register_unstructure_hook_func(_is_array, _array_document)
    converter.register_structure_hook_func(_is_array, _read_array)
    converter.register_unstructure_hook(QType, lambda qtype: qtype.name)
    converter.register_structure_hook(QType, _read_qtype)
    configure_tagged_union(Granularity, converter, tag_name="kind")
    # Factories: the functions of a class are made when the hooks of the classes inside it are in place.
    converter.register_unstructure_hook_factory(
        lambda kind: kind in derived or kind in omitted,
        lambda kind: _writer(kind, derived.get(kind, {}), omitted.get(kind, ()), converter),
    )
    converter.register_structure_hook_factory(
        lambda kind: kind in derived, lambda kind: _reader(kind, derived[kind], converter)
    )
    return converter


def _writer(
    kind: type, getters: Mapping[str, Callable[[Any], Any]], omitted: tuple[str, ...], converter: Converter
) -> Callable[[Any], dict[str, Any]]:
    """Return the function that writes the fields of a class, some omitted, then its derived values."""
    from cattrs.gen import make_dict_unstructure_fn, override

    overrides: dict[str, Any] = {name: override(omit=True) for name in omitted}
    write_fields: Any = make_dict_unstructure_fn(kind, converter, **overrides)

    def write(value: Any) -> dict[str, Any]:
        values = {name: converter.unstructure(get(value)) for name, get in getters.items()}
        return {**write_fields(value), **values}

    return write


def _reader(
    kind: type, getters: Mapping[str, Callable[[Any], Any]], converter: Converter
) -> Callable[[Any, Any], Any]:
    """Return the function that reads the fields of a class and skips its derived values."""
    from cattrs.gen import make_dict_structure_fn

    read_fields: Any = make_dict_structure_fn(kind, converter, _cattrs_forbid_extra_keys=True)

    def read(document: Any, _: Any) -> Any:
        if isinstance(document, dict):
            document = {name: value for name, value in document.items() if name not in getters}
        return read_fields(document, kind)

    return read


def _read_bool(value: Any, _: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("not a bool")
    return value


def _read_int(value: Any, _: Any) -> int:
    if isinstance(value, bool):
        raise ValueError("not an int")
    return int(value)


def _read_float(value: Any, _: Any) -> float:
    if isinstance(value, bool) or (isinstance(value, str) and value not in NOT_FINITE):
        raise ValueError("not a float")
    return float(value)


def _read_str(value: Any, _: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("not a str")
    return value


def _read_qtype(name: Any, _: Any) -> QType:
    if not isinstance(name, str) or name not in QTYPES:
        raise ValueError("not a type of tables/qtypes.py")
    return QTYPES[name]


def _is_array(kind: Any) -> bool:
    return (typing.get_origin(kind) or kind) is np.ndarray


def _array_document(array: np.ndarray) -> dict[str, Any]:
    if array.size <= _MOST_VALUES or array.dtype == np.int64:
        return {"dtype": array.dtype.name, "values": array.tolist()}
    raw = array.astype(array.dtype.newbyteorder("<")).tobytes()
    return {
        "dtype": array.dtype.name,
        "shape": list(array.shape),
        "base64": base64.b64encode(raw).decode(),
    }


def _read_array(document: Any, kind: Any) -> np.ndarray:
    """Read an array of the scalar type that its annotation names.

    Raises:
        ValueError: another type, or values that do not fit it.
    """
    scalar = typing.get_args(typing.get_args(kind)[1])[0]
    try:
        dtype = np.dtype(document["dtype"])
        if not np.issubdtype(dtype, scalar):
            raise ValueError(f"dtype {dtype} is not {scalar.__name__}")
        if "values" in document:
            return np.array(document["values"], dtype)
        raw = base64.b64decode(document["base64"], validate=True)
        array = np.frombuffer(raw, dtype.newbyteorder("<")).reshape(document["shape"])
        return array.astype(dtype)
    except (LookupError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"not an array: {error}") from error


def _refuse_constant(word: str) -> Any:
    raise ValueError(f"{word} is not JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a key is there twice")
    return fields


def _difference(document: Any, expected: Any, place: str) -> str:
    """Return the first difference of two documents in words; '' where they are equal."""
    if document == expected:
        return ""
    if isinstance(document, dict) and isinstance(expected, dict):
        prefix = f"{place}." if place else ""
        if unknown := document.keys() - expected.keys():
            return f"{prefix}{min(unknown)} is unknown"
        if missing := expected.keys() - document.keys():
            return f"{prefix}{min(missing)} is missing"
        pairs = [(document[key], expected[key], f"{prefix}{key}") for key in document]
    elif isinstance(document, list) and isinstance(expected, list) and len(document) == len(expected):
        pairs = [(a, b, f"{place}[{i}]") for i, (a, b) in enumerate(zip(document, expected, strict=True))]
    else:
        shown, wanted = (printable(json.dumps(value), 60) for value in (document, expected))
        return f"{place} is {shown}, expected {wanted}"
    return next(text for a, b, inner in pairs if (text := _difference(a, b, inner)))


def _indented(value: Any, levels: int, indent: int = 0) -> str:
    """JSON with an entry a line down to a level of nesting; deeper values are on one line."""
    if not levels or not value or not isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    if isinstance(value, dict):
        lines = [
            f"{json.dumps(key, ensure_ascii=False)}: {_indented(v, levels - 1, indent + 2)}"
            for key, v in value.items()
        ]
    else:
        lines = [_indented(v, levels - 1, indent + 2) for v in value]
    pad = "\n" + " " * (indent + 2)
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    return f"{opening}{pad}{f',{pad}'.join(lines)}\n{' ' * indent}{closing}"
