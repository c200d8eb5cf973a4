"""The reason for each region's form, with the figures behind it."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import replace

from qtool.graph.view import View, op_key
from qtool.placement.network import Network, noise_db
from qtool.placement.regions import Region
from qtool.plan.assignment import Assignment
from qtool.plan.model import Plan, RegionNote
from qtool.tables.reasons import Code, Reason

_US = 1e6


def why_float(region: Region, network: Network, weight: float) -> Reason:
    """Return why a cut left a region in float.

    Args:
        region: the region.
        network: its costs.
        weight: of noise against seconds in that cut.
    """
    before, after = network.times[region.name]
    noise = network.noise(region.name)
    if after >= before:
        return Reason(Code.NOT_FASTER, f"{before * _US:.1f} us float, {after * _US:.1f} us int8")
    saved = (before - after) * _US
    if weight * noise >= before - after:
        return Reason(Code.ACCURACY, f"alone it gives {noise_db(noise):.1f} dB and saves {saved:.1f} us")
    return Reason(Code.NEIGHBOURS, f"a Q and a DQ would cost more than the {saved:.1f} us that int8 saves")


def restricted(
    assignment: Assignment, network: Network, int8: Collection[str], weight: float = 0.0
) -> Assignment:
    """Return an assignment with only these regions in int8, and the reasons of the others.

    Args:
        assignment: with all regions of the network in int8.
        network: of the regions.
        int8: names of regions.
        weight: of noise against seconds, in the cut that chose them.
    """
    floats = {
        node: why_float(region, network, weight)
        for region in network.regions
        if region.name not in int8
        for node in region.nodes
    }
    forms = {name: form for name, form in assignment.forms.items() if name not in floats}
    return replace(assignment, forms=forms, reasons={**assignment.reasons, **floats})


def region_notes(
    network: Network, plan: Plan, view: View, without: Collection[str] = (), *, errors: bool = True
) -> tuple[RegionNote, ...]:
    """Return each region's measurements, its form in a plan, and the reason.

    Args:
        network: of the regions.
        plan: resolved.
        view: of the prepared model.
        without: names of regions to leave out.
        errors: whether errors were measured.
    """
    reasons = {skip.node: skip.reason for skip in plan.skips}
    int8 = network.int8_regions(plan)
    seconds = network.seconds(int8)
    notes = []
    for region in (r for r in network.regions if r.name not in without):
        quantized = region.name in int8
        before, after = network.times[region.name]
        sqnr = noise_db(network.noise(region.name)) if errors else math.nan
        if not quantized:
            why = next((str(reasons[n]) for n in region.nodes if n in reasons), "")
        elif region.name in network.forced:
            why = "requested by the user"
        elif after < before:
            why = f"{(before - after) * _US:.1f} us faster; alone it gives {sqnr:.1f} dB"
        elif network.seconds(int8 - {region.name}) > seconds:
            why = "between int8 regions: a DQ and a Q around it would cost more"
        else:
            why = f"{(after - before) * _US:.1f} us slower alone, but part of the plan that measured best"
        ops = tuple(dict.fromkeys(op_key(view.node_by_name[name]) for name in region.nodes))
        notes.append(RegionNote(region.nodes, before * _US, after * _US, sqnr, quantized, why, ops))
    return tuple(notes)
