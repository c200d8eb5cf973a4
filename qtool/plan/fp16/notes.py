"""What a user should know of float16 before shipping it."""

from __future__ import annotations

from collections.abc import Iterator

from qtool.graph.view import View
from qtool.plan.fp16.assignment import ports, unobserved
from qtool.plan.model import Plan
from qtool.tables.qtypes import FLOAT16

NOT_FASTER = "float16 is smaller, but not faster on a CPU: it is for hardware that computes in it"
NOT_LOOKED_AT = "whether activations fit into float16 is not known: no samples were looked at (--calib DIR)"
NESTED = "whether activations inside If, Loop and Scan fit into float16 is not known: they can't be observed"


def fp16_notes(plan: Plan, view: View) -> Iterator[str]:
    """One line a fact; none where nothing is float16."""
    if plan.fp16.sites:
        yield NOT_FASTER
    if plan.fp16_observed and not plan.calibration_sha256:
        yield NOT_LOOKED_AT
    elif unobserved(plan.fp16, view):
        yield NESTED
    if plan.choices.io == FLOAT16.name:
        for value in ports(view):
            if reason := plan.fp16.overflow.get(value.name or ""):
                yield f"--io float16: '{value.name}' stays float32: it {reason}"
