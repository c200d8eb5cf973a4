"""Reshape and its kin: nothing moves in memory, and channels are found again where the new axes lie."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from qtool.calibrate.analytic.call import Call, Dims
from qtool.calibrate.analytic.nodes import F64
from qtool.calibrate.analytic.spread import MOST_CHANNELS, Spread

Move = Callable[[F64], F64]


def moved(x: Spread, move: Move) -> Spread:
    """The channels [*channels] after a move of them."""
    values = None if x.values is None else np.stack([move(v) for v in x.values])
    return replace(x, lo=move(x.lo), hi=move(x.hi), values=values)


def reshaped(call: Call) -> Spread:
    """Reshape, Flatten, Squeeze, Unsqueeze: in memory nothing moves.

    From the first axis on that tells channels apart, all lengths must be known; what they make up, the
    block, repeats itself through memory, and so does its image in the last axes of the output.
    """
    x, before, after = call[0], call.dims(), call.made()
    if before is None or len(x.channels) > len(before):
        return x.scalar()
    x = x.aligned(len(before))
    first = next((i for i, n in enumerate(x.channels) if n != 1), None)
    if first is None or after is None:
        return x.scalar()
    block_dims = before[first:]
    if any(d is None for d in block_dims):
        return x.scalar()
    sizes = [d for d in block_dims if d is not None]
    block = math.prod(sizes)
    trailing, repeats, pooled = _image(block, after)
    if not trailing or block * repeats > MOST_CHANNELS:
        return x.scalar()

    def move(channels: F64) -> F64:
        whole = np.broadcast_to(channels.reshape(channels.shape[first:]), sizes).reshape(-1)
        return np.tile(whole, repeats).reshape(pooled, *trailing)

    made = moved(x, move).pooled([0])
    return made.reshaped(trailing)


def _image(block: int, after: Dims) -> tuple[list[int], int, int]:
    """Which last axes of a shape a block fills: their lengths, how often it repeats, in how many layers."""
    trailing: list[int] = []
    for length in reversed(after):
        size = math.prod(trailing)
        if length is None or size == block or (block % (size * length) and size * length % block):
            break
        trailing.insert(0, length)
        if size * length > block:
            break
    size = math.prod(trailing)
    return trailing, max(1, size // block), max(1, block // size) if size else 1
