"""A plan with a switch of its own for each region that reads a tensor.

A region that is quantized alone reads its input rounded, and other consumers of that input do not. Of a scale
that many values share it has its own part: that of its values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from qtool.evaluate.analysis.subject import Subject, tensor_key
from qtool.plan.model import WEIGHTS, Kind, Plan, Site, Use

# The consumers that are in no region.
_REST = -1
_PART = ", region "


@dataclass(frozen=True)
class Pieces:
    """Parts of tensors that are quantized together.

    Args:
        plan: that of the subject, its values split by the regions of their consumers; each part of a shared
            scale has that of its own values.
        tensors: tensor -> its parts.
        regions: for each region the parts that are quantized when it alone is.
    """

    plan: Plan
    tensors: Mapping[str, tuple[str, ...]]
    regions: tuple[tuple[str, ...], ...]


def split(subject: Subject) -> Pieces:
    """Return the tensors of a subject in parts."""
    places = {name: i for i, nodes in enumerate(subject.regions) for name in nodes}
    tensors: dict[str, dict[str, None]] = {}
    regions: list[dict[str, None]] = [{} for _ in subject.regions]
    sites: list[Site] = []
    for site in subject.plan.sites:
        key = tensor_key(site)
        readers: dict[int, list[Use]] = {}
        for use in subject.uses(site):
            readers.setdefault(places.get(use[0], _REST), []).append(use)
        returned = subject.view.values[site.value].is_graph_output()
        alone = len(readers) < 2 and len(subject.tensors.get(key, ())) < 2
        weight = site.kind in WEIGHTS
        if returned or alone or not readers:
            parts = dict.fromkeys(readers or [_REST], key)
            sites.append(site if weight else replace(site, group=key))
        else:
            parts = {place: f"{key}{_PART}{place}" for place in readers}
            sites += [replace(site, uses=tuple(u), group=parts[place]) for place, u in readers.items()]
        if key not in subject.tensors:  # biases add no noise
            continue
        tensors.setdefault(key, {}).update(dict.fromkeys(parts.values()))
        for place, part in parts.items():
            if place != _REST:
                regions[place][part] = None
        made = places.get(subject.producer(site)) if site.uses is None and not weight else None
        if made is not None:
            regions[made].update(dict.fromkeys(parts.values()))
    return Pieces(
        replace(subject.plan, sites=tuple(_with_own_scales(subject, sites))),
        {key: tuple(parts) for key, parts in tensors.items()},
        tuple(tuple(parts) for parts in regions),
    )


def _with_own_scales(subject: Subject, sites: Sequence[Site]) -> Iterator[Site]:
    """Yield the sites; those whose scale is shared with other values have the scale of their part."""
    shared = {s.group for s in sites if len(subject.tensors.get(s.group.partition(_PART)[0], ())) > 1}
    parts: dict[str, list[Site]] = {}
    for site in sites:
        if site.kind is Kind.ACTIVATION and site.group in shared:
            parts.setdefault(site.group, []).append(site)
        else:
            yield site
    for own in parts.values():
        yield from subject.own_scales(replace(subject.plan, sites=tuple(own))).sites
