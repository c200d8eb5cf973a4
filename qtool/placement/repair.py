"""Repair: move the most sensitive nodes back to float until the predicted SQNR reaches the target."""

from __future__ import annotations

from dataclasses import replace

from qtool.plan.assignment import Assignment, assigned_graph
from qtool.plan.calibration_fallback import nodes_around
from qtool.plan.candidate import Candidate
from qtool.plan.model import OBSERVED, WEIGHTS, Kind, Site
from qtool.plan.predict import TensorNoise, key_of, keys_of
from qtool.plan.rules import to_float
from qtool.tables.modes import WEIGHT_BITS
from qtool.tables.qtypes import FLOAT32, QType
from qtool.tables.reasons import Code, Reason

STORED = frozenset({Kind.STORED, Kind.LOOKUP})


def repair(candidate: Candidate, errors: TensorNoise, aim_db: float, because: str = "") -> Assignment | None:
    """Return an assignment that is predicted to reach `aim_db`; None when nothing more can go to float.

    A quantized node goes back to float as a whole; a clamp takes with it the product whose Q it folds into. A
    node that computes in float gets a wider weight: 4 bits after 2, 8 after 4, float after 8. Nodes that the
    user requires stay.

    Args:
        candidate: any.
        errors: of every tensor that it quantizes.
        aim_db: dB of the worst output.
        because: the gate that the candidate misses, for the reasons of its nodes.
    """
    plan, constraints = candidate.plan, candidate.model.constraints
    left = list(keys_of(plan))
    sites: dict[str, list[Site]] = {}
    for site in plan.sites:
        if site.kind in OBSERVED or site.kind in WEIGHTS:
            sites.setdefault(key_of(site), []).append(site)
    around = {
        key: {n for site in own if site.kind not in STORED for n in nodes_around(site, candidate.model.view)}
        for key, own in sites.items()
    }
    fused = _clamped(candidate)
    floats: dict[str, Reason] = {}
    types = dict(candidate.assignment.weight_types)
    for key in sorted(left, key=errors.relative, reverse=True):
        if errors.sqnr(left) >= aim_db or not errors.relative(key):
            break
        reason = Reason(Code.ACCURACY, f"{because}this tensor alone gives {errors.sqnr([key]):.1f} dB")
        changed = False
        for site in sites.get(key, ()):
            nodes = nodes_around(site, candidate.model.view)
            for name in dict.fromkeys((*nodes, *(fused[n] for n in nodes if n in fused))):
                if constraints.forbids_float(name):
                    continue
                if site.kind in STORED:
                    changed |= _widen(types, name, site.spec.qtype, name in constraints.weight_types)
                elif name in candidate.assignment.forms and name not in floats:
                    floats[name], changed = reason, True
        if key in plan.fp16.nodes and not constraints.forbids_float(key):
            floats[key], changed = reason, True
        if changed:
            quantized = candidate.assignment.forms.keys() - floats.keys()
            # A node that goes back to float takes all its tensors with it.
            left = [k for k in left if k != key and not (around.get(k) and around[k].isdisjoint(quantized))]
    if not floats and types == candidate.assignment.weight_types:
        return None
    return to_float(candidate.model.task, replace(candidate.assignment, weight_types=types), floats)


def _clamped(candidate: Candidate) -> dict[str, str]:
    """Clamp -> the product that it folds into, which without the clamp would round the unclamped values."""
    assigned = assigned_graph(candidate.model.task, candidate.assignment)
    clamps = ((assigned.epilogue_of(own.node), name) for name, own in assigned.chosen.items())
    return {clamp.name or "": name for clamp, name in clamps if clamp is not None}


def _widen(types: dict[str, QType], node: str, now: QType, settled: bool) -> bool:
    """Give a node the next wider type for its weights; return whether it changed."""
    wider = [bits for bits in WEIGHT_BITS if bits > now.bits]
    after = WEIGHT_BITS[min(wider)] if wider else FLOAT32
    if settled or types.get(node, now).bits >= after.bits:
        return False
    types[node] = after
    return True
