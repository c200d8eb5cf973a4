"""What calibration shows to be unfit for int8, whatever the tables hope."""

from __future__ import annotations

from qtool.calibrate.ranges import Ranges
from qtool.graph.view import View
from qtool.plan.model import Kind, Plan
from qtool.tables.modes import Mode


def unfit_nodes(plan: Plan, ranges: Ranges, view: View, mode: Mode) -> dict[str, str]:
    """Nodes that must stay in float because of what their activations held: name -> reason.

    Calibration never ran them, or masks of -inf reach them, or a few outliers stretch the range so
    far that the other values drown in one step.
    """
    reasons: dict[str, str] = {}
    for site in plan.sites:
        if site.kind is not Kind.ACTIVATION:
            continue
        seen = ranges.get(site.value)
        if seen is None:
            reason = f"never executed in calibration ('{site.value}' was always empty)"
        elif seen.infinite:
            reason = f"its activation '{site.value}' holds infinities or masks"
        else:
            step = (max(seen.hi, 0.0) - min(seen.lo, 0.0)) / (site.spec.qtype.qmax - site.spec.qtype.qmin)
            if site.uses is None or seen.mean_magnitude >= mode.least_mean_steps * step:
                continue
            reason = (
                f"outliers: '{site.value}' spans {seen.lo:.3g}..{seen.hi:.3g} "
                f"with a mean magnitude of {seen.mean_magnitude:.2g}"
            )
        users = [name for name, _ in site.uses] if site.uses is not None else []
        producer = view.values[site.value].producer()
        if site.uses is None and producer is not None:
            users.append(producer.name or "")
            users += [u.node.name or "" for u in view.values[site.value].uses()]
        for name in users:
            reasons.setdefault(name, reason)
    return reasons
