"""Blocks of a model, by the names of its nodes: 'encoder/layer.0' of 'encoder/layer.0/attention/MatMul'."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from qtool.evaluate.analysis.model import BlockError, RegionError

_PARTS = re.compile(r"[/.]")
# Names of more parts are no easier to read.
_DEEPEST = 8
# With more blocks than this share of the regions, blocks say no more than regions.
_MOST = 0.6


def with_blocks(regions: Sequence[RegionError]) -> list[RegionError]:
    """Return the regions with their blocks: prefixes of the least depth that tells some regions apart."""
    if len(regions) < 3:
        return list(regions)
    for depth in range(1, _DEEPEST + 1):
        prefixes = [prefix(r.name, depth) for r in regions]
        count = len({p for p in prefixes if p})
        if count > _MOST * len(regions):
            break
        if count > 1:
            return [replace(r, block=p) for r, p in zip(regions, prefixes, strict=True)]
    return list(regions)


def prefix(name: str, depth: int) -> str:
    """Return the first parts of a name that has more of them; '' for a shorter one."""
    parts = [m.start() for m in _PARTS.finditer(name.lstrip("/"))]
    return name.lstrip("/")[: parts[depth - 1]] if len(parts) >= depth else ""


def blocks_of(regions: Sequence[RegionError]) -> tuple[BlockError, ...]:
    """Return the blocks, the one with the largest share first; none where names have no parts."""
    names = dict.fromkeys(r.block for r in regions)
    if not any(names):
        return ()
    rows = []
    for name in names:
        own = [r for r in regions if r.block == name]
        rows.append(BlockError(name or "(others)", len(own), sum(r.share for r in own)))
    return tuple(sorted(rows, key=lambda b: -b.share))
