"""Notes for the user before shipping: limits of float16, and ports that --io could not change."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from qtool.graph.inspection.dtypes import dtype_name
from qtool.graph.view import View
from qtool.plan.activations import float_ports, integer_ports
from qtool.plan.fp16.assignment import float32_ports, has_unobserved_values
from qtool.plan.model import Kind, Plan
from qtool.plan.scheme import Scheme
from qtool.tables.qtypes import FLOAT16, FLOAT32

NOT_FASTER = "float16 is smaller, but not faster on a CPU: it is for hardware that computes in it"
NO_SAMPLES = "activations may overflow float16: no samples were run (--calib DIR)"
NESTED = "activations inside If, Loop and Scan may overflow float16: they can't be observed"


def plan_notes(plan: Plan, view: View, scheme: Scheme) -> Iterator[str]:
    """Yield one line for each fact that the user should know."""
    if plan.fp16.nodes:
        yield NOT_FASTER
    if plan.fp16_observed and not plan.calibration_sha256:
        yield NO_SAMPLES
    elif has_unobserved_values(plan.fp16, view):
        yield NESTED
    for name, reason in _float_ports(plan, view, scheme):
        yield f"--io {scheme.io.name}: '{name}' stays float32: {reason}"
    for name, dtype in _ports_of_other_floats(view, scheme):
        yield f"--io {scheme.io.name}: '{name}' stays {dtype}: only float32 inputs and outputs change"


def _float_ports(plan: Plan, view: View, scheme: Scheme) -> Iterator[tuple[str, str]]:
    """Yield the inputs and outputs that stay float32 although --io names another type, with the reason."""
    if scheme.io is FLOAT16:
        for value in float32_ports(view):
            if reason := plan.fp16.overflow.get(value.name or ""):
                yield value.name or "", f"it {reason}"
        return
    planned = {s.value for s in plan.sites if s.kind is Kind.ACTIVATION}
    for value in float_ports(view, scheme):
        yield value.name or "", "shapes or indices are computed from it"
    for value in integer_ports(view, scheme):
        if value.name not in planned:
            yield value.name or "", "it holds infinities or masks, or has no range"


def _ports_of_other_floats(view: View, scheme: Scheme) -> Iterator[tuple[str, str]]:
    """Yield the inputs and outputs of a float16 or float64 model, which keep their types, against --io."""
    if scheme.io is FLOAT32:
        return
    for value in (*view.model.graph.inputs, *view.model.graph.outputs):
        dtype = value.dtype
        if dtype in (ir.DataType.FLOAT16, ir.DataType.DOUBLE) and dtype_name(dtype) != scheme.io.name:
            yield value.name or "", dtype_name(dtype)
