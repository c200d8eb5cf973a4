"""Every measure against a plain float64 computation that is obviously right."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from qtool.numerics.metrics import (
    TOLERANCE,
    Sums,
    Tolerance,
    centred_sqnr,
    compare_stacks,
    cosine,
    max_error,
    mean_error,
    mismatch,
    p99_error,
    relative_l2,
    softmax_divergence,
    sqnr,
    sqnr_db,
    top1_agreement,
    top5_agreement,
    wilson,
)
from tests.graphs import rng
from tests.tiers import examples


def compare_arrays(a: np.ndarray, b: np.ndarray, tolerance: Tolerance = TOLERANCE) -> Sums:
    """The sums of a single sample."""
    return compare_stacks(a[None], b[None], tolerance)[0]


LAW = settings(deadline=None, max_examples=examples(80), derandomize=True, database=None)
MEASURES = {
    "sqnr": sqnr,
    "cosine": cosine,
    "relative_l2": relative_l2,
    "max_error": max_error,
    "mean_error": mean_error,
    "top1": top1_agreement,
}
ELEMENTWISE = {k: f for k, f in MEASURES.items() if k != "top1"}
INF, NAN = math.inf, math.nan


def plain(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """The measures over the elements where both are finite, by math.fsum over Python floats."""
    pairs = [(float(x), float(y)) for x, y in zip(a.flat, b.flat, strict=True) if math.isfinite(x)]
    if not pairs:
        return {}
    aa = math.fsum(x * x for x, _ in pairs)
    bb = math.fsum(y * y for _, y in pairs)
    dd = math.fsum((x - y) ** 2 for x, y in pairs)
    ab = math.fsum(x * y for x, y in pairs)
    measures = {
        "max_error": max(abs(x - y) for x, y in pairs),
        "mean_error": math.fsum(abs(x - y) for x, y in pairs) / len(pairs),
    }
    if dd == 0:
        measures["sqnr"], measures["relative_l2"] = INF, 0.0
    elif aa == 0:
        measures["sqnr"], measures["relative_l2"] = -INF, INF
    else:
        measures["sqnr"], measures["relative_l2"] = 10 * math.log10(aa / dd), math.sqrt(dd / aa)
    if aa and bb:
        measures["cosine"] = ab / (math.sqrt(aa) * math.sqrt(bb))
    else:
        measures["cosine"] = 1.0 if aa == bb else NAN
    return measures


def pairs_of(dtype: type, elements: st.SearchStrategy[float]) -> st.SearchStrategy[tuple]:
    """Two arrays of one shape."""
    shapes = npst.array_shapes(min_dims=0, max_dims=3, min_side=1, max_side=4)
    return shapes.flatmap(
        lambda shape: st.tuples(*[npst.arrays(dtype, shape, elements=elements) for _ in range(2)])
    )


FLOATS = {
    np.float16: st.floats(-6e4, 6e4, width=16),
    np.float32: st.floats(-(2.0**126), 2.0**126, width=32),
    np.float64: st.one_of(st.just(0.0), st.floats(1e-60, 1e60), st.floats(-1e60, -1e-60)),
}


@pytest.mark.parametrize("measure", sorted(ELEMENTWISE))
@pytest.mark.parametrize("dtype", sorted(FLOATS, key=str), ids=lambda d: d.__name__)
@LAW
@given(data=st.data())
def test_a_measure_of_finite_arrays_is_the_plain_computation(
    dtype: type, measure: str, data: st.DataObject
) -> None:
    a, b = data.draw(pairs_of(dtype, FLOATS[dtype]))
    got, want = MEASURES[measure](compare_arrays(a, b)), plain(a, b)[measure]
    if measure == "cosine":  # a sum of terms that cancel
        assert got == pytest.approx(want, abs=1e-9, nan_ok=True)
    else:
        assert got == pytest.approx(want, rel=1e-9, abs=1e-7 if measure == "sqnr" else 0, nan_ok=True)


@pytest.mark.parametrize("measure", sorted(ELEMENTWISE))
@LAW
@given(
    pair=pairs_of(np.float32, st.floats(-1e3, 1e3, width=32)),
    mask=st.lists(st.sampled_from([0.0, -INF, INF, NAN]), min_size=64, max_size=64),
)
def test_elements_that_are_not_finite_in_both_are_not_measured(
    measure: str, pair: tuple[np.ndarray, np.ndarray], mask: list[float]
) -> None:
    a, b = (x.copy() for x in pair)
    put = np.array(mask[: a.size]).reshape(a.shape)
    a[put != 0], b[put != 0] = put[put != 0], put[put != 0]
    got, want = MEASURES[measure](compare_arrays(a, b)), plain(a, b)
    if want:
        assert got == pytest.approx(want[measure], rel=1e-9, abs=1e-7, nan_ok=True)
    else:
        assert math.isnan(got) or measure == "sqnr" or got in (0.0, 1.0)


@pytest.mark.parametrize("bad", [NAN, INF, -INF], ids=str)
@pytest.mark.parametrize("measure", sorted(MEASURES))
def test_a_nonfinite_value_where_fp32_is_finite_makes_every_measure_nan(measure: str, bad: float) -> None:
    a = np.array([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]], np.float32)
    b = a.copy()
    b[0, 2] = bad
    assert math.isnan(MEASURES[measure](compare_arrays(a, b)))
    b = a.copy()
    b[1, 2] = bad
    assert math.isnan(MEASURES[measure](compare_arrays(a, b)))


@pytest.mark.parametrize("measure", sorted(ELEMENTWISE))
@pytest.mark.parametrize(("a", "b"), [(-INF, 0.0), (INF, 1.0), (INF, -INF), (NAN, 0.0), (-INF, NAN)], ids=str)
def test_a_lost_mask_fails_every_metric(measure: str, a: float, b: float) -> None:
    x = np.array([1.0, 2.0, a], np.float32)
    y = np.array([1.0, 2.0, b], np.float32)
    assert math.isnan(MEASURES[measure](compare_arrays(x, y)))


@pytest.mark.parametrize("bits", [np.uint8, np.int8, np.int32, np.int64, np.uint64])
@LAW
@given(data=st.data())
def test_integers_are_counted_where_they_differ_and_never_wrap(bits: type, data: st.DataObject) -> None:
    a, b = data.draw(pairs_of(bits, npst.from_dtype(np.dtype(bits))))
    sums = compare_arrays(a, b)
    assert sums.count == a.size
    assert sums.unequal == sum(int(x) != int(y) for x, y in zip(a.flat, b.flat, strict=True))
    if sums.unequal:
        assert math.isnan(sqnr(sums))
    else:
        assert sqnr(sums) == INF


@pytest.mark.parametrize("measure", sorted(ELEMENTWISE))
@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.bool_], ids=lambda d: d.__name__)
def test_integers_that_differ_pass_no_measure(dtype: type, measure: str) -> None:
    a, b = np.array([0, 1, 1], dtype), np.array([1, 0, 1], dtype)
    assert math.isnan(MEASURES[measure](compare_arrays(a, b)))


def test_bools_and_strings_are_counted_where_they_differ() -> None:
    assert compare_arrays(np.array([True, False, True]), np.array([True, True, False])).unequal == 2
    words = np.array(["cat", "dog"], object)
    assert compare_arrays(words, np.array(["cat", "cow"], object)).unequal == 1
    assert compare_arrays(words, words).unequal == 0


@pytest.mark.parametrize("measure", sorted(MEASURES))
@pytest.mark.parametrize("dtype", [np.float32, np.uint8], ids=lambda d: d.__name__)
def test_nothing_compared_is_nan(dtype: type, measure: str) -> None:
    assert math.isnan(MEASURES[measure](Sums()))
    assert math.isnan(MEASURES[measure](compare_arrays(np.zeros((0, 3), dtype), np.zeros((0, 3), dtype))))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.uint8, np.bool_])
def test_identical_arrays_have_infinite_sqnr(dtype: type) -> None:
    a = (rng(1).standard_normal((3, 4)) * 10).astype(dtype)
    assert sqnr(compare_arrays(a, a.copy())) == INF


def test_identical_arrays_have_perfect_measures() -> None:
    a = rng(2).standard_normal((3, 4)).astype(np.float32)
    s = compare_arrays(a, a.copy())
    assert (relative_l2(s), max_error(s), mean_error(s), top1_agreement(s)) == (0, 0, 0, 1)
    assert cosine(s) == pytest.approx(1, abs=1e-12)


def test_zeros_against_zeros_are_identical() -> None:
    s = compare_arrays(np.zeros(3, np.float32), np.zeros(3, np.float32))
    assert (sqnr(s), cosine(s), relative_l2(s)) == (INF, 1.0, 0.0)


def test_any_error_on_a_zero_reference_is_minus_infinity() -> None:
    s = compare_arrays(np.zeros(3, np.float32), np.array([0, 0, 1e-30], np.float32))
    assert sqnr(s) == -INF
    assert relative_l2(s) == INF
    assert math.isnan(cosine(s))


def test_a_scaled_copy_has_cosine_one_but_finite_sqnr() -> None:
    a = rng(3).standard_normal(100).astype(np.float32)
    s = compare_arrays(a, a * np.float32(1.5))
    assert cosine(s) == pytest.approx(1, abs=1e-12)
    assert sqnr(s) == pytest.approx(10 * math.log10(4), abs=1e-6)  # noise is half the signal


@LAW
@given(pair=pairs_of(np.float32, st.floats(-1e3, 1e3, width=32)), unit=st.floats(0.5, 100))
def test_sqnr_does_not_depend_on_the_unit(pair: tuple[np.ndarray, np.ndarray], unit: float) -> None:
    a, b = (x.astype(np.float64) for x in pair)
    exact = 2.0 ** round(unit)
    one, scaled = sqnr(compare_arrays(a, b)), sqnr(compare_arrays(a * exact, b * exact))
    assert one == pytest.approx(scaled, abs=1e-9, nan_ok=True)


@pytest.mark.parametrize("measure", sorted(MEASURES))
@LAW
@given(
    data=st.data(),
    a=npst.arrays(np.float32, (6, 3), elements=st.floats(-1e3, 1e3, width=32)),
    cut=st.integers(0, 6),
)
def test_sums_of_splits_pool_to_the_whole(measure: str, data: st.DataObject, a: np.ndarray, cut: int) -> None:
    b = data.draw(npst.arrays(np.float32, (6, 3), elements=st.floats(-1e3, 1e3, width=32)))
    unsplit = compare_arrays(a, b)
    pooled = compare_arrays(a[:cut], b[:cut]) + compare_arrays(a[cut:], b[cut:])
    assert (pooled.count, pooled.rows, pooled.rows_agree) == (unsplit.count, unsplit.rows, unsplit.rows_agree)
    assert MEASURES[measure](pooled) == pytest.approx(
        MEASURES[measure](unsplit), rel=1e-9, abs=1e-9, nan_ok=True
    )


def test_a_bad_split_spoils_the_pool() -> None:
    good = compare_arrays(np.ones(3, np.float32), np.ones(3, np.float32))
    bad = compare_arrays(np.ones(3, np.float32), np.array([1, 1, NAN], np.float32))
    assert all(math.isnan(f(good + bad)) for f in ELEMENTWISE.values())


def test_pooling_weighs_by_energy_not_by_the_mean_of_decibels() -> None:
    loud = compare_arrays(np.full(4, 10.0), np.full(4, 11.0))
    quiet = compare_arrays(np.full(4, 0.1), np.full(4, 0.2))
    assert sqnr(loud + quiet) == pytest.approx(10 * math.log10((400 + 0.04) / (4 + 0.04)))


def test_top1_counts_rows_of_the_last_axis() -> None:
    a = np.array([[[1, 2, 3], [9, 1, 1]], [[0, 5, 0], [1, 0, 0]]], np.float32)
    b = np.array([[[1, 2, 4], [9, 1, 1]], [[6, 5, 0], [0, 1, 0]]], np.float32)
    s = compare_arrays(a, b)
    assert (s.rows, s.rows_agree, top1_agreement(s)) == (4, 2, 0.5)


@pytest.mark.parametrize("shape", [(), (5,), (5, 1), (0, 4)], ids=str)
def test_top1_needs_rows_of_more_than_one_entry(shape: tuple[int, ...]) -> None:
    assert math.isnan(top1_agreement(compare_arrays(np.ones(shape), np.ones(shape))))


positive = st.floats(min_value=0, exclude_min=True, allow_infinity=False)


@LAW
@given(signal=positive, noise=positive)
def test_two_finite_sums_have_a_finite_ratio_in_db(signal: float, noise: float) -> None:
    want = 10 * (math.log10(signal) - math.log10(noise))
    assert sqnr_db(signal, noise) == pytest.approx(want, abs=1e-6)


@pytest.mark.parametrize(
    ("signal", "noise", "want"),
    [(1, 0, INF), (0, 0, INF), (0, 1, -INF), (1, INF, NAN), (INF, INF, NAN), (NAN, 1, NAN), (1, NAN, NAN)],
)
def test_sqnr_at_its_limits(signal: float, noise: float, want: float) -> None:
    assert sqnr_db(signal, noise) == pytest.approx(want, nan_ok=True)


def test_arrays_are_left_as_they_were() -> None:
    a, b = np.array([1, INF], np.float32), np.array([2, NAN], np.float32)
    before = a.copy(), b.copy()
    compare_arrays(a, b)
    np.testing.assert_array_equal(a, before[0])
    np.testing.assert_array_equal(b, before[1])


def rows_of(rng_: int, shape: tuple[int, ...] = (40, 9)) -> tuple[np.ndarray, np.ndarray]:
    a = rng(rng_).standard_normal(shape) * 3
    return a, a + rng(rng_ + 1).standard_normal(shape)


def pooled(a: np.ndarray, b: np.ndarray, parts: int) -> Sums:
    total = Sums()
    for x, y in zip(np.array_split(a, parts), np.array_split(b, parts), strict=True):
        total += compare_arrays(x, y)
    return total


@pytest.mark.parametrize("parts", [1, 3, 40])
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_centred_sqnr_takes_an_offset_for_no_signal(parts: int, offset: float) -> None:
    a, b = rows_of(0)
    wanted = 10 * math.log10(np.square(a - a.mean()).sum() / np.square(a - b).sum())
    assert centred_sqnr(pooled(a + offset, b + offset, parts)) == pytest.approx(wanted, rel=1e-4)


@LAW
@given(
    d=npst.arrays(np.float64, st.integers(1, 300), elements=st.floats(1e-30, 1e30)), parts=st.integers(1, 4)
)
def test_p99_is_that_of_numpy_to_one_percent(d: np.ndarray, parts: int) -> None:
    wanted = float(np.quantile(d, 0.99, method="inverted_cdf"))
    assert p99_error(pooled(np.zeros_like(d), d, min(parts, d.size))) == pytest.approx(wanted, rel=0.01)


def test_p99_of_equal_outputs_is_zero() -> None:
    assert p99_error(compare_arrays(np.ones(200), np.ones(200))) == 0
    assert p99_error(compare_arrays(np.zeros(200), np.r_[np.zeros(199), 5.0])) == 0


@pytest.mark.parametrize(("atol", "rtol"), [(0.0, 0.0), (0.5, 0.0), (0.0, 0.5), (0.3, 0.2)])
def test_mismatch_is_that_of_isclose(atol: float, rtol: float) -> None:
    a, b = rows_of(3)
    wanted = 1 - np.isclose(b, a, atol=atol, rtol=rtol).mean()
    assert mismatch(compare_arrays(a, b, Tolerance(atol, rtol))) == pytest.approx(wanted)


@pytest.mark.parametrize("parts", [1, 4])
def test_divergence_is_that_of_the_softmaxes(parts: int) -> None:
    a, b = rows_of(5)
    p, q = (np.exp(v) / np.exp(v).sum(-1, keepdims=True) for v in (a, b))
    wanted = float((p * np.log(p / q)).sum(-1).mean())
    assert softmax_divergence(pooled(a, b, parts)) == pytest.approx(wanted)


def test_divergence_of_masked_and_huge_scores_is_finite() -> None:
    a = np.array([[0.0, -np.inf, 1.0], [1e300, 0.0, -1e300]])
    assert softmax_divergence(compare_arrays(a, a)) == 0


@pytest.mark.parametrize("parts", [1, 4])
def test_top5_finds_the_largest_entry(parts: int) -> None:
    a, b = rows_of(7)
    order = np.argsort(-b, axis=-1)[:, :5]
    wanted = np.mean([best in five for best, five in zip(a.argmax(-1), order, strict=True)])
    assert top5_agreement(pooled(a, b, parts)) == pytest.approx(wanted)
    assert top5_agreement(compare_arrays(a[:, :4], b[:, :4])) == 1


@pytest.mark.parametrize(
    ("hits", "of", "low", "high"),
    # Newcombe 1998, Statistics in Medicine 17, table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_is_as_published(hits: int, of: int, low: float, high: float) -> None:
    assert wilson(hits, of) == pytest.approx((low, high), abs=6e-5)


def test_wilson_of_no_trials_is_zero_to_one() -> None:
    assert wilson(0, 0) == (0, 1)


def test_a_scaled_copy_has_a_perfect_cosine_and_fails_all_else() -> None:
    a, _ = rows_of(9)
    s = compare_arrays(a, 1.5 * a)
    assert cosine(s) == pytest.approx(1)
    assert sqnr(s) == pytest.approx(10 * math.log10(4))
    assert mismatch(s) > 0.99
    assert softmax_divergence(s) > 0.05


@pytest.mark.parametrize("measure", [centred_sqnr, p99_error, mismatch, softmax_divergence, top5_agreement])
def test_new_nan_makes_every_measure_nan(measure: Callable[[Sums], float]) -> None:
    a, b = rows_of(11)
    b[3, 3] = np.nan
    assert math.isnan(measure(compare_arrays(a, b)))
