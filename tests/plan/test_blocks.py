"""How long a block can be: divisors, held against trying every number."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtool.plan.eligible import nbits_block
from qtool.plan.scheme import BLOCKS
from qtool.plan.storage import nearest_divisor
from qtool.plan.weights import largest_divisor
from qtool.tables.qtypes import INT8, UINT2, UINT4, QType

LAW = settings(deadline=None, max_examples=200, derandomize=True, database=None)
LENGTHS = st.integers(1, 5000)
TYPES = [INT8, UINT4, UINT2]


def divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


@LAW
@given(LENGTHS, st.integers(1, 600))
def test_the_largest_divisor_up_to_a_limit(number: int, limit: int) -> None:
    assert largest_divisor(number, limit) == max(d for d in divisors(number) if d <= limit)


@LAW
@given(LENGTHS, st.integers(1, 256))
def test_the_nearest_divisor_is_the_nearest_within_half_of_what_was_wanted(number: int, wanted: int) -> None:
    found = nearest_divisor(number, wanted)
    near = [d for d in divisors(number) if wanted // 2 <= d <= wanted * 3 // 2]
    if not near:
        assert found == 0
        return
    assert found in near
    assert abs(found - wanted) == min(abs(d - wanted) for d in near)


@pytest.mark.parametrize("wanted", BLOCKS)
def test_what_can_be_cut_as_wanted_is(wanted: int) -> None:
    for count in range(1, 20):
        assert nearest_divisor(wanted * count, wanted) == wanted


@pytest.mark.parametrize(
    ("number", "wanted", "found"),
    [
        (27, 32, 27),  # 3 channels of 3 x 3: one block
        (72, 32, 36),
        (147, 32, 21),
        (100, 32, 25),
        (300, 32, 30),
        (31, 32, 31),
        (97, 32, 0),  # a prime
        (16, 32, 16),
        (15, 32, 0),
        (48, 32, 24),  # of two as near, the shorter
        (49, 32, 0),
        (1, 32, 0),
    ],
)
def test_lengths_of_real_layers(number: int, wanted: int, found: int) -> None:
    assert nearest_divisor(number, wanted) == found


@LAW
@given(LENGTHS, st.sampled_from(TYPES), st.sampled_from([0, *BLOCKS]))
def test_a_block_for_the_kernel_is_a_power_of_two_from_16_that_divides(
    total: int, qtype: QType, wanted: int
) -> None:
    """MatMulNBits takes nothing else (onnxruntime docs/ContribOperators.md)."""
    size = nbits_block(total, qtype, wanted)
    if size == 0:
        assert total % 16
        return
    assert size >= 16
    assert size & (size - 1) == 0
    assert total % size == 0
    assert not wanted or size <= wanted


@LAW
@given(st.integers(1, 300), st.sampled_from(TYPES), st.sampled_from(BLOCKS))
def test_a_block_is_no_smaller_than_it_must_be(sixteens: int, qtype: QType, wanted: int) -> None:
    total = sixteens * 16
    size = nbits_block(total, qtype, wanted)
    assert size == wanted or total % (2 * size)


@pytest.mark.parametrize("total", [96, 160, 512, 4096])
def test_few_bits_get_no_longer_blocks_than_eight(total: int) -> None:
    for few in (UINT4, UINT2):
        assert 0 < nbits_block(total, few, 0) <= nbits_block(total, INT8, 0)
