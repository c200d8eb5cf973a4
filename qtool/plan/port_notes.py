"""What a user should know of --io uint8 and int8: which inputs and outputs are no integers all the same."""

from __future__ import annotations

from collections.abc import Iterator

from qtool.graph.view import View
from qtool.plan.activations import float_ports, integer_ports
from qtool.plan.model import Kind, Plan
from qtool.plan.scheme import Scheme


def port_notes(plan: Plan, view: View, scheme: Scheme) -> Iterator[str]:
    """One line a port."""
    planned = {s.value for s in plan.sites if s.kind is Kind.ACTIVATION}
    for value in float_ports(view, scheme):
        yield f"--io {scheme.io.name}: '{value.name}' stays float32: shapes or indices are computed from it"
    for value in integer_ports(view, scheme):
        if value.name not in planned:
            yield (
                f"--io {scheme.io.name}: '{value.name}' stays float32: "
                "it holds infinities or masks, or has no range"
            )
