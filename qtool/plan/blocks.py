"""How long a block of values under one scale can be."""

from __future__ import annotations

from qtool.tables.modes import FEW_BITS
from qtool.tables.qtypes import QType

# MatMulNBits: values a scale when nobody says. Of 8 bits, shorter blocks are no faster than float
# (docs/targets.md), and longer ones are no option.
_NBITS_BLOCK = 128
_LEAST_BLOCK = 16


def largest_divisor(number: int, limit: int) -> int:
    """The largest divisor of a number up to a limit."""
    return next(d for d in range(min(number, limit), 0, -1) if number % d == 0)


def nearest_divisor(number: int, wanted: int) -> int:
    """The divisor of a number nearest to a wanted one, within half and one and a half of it; 0 if none is."""
    near = [d for d in range(max(1, wanted // 2), wanted * 3 // 2 + 1) if number % d == 0]
    return min(near, key=lambda d: abs(d - wanted), default=0)


def nbits_block(total: int, qtype: QType, wanted: int) -> int:
    """Values a scale for MatMulNBits: a power of two from 16 that divides the total; 0 when none does."""
    size = wanted or (FEW_BITS[qtype].block if qtype in FEW_BITS else _NBITS_BLOCK)
    while size >= _LEAST_BLOCK and total % size:
        size //= 2
    return size if size >= _LEAST_BLOCK else 0
