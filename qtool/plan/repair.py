"""Back to float, worst first, until what is left is predicted to be accurate enough."""

from __future__ import annotations

from dataclasses import replace

from qtool.graph.view import View
from qtool.plan.model import OBSERVED, WEIGHTS, Kind, Plan, Site, Wishes
from qtool.plan.predict import Errors, key_of, keys_of
from qtool.plan.unfit import touching
from qtool.tables.modes import WEIGHT_BITS
from qtool.tables.qtypes import FLOAT32, QType

_STORED = frozenset({Kind.STORED, Kind.LOOKUP})
_REASON = "its error: alone it takes the outputs to {:.1f} dB"


def repaired(view: View, plan: Plan, wish: Wishes, errors: Errors, aim_db: float) -> Wishes | None:
    """What to wish for so that the predicted SQNR reaches `aim_db`; None when there is nothing to give back.

    What the user forced stays. Of a node in int8 the whole node goes back; of one in float, its weight:
    from 2 bits to 4, from 4 to 8, and from 8 to float.

    Args:
        view: of the prepared graph.
        plan: resolved.
        wish: what it was drafted by.
        errors: of all that it quantizes.
        aim_db: dB, of the worst output.
    """
    left = list(keys_of(plan))
    sites: dict[str, list[Site]] = {}
    for site in plan.sites:
        if site.kind in OBSERVED or site.kind in WEIGHTS:
            sites.setdefault(key_of(site), []).append(site)
    keep, weights = dict(wish.keep_float), dict(wish.weights)
    for key in sorted(left, key=errors.relative, reverse=True):
        if errors.sqnr(left) >= aim_db or not errors.relative(key):
            break
        reason = _REASON.format(errors.sqnr([key]))
        changed = False
        for site in sites.get(key, ()):
            changed |= _give_back(site, touching(site, view), wish, reason, (keep, weights))
        if key in plan.halves.sites and key not in wish.half | wish.force:
            keep[key], changed = reason, True
        if changed:
            left.remove(key)
    if (keep, weights) == (wish.keep_float, wish.weights):
        return None
    return replace(wish, keep_float=keep, weights=weights)


def _give_back(
    site: Site, nodes: list[str], wish: Wishes, reason: str, kept: tuple[dict[str, str], dict[str, QType]]
) -> bool:
    """Put what a site serves back; whether there was anything to."""
    keep, weights = kept
    changed = False
    for name in nodes:
        if name in wish.force:
            continue
        if site.kind in _STORED:
            after = _wider(site.spec.qtype)
            if weights.get(name, site.spec.qtype).bits < after.bits:
                weights[name], changed = after, True
        elif name not in keep:
            keep[name], changed = reason, True
    return changed


def _wider(qtype: QType) -> QType:
    """The type of the next more bits that a weight can be kept in."""
    wider = [bits for bits in WEIGHT_BITS if bits > qtype.bits]
    return WEIGHT_BITS[min(wider)] if wider else FLOAT32
