"""Each observer finds what a plain search over all data finds, within a bin."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtool.calibration.estimators import ESTIMATORS, KEPT, WORTH, expected_error
from qtool.calibration.histogram import Collector, Histogram
from qtool.calibration.ranges import Range
from qtool.tables.methods import METHODS
from qtool.tables.qtypes import INT8, PER_TENSOR, UINT8, UINT16, TensorSpec
from tests.calibration.observe import observe
from tests.tiers import examples, in_turn

SPECS = {
    "uint8": TensorSpec(UINT8, PER_TENSOR, symmetric=False),
    "int8 symmetric": TensorSpec(INT8, PER_TENSOR, symmetric=True),
    "uint16": TensorSpec(UINT16, PER_TENSOR, symmetric=False),
}


def random(kind: str, seed: int = 0, size: int = 60_000) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = {
        "normal": rng.standard_normal(size),
        "laplace": rng.laplace(size=size) * 1e-3,
        "relu": np.maximum(rng.standard_normal(size), 0),
        "shifted": rng.standard_normal(size) * 3 + 40,
        "negative": -rng.exponential(size=size) * 1e4,
        "outliers": np.concatenate([rng.standard_normal(size), [300.0, -90.0]]),
        "uniform": rng.uniform(-1, 1, size),
        "constant": np.full(size, 2.5),
        "zeros": np.zeros(size),
    }
    return x[kind].astype(np.float32)


KINDS = "normal laplace relu shifted negative outliers uniform constant zeros".split()


def observed(*parts: np.ndarray) -> Range:
    all_of_it, collector = None, Collector()
    for x in parts:
        one = observe(x)
        assert one is not None
        all_of_it = one if all_of_it is None else all_of_it.merge(one)
        collector.add(x, max(-one.lo, one.hi))
    assert all_of_it is not None
    return replace(all_of_it, histogram=collector.histogram())


def chosen(method: str, spec: TensorSpec, *parts: np.ndarray) -> tuple[Range, Histogram, float, float]:
    what = observed(*parts)
    assert what.histogram is not None
    return what, what.histogram, *ESTIMATORS[method](what, spec)


@pytest.mark.parametrize(
    ("method", "kind", "spec"), in_turn(itertools.product(METHODS, KINDS), SPECS), ids=str
)
def test_no_range_is_wider_than_the_data(method: str, spec: str, kind: str) -> None:
    what, _, lo, hi = chosen(method, SPECS[spec], random(kind))
    assert min(what.lo, 0) <= lo <= hi <= max(what.hi, 0)


def test_minmax_covers_all_data() -> None:
    parts = [random("normal", seed) for seed in range(3)]
    _, _, lo, hi = chosen("minmax", SPECS["uint8"], *parts)
    assert (lo, hi) == (min(p.min() for p in parts), max(p.max() for p in parts))


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_a_moving_average_does_not_depend_on_the_order(order: tuple[int, ...]) -> None:
    parts = [random("normal", seed) * (1 + seed) for seed in range(3)]
    _, _, lo, hi = chosen("moving-average", SPECS["uint8"], *(parts[i] for i in order))
    assert lo == pytest.approx(np.mean([p.min() for p in parts], dtype=np.float64), rel=1e-12)
    assert hi == pytest.approx(np.mean([p.max() for p in parts], dtype=np.float64), rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_percentile_is_that_of_the_sorted_data(kind: str) -> None:
    x = random(kind)
    _, histogram, lo, hi = chosen("percentile", SPECS["uint8"], x)
    ordered = np.sort(x.astype(np.float64))
    beyond = int((1 - KEPT) / 2 * x.size)
    assert abs(lo - ordered[beyond]) <= histogram.width
    assert abs(hi - ordered[-1 - beyond]) <= histogram.width


def plain_error(x: np.ndarray, lo: float, hi: float, steps: float) -> float:
    """Clipping measured on every element, rounding expected."""
    clipped = np.clip(x, lo, hi)
    inside = np.mean((x >= lo) & (x <= hi))
    return float(np.mean((x - clipped) ** 2) + inside * ((hi - lo) / steps) ** 2 / 12)


@pytest.mark.parametrize(
    ("kind", "spec"), in_turn([k for k in KINDS if k not in ("constant", "zeros")], SPECS), ids=str
)
def test_mse_is_as_good_as_a_plain_search(spec: str, kind: str) -> None:
    x = random(kind).astype(np.float64)
    grid = SPECS[spec]
    what, histogram, lo, hi = chosen("mse", grid, random(kind))
    steps = grid.qtype.qmax - grid.qtype.qmin
    if grid.symmetric:
        ends = np.linspace(0.05, 1.0, 400) * np.abs(x).max()
        best = min(plain_error(x, -t, t, steps) for t in ends)
        ours = plain_error(x, -max(-lo, hi), max(-lo, hi), steps)
    else:
        least, greatest = min(what.lo, 0.0), max(what.hi, 0.0)
        shares = np.linspace(0.05, 1.0, 60)
        best = min(plain_error(x, a * least, b * greatest, steps) for a in shares for b in shares)
        ours = plain_error(x, min(lo, 0.0), max(hi, 0.0), steps)
    noise = (histogram.width**2) / 12
    assert ours <= best * 1.02 + noise


@settings(max_examples=examples(30), deadline=None)
@given(st.integers(0, 10_000), st.floats(0.2, 3.0))
def test_the_expected_error_is_that_of_the_elements(seed: int, spread: float) -> None:
    x = np.random.default_rng(seed).laplace(scale=spread, size=20_000).astype(np.float32)
    what = observed(x)
    assert what.histogram is not None
    lo, hi = what.lo / 2, what.hi / 2
    assert expected_error(what.histogram, lo, hi, 255) == pytest.approx(
        plain_error(x.astype(np.float64), lo, hi, 255), rel=0.03
    )


def plain_divergence(counts: np.ndarray, start: int, stop: int, levels: int) -> float:
    """The definition, element by element."""
    p = counts[start:stop].astype(float)
    inside = p.copy()
    p[0] += counts[:start].sum()
    p[-1] += counts[stop:].sum()
    size = p.size
    cell = [i * levels // size if size > levels else i for i in range(size)]
    q = np.zeros(size)
    for level in set(cell):
        members = [i for i in range(size) if cell[i] == level]
        used = [i for i in members if p[i] > 0]
        for i in used:
            q[i] = max(sum(inside[j] for j in members) / len(used), 1e-6)
    p, q = p / p.sum(), q / q.sum()
    return float(sum(a * np.log(a / b) for a, b in zip(p, q, strict=True) if a > 0))


@pytest.mark.parametrize("kind", ["laplace", "outliers", "uniform"])
def test_entropy_is_searched_over_every_clip(kind: str) -> None:
    """On a coarse copy of the histogram, where the definition can be computed for all clips."""
    fine = observed(random(kind)).histogram
    assert fine is not None
    shift = 3
    bins = fine.first + np.arange(fine.counts.size)
    bins = np.sign(bins) * (np.abs(bins) >> shift)
    counts = np.bincount(bins - bins[0], fine.counts).astype(np.int64)
    coarse = Histogram(fine.exponent + shift, int(bins[0]), counts)
    what = replace(observed(random(kind)), histogram=coarse)
    small = TensorSpec(replace(UINT8, qmax=31), PER_TENSOR, symmetric=False)
    lo, hi = ESTIMATORS["entropy"](what, small)
    leveled = counts.copy()
    leveled[-coarse.first] = leveled[-coarse.first + 1]
    reach = max(-coarse.first + 1, coarse.first + counts.size)
    clips = {
        t: plain_divergence(leveled, max(0, 1 - t - coarse.first), min(counts.size, t - coarse.first), 32)
        for t in range(16, reach + 1)
    }
    best = min(clips, key=lambda t: clips[t]) * coarse.width
    assert lo == pytest.approx(max(-best, what.lo))
    assert hi == pytest.approx(min(best, what.hi))


def test_an_outlier_is_cut_off() -> None:
    x = random("outliers")
    for method in ("percentile", "entropy"):
        _, _, lo, hi = chosen(method, SPECS["uint8"], x)
        assert hi < 40, method
        assert lo > -40, method


def test_the_table_and_the_functions_name_each_other() -> None:
    assert set(METHODS) == set(ESTIMATORS)


@pytest.mark.parametrize(("kind", "spec"), in_turn(KINDS, SPECS), ids=str)
def test_auto_clips_only_where_that_is_expected_to_pay(spec: str, kind: str) -> None:
    what, histogram, lo, hi = chosen("auto", SPECS[spec], random(kind))
    steps = SPECS[spec].qtype.qmax - SPECS[spec].qtype.qmin

    def error(ends: tuple[float, float]) -> float:
        least, greatest = min(ends[0], 0.0), max(ends[1], 0.0)
        if SPECS[spec].symmetric:
            greatest = max(-least, greatest)
            least = -greatest
        return expected_error(histogram, least, greatest, steps)

    everything = error((what.lo, what.hi))
    others = {m: error(ESTIMATORS[m](what, SPECS[spec])) for m in METHODS if m not in ("auto", "minmax")}
    if (lo, hi) == (what.lo, what.hi):
        assert min(others.values()) >= WORTH * everything or error((lo, hi)) == min(others.values())
    else:
        assert error((lo, hi)) == min(others.values()) < WORTH * everything
