"""Whether a quantized model's outputs are near enough to FP32's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tests.sweep.noise import Outputs

# Of a model in which nothing was quantized: preparation reorders sums of float32, no more.
EXACT_DB = 90.0
# How many times the worst of several draws of noise may be exceeded: few elements, few draws.
_MARGIN = 3.0


def complaint(
    names: Sequence[str],
    fp32: Outputs,
    got: Outputs,
    floor: float,
    noisy: Callable[[], Sequence[Outputs | None]],
) -> str:
    """The fault of the outputs, '' for none. `noisy` is called only below the floor."""
    for index, name in enumerate(names):
        a, b = fp32[index], got[index]
        if problem := _kinds_differ(a, b):
            return f"{name}: {problem}"
        if (db := _sqnr(a, b)) >= floor:
            continue
        runs = noisy()
        if any(r is None or _shapes(r[index]) != _shapes(a) for r in runs):
            continue  # values decide over shapes, or whether it runs at all
        if _shapes(a) != _shapes(b):
            return f"{name}: shape {_shapes(b)}, of FP32 {_shapes(a)}, which noise does not change"
        for kind, measure in _MEASURES.items():
            ours, noises = measure(a, b), max(measure(a, r[index]) for r in runs if r is not None)
            if ours > _MARGIN * noises:
                return f"{name}: {db:.1f} dB; {kind} {ours:.3g}, of noise {noises:.3g}"
    return ""


def _kinds_differ(a: Any, b: Any) -> str:
    if isinstance(a, list):
        return "" if isinstance(b, list) else "no sequence"
    if a is None or b is None:
        return "" if a is b else "there where it was not, or not where it was"
    x, y = np.asarray(a), np.asarray(b)
    if x.dtype != y.dtype:
        return f"{y.dtype}, of FP32 {x.dtype}"
    return "" if x.ndim == y.ndim else f"{y.ndim} axes, of FP32 {x.ndim}"


def _shapes(a: Any) -> Any:
    return [_shapes(x) for x in a] if isinstance(a, list) else None if a is None else np.asarray(a).shape


def _flat(a: Any) -> np.ndarray:
    """All elements of an array or a sequence."""
    parts = [np.ravel(x) for x in a] if isinstance(a, list) else [] if a is None else [np.ravel(a)]
    joined = np.concatenate(parts) if parts else np.zeros(0)
    return joined.astype(np.float64) if joined.dtype.kind == "f" else joined


def _sqnr(a: Any, b: Any) -> float:
    """dB over what is finite in both; inf where all is equal, -inf where what should be equal is not."""
    if _shapes(a) != _shapes(b) or _broken(a, b):
        return -np.inf
    x, y = _flat(a), _flat(b)
    if x.dtype.kind != "f":
        return np.inf if np.array_equal(x, y) else -np.inf
    noise = _rms(a, b)
    signal = np.sqrt(np.mean(np.square(x[np.isfinite(x)]))) if np.isfinite(x).any() else 0.0
    if noise <= np.finfo(np.float32).tiny:
        return np.inf
    return float(20 * np.log10(signal / noise)) if signal else -np.inf


def _rms(a: Any, b: Any) -> float:
    """Of the difference of floats, where both are finite."""
    x, y = _flat(a), _flat(b)
    if x.dtype.kind != "f":
        return 0.0
    with np.errstate(all="ignore"):
        d = (x - y)[np.isfinite(x) & np.isfinite(y)]
    return float(np.sqrt(np.mean(np.square(d)))) if d.size else 0.0


def _broken(a: Any, b: Any) -> float:
    """Elements that are not finite in one, or differ where they are not floats."""
    x, y = _flat(a), _flat(b)
    if x.dtype.kind != "f":
        return float(np.count_nonzero(x != y))
    odd = ~(np.isfinite(x) & np.isfinite(y))
    with np.errstate(all="ignore"):
        return float(np.count_nonzero(odd & (x != y) & ~(np.isnan(x) & np.isnan(y))))


_MEASURES: dict[str, Callable[[Any, Any], float]] = {"rms": _rms, "elements that differ": _broken}
