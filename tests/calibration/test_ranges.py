"""Ranges are numpy's over everything seen, however it was cut up."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import reduce

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from qtool.calibration.observer import Observer
from qtool.calibration.ranges import HUGE, Range, digest
from tests.calibration.observe import observe
from tests.graphs import rng
from tests.tiers import examples

LAW = settings(deadline=None, max_examples=examples(80), derandomize=True, database=None)
FLT_MAX = float(np.finfo(np.float32).max)
values = st.floats(-(2.0**80), 2.0**80, width=32)
arrays = npst.arrays(np.float32, npst.array_shapes(max_dims=3, max_side=5), elements=values)
masked = npst.arrays(
    np.float32,
    npst.array_shapes(max_dims=2, max_side=5),
    elements=st.one_of(values, st.sampled_from([-np.inf, -FLT_MAX, FLT_MAX])),
)


def observed(x: object, dtype: type = np.float32) -> Range:
    ranges = observe(np.asarray(x, dtype))
    assert ranges is not None
    return ranges


def typical(x: np.ndarray) -> float:
    """The geometric mean of |x| over the elements that are not zero."""
    logs = [math.log2(abs(float(v))) for v in x.flat if v]
    return 2 ** (math.fsum(logs) / len(logs)) if logs else 0.0


@LAW
@given(x=arrays)
def test_a_range_is_numpys(x: np.ndarray) -> None:
    r = observed(x)
    assert (r.lo, r.hi) == (float(x.min()), float(x.max()))
    assert (r.count, r.masked) == (x.size, 0)
    assert r.typical == pytest.approx(typical(x), rel=1e-5)


@LAW
@given(x=masked)
def test_masks_are_counted_and_not_in_the_statistics(x: np.ndarray) -> None:
    r = observed(x)
    honest = x[np.abs(x) <= HUGE]
    assert r.count == x.size
    assert r.masked == x.size - honest.size
    assert r.typical == pytest.approx(typical(honest), rel=1e-5)
    # Zero may join the range: it is held exactly in any case.
    assert min(r.lo, 0.0) == float(honest.min(initial=0.0))
    assert max(r.hi, 0.0) == float(honest.max(initial=0.0))
    assert abs(r.lo) <= HUGE
    assert abs(r.hi) <= HUGE


@pytest.mark.parametrize("mask", [-np.inf, -FLT_MAX, FLT_MAX, -1e31], ids=str)
def test_a_mask_does_not_stretch_the_range(mask: float) -> None:
    r = observed([-2.0, mask, 3.0, mask])
    assert (r.lo, r.hi, r.count, r.masked) == (-2.0, 3.0, 4, 2)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64], ids=lambda d: d.__name__)
def test_a_mask_is_known_in_every_float_type(dtype: type) -> None:
    r = observed([-2.0, -np.inf, 3.0], dtype)
    assert (r.lo, r.hi, r.masked) == (-2.0, 3.0, 1)


def test_masks_alone_give_an_empty_range_at_zero() -> None:
    r = observed([-np.inf, -np.inf])
    assert (r.lo, r.hi, r.masked, r.typical) == (0, 0, 2, 0)


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 4, 2)], ids=str)
def test_an_empty_array_has_no_range(shape: tuple[int, ...]) -> None:
    assert observe(np.zeros(shape, np.float32)) is None


@pytest.mark.parametrize("rest", [[], [1.0], [np.inf], [-FLT_MAX, 2.0]], ids=str)
def test_nan_is_not_taken_for_a_mask(rest: list[float]) -> None:
    assert Observer(["x"], False).add([np.array([*rest, np.nan], np.float32)]) == ("x", "NaN")


def test_infinity_is_not_a_mask() -> None:
    assert Observer(["x"], False).add([np.array([1.0, np.inf], np.float32)]) == ("x", "infinity")


def test_a_scalar_is_one_element() -> None:
    r = observed(np.float32(-3))
    assert (r.lo, r.hi, r.count) == (-3, -3, 1)
    assert r.typical == pytest.approx(3, rel=1e-5)


def test_denormals_are_not_zero() -> None:
    assert observed([2.0**-149, 0.0]).typical == 2.0**-149


@LAW
@given(parts=st.lists(masked, min_size=2, max_size=4))
def test_merging_is_commutative_and_associative(parts: list[np.ndarray]) -> None:
    a, b = observed(parts[0]), observed(parts[1])
    assert a.merge(b) == b.merge(a)
    ranges = [observed(p) for p in parts]
    left = reduce(Range.merge, ranges)
    right = reduce(lambda done, one: one.merge(done), reversed(ranges))
    assert left == right


@LAW
@given(parts=st.lists(arrays, min_size=1, max_size=4))
def test_merged_parts_are_the_whole(parts: list[np.ndarray]) -> None:
    merged = reduce(Range.merge, [observed(p) for p in parts])
    together = observed(np.concatenate([p.reshape(-1) for p in parts]))
    separately = {"log_sum": 0, "samples": 0, "lo_sum": 0, "hi_sum": 0}
    assert replace(merged, **separately) == replace(together, **separately)
    assert merged.log_sum == pytest.approx(together.log_sum, rel=1e-5, abs=len(parts))


def test_samples_of_masks_alone_do_not_move_a_range() -> None:
    merged = observed([2.0, 3.0]).merge(observed([-np.inf]))
    assert merged.hi == 3.0
    assert min(merged.lo, 0.0) == 0.0


def test_the_typical_magnitude_is_over_elements_that_are_not_zero() -> None:
    assert observed([0, 0, -2, 8]).typical == 4
    assert observed([0, 0]).typical == 0


def test_typical_magnitudes_do_not_depend_on_size() -> None:
    x = rng(1).standard_normal(1_000_000).astype(np.float32)
    assert observed(x).typical == pytest.approx(typical(x[:50_000]), rel=0.15)


def test_outliers_do_not_carry_the_typical_magnitude_away() -> None:
    x = np.ones(1000, np.float32)
    x[::100] = 1e6
    assert observed(x).typical < 2


def test_the_digest_does_not_depend_on_order_but_on_every_range() -> None:
    a, b = observed([1, 2]), observed([3, 4])
    assert digest({"a": a, "b": b}) == digest({"b": b, "a": a})
    others = [{"a": a}, {"a": b, "b": a}, {"a": a, "b": replace(b, hi=np.nextafter(4.0, 5))}, {}]
    assert len({digest(r) for r in [{"a": a, "b": b}, *others]}) == 5
