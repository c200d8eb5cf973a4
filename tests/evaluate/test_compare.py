"""The streamed comparison against plain numpy over everything at once."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx
import pytest

from qtool.data.iterables import InMemory
from qtool.errors import DataError, ModelError
from qtool.evaluate.compare import Comparison, compare, match_outputs
from qtool.evaluate.output_metrics import OutputMetrics
from qtool.runtime.session import Session
from tests.graphs import node, samples, weights
from tests.plan.build import model
from tests.rewrite.flow import run

Sample = dict[str, np.ndarray]


def session(proto: onnx.ModelProto) -> Session:
    return Session(proto.SerializeToString(), threads=1)


def judged(a: onnx.ModelProto, b: onnx.ModelProto, inputs: Sequence[Sample]) -> Comparison:
    return compare(session(a), session(b), InMemory(list(inputs)))


def linear(noise: float = 0.0, outputs: tuple[str, str] = ("y", "z")) -> onnx.ModelProto:
    """Two outputs of different shapes and sizes; noise on the weights."""
    w = weights(8, 5) + noise * weights(8, 5, seed=9)
    nodes = [node("MatMul", ["x", "w"], [outputs[0]]), node("Exp", [outputs[0]], [outputs[1]])]
    return model(nodes, {"x": ["N", 8]}, list(outputs), {"w": w.astype(np.float32)})


# Batches of different sizes: pooling must weigh elements, not samples.
INPUTS = [s for i, n in enumerate((1, 7, 3)) for s in samples(1, seed=i, x=(n, 8))]


@pytest.mark.parametrize("index", [0, 1], ids=["y", "z"])
def test_streamed_metrics_are_those_of_all_samples_at_once(index: int) -> None:
    name = ("y", "z")[index]
    actual = judged(linear(), linear(0.1), INPUTS).outputs[index]
    pairs = [
        (a[name].astype(np.float64), b[name].astype(np.float64))
        for a, b in zip(run(linear(), INPUTS), run(linear(0.1), INPUTS), strict=True)
    ]
    a, b = (np.concatenate([p[i].ravel() for p in pairs]) for i in (0, 1))
    d = a - b
    by_sample = [10 * np.log10((x**2).sum() / ((x - y) ** 2).sum()) for x, y in pairs]
    wanted = {
        "count": a.size,
        "sqnr": 10 * np.log10((a**2).sum() / (d**2).sum()),
        "sqnr_worst": min(by_sample),
        "cosine": a @ b / np.sqrt(a @ a) / np.sqrt(b @ b),
        "relative_l2": np.linalg.norm(d) / np.linalg.norm(a),
        "max_error": np.abs(d).max(),
        "mean_error": np.abs(d).mean(),
        "top1": np.mean(np.concatenate([x.argmax(-1) == y.argmax(-1) for x, y in pairs])),
        "rows": 11,
        "nonfinite": 0,
        "unequal": 0,
    }
    assert {k: getattr(actual, k) for k in wanted} == pytest.approx(wanted, rel=1e-9)
    assert actual.worst_sample == str(int(np.argmin(by_sample)))
    assert not actual.exact


def test_the_model_is_as_good_as_its_worst_output() -> None:
    actual = judged(linear(), linear(0.1), INPUTS)
    assert actual.sqnr == min(o.sqnr for o in actual.outputs)
    assert actual.worst("max_error", max) == max(o.max_error for o in actual.outputs)
    assert actual.samples == len(INPUTS)


def test_identical_models_are_exact() -> None:
    actual = judged(linear(), linear(), INPUTS)
    assert actual.sqnr == math.inf
    assert {o.top1 for o in actual.outputs} == {1.0}


MATCHES = {
    "the same": (["a", "b"], ["a", "b"], {"a": "a", "b": "b"}),
    "another order": (["a", "b"], ["b", "a"], {"a": "a", "b": "b"}),
    "more than asked": (["a"], ["c", "a"], {"a": "a"}),
    "other names": (["a", "b"], ["c", "d"], {"a": "c", "b": "d"}),
}


@pytest.mark.parametrize(("reference", "other", "wanted"), MATCHES.values(), ids=MATCHES)
def test_outputs_match_by_name_then_by_position(
    reference: list[str], other: list[str], wanted: dict[str, str]
) -> None:
    assert match_outputs(reference, other) == wanted


@pytest.mark.parametrize(
    ("reference", "other"),
    [(["a", "b"], ["a"]), (["a", "b"], ["a", "c"]), (["a"], ["b", "c"]), (["a"], [])],
)
def test_outputs_that_do_not_match_are_an_error(reference: list[str], other: list[str]) -> None:
    with pytest.raises(ModelError, match="has no output"):
        match_outputs(reference, other)


def test_renamed_outputs_are_compared_in_their_order() -> None:
    actual = judged(linear(), linear(outputs=("p", "q")), INPUTS)
    assert [o.name for o in actual.outputs] == ["y", "z"]
    assert actual.sqnr == math.inf


def test_no_samples_is_an_error() -> None:
    with pytest.raises(DataError, match="no samples"):
        judged(linear(), linear(), [])


def test_outputs_of_another_shape_are_an_error() -> None:
    a = model([node("Reshape", ["x", "s"], ["y"])], {"x": [2, 3]}, ["y"], {"s": np.array([3, 2])})
    b = model([node("Reshape", ["x", "s"], ["y"])], {"x": [2, 3]}, ["y"], {"s": np.array([6])})
    with pytest.raises(ModelError, match=r"shape \(3, 2\)"):
        judged(a, b, samples(2, x=(2, 3)))


def constant_behind(op: str, constant: np.ndarray) -> onnx.ModelProto:
    """x with something done to it; `y` and an int64 output `label`."""
    nodes = [node(op, ["x", "c"], ["y"]), node("ArgMax", ["y"], ["label"], axis=-1)]
    return model(nodes, {"x": [2, 4]}, ["y", "label"], {"c": constant})


def test_integer_outputs_are_compared_for_equality() -> None:
    inputs = [{"x": np.array([[1, 2, 3, 4], [4, 3, 2, 1]], np.float32)}] * 3
    first = np.array([10, 0, 0, 0], np.float32)
    actual = judged(constant_behind("Add", 0 * first), constant_behind("Add", first), inputs).outputs[1]
    assert actual.exact
    assert (actual.count, actual.unequal) == (6, 3)


def output_of(comparison: Comparison, name: str) -> OutputMetrics:
    return next(o for o in comparison.outputs if o.name == name)


MEASURES = ("sqnr", "sqnr_worst", "cosine", "relative_l2", "max_error", "mean_error", "top1")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf], ids=["nan", "inf", "-inf"])
def test_elements_that_are_finite_in_fp32_only_make_every_measure_nan(bad: float) -> None:
    """A number computed from the other elements would let a broken model through its gate."""
    a = constant_behind("Add", np.array([0, 0, 0, 0], np.float32))
    b = constant_behind("Add", np.array([0, 0, bad, 0], np.float32))
    actual = output_of(judged(a, b, samples(3, x=(2, 4))), "y")
    assert actual.nonfinite == 6
    assert all(math.isnan(getattr(actual, measure)) for measure in MEASURES)


def test_equal_infinities_are_no_error() -> None:
    mask = np.array([0, -np.inf, 0, -np.inf], np.float32)
    actual = output_of(judged(*[constant_behind("Add", mask)] * 2, samples(3, x=(2, 4))), "y")
    assert actual.sqnr == math.inf
    assert actual.nonfinite == 0


def test_a_mask_that_only_fp32_has_makes_measures_nan() -> None:
    mask = np.array([0, -np.inf, 0, 0], np.float32)
    a, b = (constant_behind("Add", c) for c in (mask, np.zeros(4, np.float32)))
    actual = output_of(judged(a, b, samples(3, x=(2, 4))), "y")
    assert all(math.isnan(getattr(actual, m)) for m in MEASURES[:6] if m != "sqnr_worst")


def test_zeros_against_noise_are_minus_infinity() -> None:
    zero, noise = np.zeros(4, np.float32), np.full(4, 0.1, np.float32)
    inputs = [{"x": np.zeros((2, 4), np.float32)}]
    actual = output_of(judged(constant_behind("Add", zero), constant_behind("Add", noise), inputs), "y")
    assert actual.sqnr == -math.inf


def test_the_interval_of_the_sqnr_is_over_samples() -> None:
    """Ten plain computations: 10 log10 of pooled ratios, each without one sample."""
    inputs = [s for i in range(10) for s in samples(1, seed=i, x=(2, 8))]
    actual = judged(linear(), linear(0.1), inputs)
    pairs = [
        (a["y"].astype(np.float64), b["y"].astype(np.float64))
        for a, b in zip(run(linear(), inputs), run(linear(0.1), inputs), strict=True)
    ]
    aa, dd = np.array([((a**2).sum(), ((a - b) ** 2).sum()) for a, b in pairs]).T
    without = 10 * np.log10((aa.sum() - aa) / (dd.sum() - dd))
    half = 2.262 * math.sqrt(0.9 * ((without - without.mean()) ** 2).sum())
    first = output_of(actual, "y")
    assert first.sqnr_interval == pytest.approx((first.sqnr - half, first.sqnr + half), rel=1e-3)


def test_the_interval_of_a_model_is_that_of_its_worst_output() -> None:
    actual = judged(linear(), linear(0.1), INPUTS)
    assert actual.sqnr_interval == min(actual.outputs, key=lambda o: o.sqnr).sqnr_interval
    low, high = actual.sqnr_interval
    assert low < actual.sqnr < high


def test_intervals_at_the_limits() -> None:
    """Of one sample, of identical models, of nan, and where one sample has neither signal nor error."""
    alone = judged(linear(), linear(0.1), INPUTS[:1])
    assert math.isfinite(alone.sqnr) and alone.sqnr_interval == (alone.sqnr, alone.sqnr)
    assert judged(linear(), linear(), INPUTS).sqnr_interval == (math.inf, math.inf)
    a = constant_behind("Add", np.zeros(4, np.float32))
    b = constant_behind("Add", np.array([0, 0, np.nan, 0], np.float32))
    assert all(math.isnan(end) for end in judged(a, b, samples(3, x=(2, 4))).sqnr_interval)
    blank = {"x": np.zeros((2, 8), np.float32)}
    actual = output_of(judged(linear(), linear(0.1), [*INPUTS, blank]), "y")
    low, high = actual.sqnr_interval
    assert math.isfinite(low) and low < actual.sqnr < high
