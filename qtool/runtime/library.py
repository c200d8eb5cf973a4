"""The onnxruntime library, imported without its telemetry, and the ops that it has."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import onnx


@contextmanager
def _telemetry_off(variable: str = "ORT_DISABLE_TELEMETRY") -> Iterator[None]:
    """Set the variable for as long as onnxruntime is imported.

    1.29 and later write an event log under HOME and upload it, unless the variable is set when their native
    library is loaded. It is read then and never again (1.32), so the process gets its environment back.
    """
    before = os.environ.get(variable)
    os.environ[variable] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[variable]
        else:
            os.environ[variable] = before


with _telemetry_off():
    import onnxruntime as ort
    from onnxruntime.capi import onnxruntime_pybind11_state as native

__all__ = ["RUNTIME_VERSION", "has_op", "known_ops", "ort"]

RUNTIME_VERSION: str = ort.__version__

# The end of a range of opsets that has none.
_OPEN = 2**31 - 1


@cache
def has_op(op: str, opset: int) -> bool:
    """Whether the CPU provider has an op of the standard domain as an opset defines it.

    It has the opsets up to a highest one, but not every op of each: 1.32 loads opset 28 and has no
    QuantizeLinear of it. A kernel whose range of opsets is open runs nothing but its own version of the op.
    """
    versions, kernels = _registered()
    if opset > max(max(v) for v in versions.values()):
        return False
    since = max((v for v in versions.get(op, ()) if v <= opset), default=0)
    if not since:
        return False
    if not kernels[op] or any(a == since or (b != _OPEN and a <= since <= b) for a, b in kernels[op]):
        return True  # an op without any kernel is expanded, or folded, when the model is loaded
    try:
        schema: Any = onnx.defs.get_schema(op, opset, "")
    except onnx.defs.SchemaError:
        return False
    return bool(schema.has_function or schema.has_context_dependent_function)


@cache
def known_ops() -> frozenset[tuple[str, str]]:
    """Return the (domain, op) of every op that the runtime knows; the standard domain is ''."""
    return frozenset((schema.domain, schema.name) for schema in native.get_all_operator_schema())


@cache
def _registered() -> tuple[dict[str, set[int]], dict[str, list[tuple[int, int]]]]:
    """The versions of each standard op that the runtime knows, and the ranges of its CPU kernels."""
    versions, kernels = defaultdict(set), defaultdict(list)
    for schema in native.get_all_operator_schema():
        if not schema.domain:
            versions[schema.name].add(schema.since_version)
    for kernel in native.get_all_opkernel_def():
        if not kernel.domain and kernel.provider == "CPUExecutionProvider":
            kernels[kernel.op_name].append(tuple(kernel.version_range))
    return versions, kernels
