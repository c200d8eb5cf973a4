"""Why a unit has the label that it has, in words that name the figures."""

from __future__ import annotations

from qtool.graph.view import View, op_key
from qtool.numerics.metrics import sqnr_db
from qtool.plan.model import Plan, UnitNote
from qtool.plan.network import Network
from qtool.plan.units import Unit

_US = 1e6
# What a unit can be left in float for; figures follow.
NO_GAIN = "it gains nothing in int8 here"
ITS_ERROR = "its error"
ITS_NEIGHBOURS = "its neighbours are in float"
MEASURED_REASONS = (NO_GAIN, ITS_ERROR, ITS_NEIGHBOURS)


def why_float(unit: Unit, network: Network, weight: float) -> str:
    """Why a cut left a unit in float.

    Args:
        unit: the unit.
        network: its costs.
        weight: of noise against seconds, in that cut.
    """
    before, after = network.times[unit.name]
    noise = network.noise(unit.name)
    if after >= before:
        return f"{NO_GAIN}: {before * _US:.1f} us in float, {after * _US:.1f} in int8"
    if weight * noise >= before - after:
        return (
            f"{ITS_ERROR}: alone it takes the outputs to {decibels(noise):.1f} dB, "
            f"for {(before - after) * _US:.1f} us"
        )
    return (
        f"{ITS_NEIGHBOURS}: a Q and a DQ would cost more than the {(before - after) * _US:.1f} us "
        "that it gains"
    )


def notes(network: Network, plan: Plan, view: View) -> tuple[UnitNote, ...]:
    """What was measured of each unit, and what became of it in a plan."""
    reasons = {skip.node: skip.reason for skip in plan.skips}
    int8 = quantized_units(network, plan)
    seconds = network.seconds(int8)
    found = []
    for unit in network.units:
        quantized = unit.name in int8
        before, after = network.times[unit.name]
        noise = network.noise(unit.name)
        if not quantized:
            why = next((reasons[n] for n in unit.nodes if n in reasons), "")
        elif unit.name in network.forced:
            why = "asked for"
        elif after < before:
            why = f"{(before - after) * _US:.1f} us faster, and alone {decibels(noise):.1f} dB"
        elif network.seconds(int8 - {unit.name}) > seconds:
            why = "between int8 units: a DQ and a Q around it would cost more"
        else:
            why = f"{(after - before) * _US:.1f} us slower by itself; the plan that was best when run has it"
        ops = tuple(dict.fromkeys(op_key(view.node_by_name[name]) for name in unit.nodes))
        found.append(UnitNote(unit.nodes, before * _US, after * _US, decibels(noise), quantized, why, ops))
    return tuple(found)


def quantized_units(network: Network, plan: Plan) -> frozenset[str]:
    """The units that a plan has in int8."""
    return frozenset(u.name for u in network.units if any(name in plan.forms for name in u.nodes))


def decibels(noise: float) -> float:
    """SQNR in dB of noise as a share of the signal."""
    return sqnr_db(1.0, noise)
