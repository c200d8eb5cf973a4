"""The report's dataclasses as plain JSON values, and back: strict, so that no damage passes for a result."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from functools import cache
from operator import attrgetter
from typing import Any

from qtool.evaluate.compare import Accuracy, Comparison
from qtool.evaluate.output_metrics import OutputMetrics
from qtool.report.model import Report

NOT_FINITE = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}


@dataclass(frozen=True)
class Derived:
    """A value that follows from the others, written for whoever reads the document without qtool."""

    kind: Any
    get: Callable[[Any], Any]
    help: str


def _interval(measure: str) -> Callable[[OutputMetrics], tuple[float, float] | None]:
    """The interval of a share; None where there is no share."""
    interval = attrgetter(f"{measure}_interval")
    return lambda o: interval(o) if o.rows and not math.isnan(getattr(o, measure)) else None


_PAIR = tuple[float, float] | None
DERIVED: dict[type, dict[str, Derived]] = {
    Report: {
        "front": Derived(
            tuple[str, ...], attrgetter("front"), "the trials that no other one beats in speed, error, size"
        ),
        "size_ratio": Derived(float | None, attrgetter("size_ratio"), "quantized / FP32 bytes"),
        "speedup": Derived(float | None, attrgetter("speedup"), "FP32 time / quantized time, median"),
        "failed": Derived(
            tuple[str, ...], lambda r: tuple(g.gate.text for g in r.failed), "the gates that failed"
        ),
    },
    Comparison: {
        "sqnr": Derived(float, attrgetter("sqnr"), "of the worst output, dB"),
        "sqnr_interval": Derived(
            tuple[float, float], attrgetter("sqnr_interval"), "its 95% interval over samples, dB"
        ),
    },
    Accuracy: {"drop": Derived(float, attrgetter("drop"), "accuracy lost against FP32")},
    OutputMetrics: {
        name: Derived(_PAIR, _interval(name.removesuffix("_interval")), f"95% interval of {name[:4]}")
        for name in ("top1_interval", "top5_interval")
    },
}


@cache
def kinds_of(kind: type) -> dict[str, Any]:
    """Field -> type, of a dataclass; in the order of the document."""
    hints = typing.get_type_hints(kind)
    return {f.name: hints[f.name] for f in fields(kind)}


def jsonable(value: Any) -> Any:
    """A dataclass as what JSON has: derived values last, numbers that are not finite as strings."""
    if is_dataclass(value):
        own = {f.name: jsonable(getattr(value, f.name)) for f in fields(value)}
        return own | {k: jsonable(d.get(value)) for k, d in DERIVED.get(type(value), {}).items()}
    if isinstance(value, Mapping):
        return {str(k): jsonable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(v) for v in value]
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    return value


def restore(kind: Any, value: Any, where: str) -> Any:
    """What `jsonable` made of a value of that type.

    Args:
        kind: a dataclass, or what the fields of one may be: numbers, texts, and tuples or dicts of such.
        value: as JSON has it.
        where: what to call it in an error.

    Raises:
        ValueError: it is of another type, or lacks something, or has too much.
    """
    if is_dataclass(kind):
        return _restore_fields(typing.cast(type, kind), value, where)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        (inner,) = (a for a in arguments if a is not types.NoneType)
        return None if value is None else restore(inner, value, where)
    if origin is tuple:
        return _restore_tuple(arguments, value, where)
    if origin in (dict, Mapping):
        _is(dict, value, where)
        return {k: restore(arguments[1], v, f"{where}.{k}" if where else k) for k, v in value.items()}
    if kind is float:
        return _restore_float(value, where)
    if isinstance(kind, type) and issubclass(kind, Enum):
        if value not in [one.value for one in kind]:
            raise ValueError(f"{where} is no {kind.__name__.lower()}")
        return kind(value)
    _is(kind, value, where)
    if kind is int and value < 0:
        raise ValueError(f"{where} is {value}")
    return value


_WORDS = {dict: "an object", list: "a list", str: "text", int: "a whole number", bool: "true or false"}


def _is(kind: type, value: Any, where: str) -> None:
    # A bool is an int to Python, and to nobody else.
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{where or 'the document'} is not {_WORDS[kind]}")


def _restore_fields(kind: type, value: Any, where: str) -> Any:
    _is(dict, value, where)
    known = kinds_of(kind)
    derived = DERIVED.get(kind, {})
    prefix = f"{where}." if where else ""
    for name in (*known, *derived):
        if name not in value:
            raise ValueError(f"{prefix}{name} is missing")
    for name in value:
        if name not in known and name not in derived:
            raise ValueError(f"{prefix}{name} is unknown")
    return kind(**{name: restore(k, value[name], f"{prefix}{name}") for name, k in known.items()})


def _restore_tuple(arguments: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    _is(list, value, where)
    if arguments[-1] is Ellipsis:
        arguments = (arguments[0],) * len(value)
    if len(arguments) != len(value):
        raise ValueError(f"{where} has {len(value)} entries, not {len(arguments)}")
    return tuple(
        restore(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(arguments, value, strict=True))
    )


def _restore_float(value: Any, where: str) -> float:
    if isinstance(value, str) and value in NOT_FINITE:
        return NOT_FINITE[value]
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueError(f"{where} is not a number")
    return float(value)
