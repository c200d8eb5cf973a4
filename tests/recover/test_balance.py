"""Factors chosen by the expected noise: never more of it, exact in float, and gains where a channel is loud."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from qtool.graph.save import to_bytes
from qtool.graph.view import View
from qtool.plan.candidate import Candidate
from qtool.plan.prepared import rescaled
from qtool.recover import balance
from qtool.recover.awq import activation_aware
from qtool.recover.balance import Balances, Layers, balanced, rounded_off
from qtool.recover.equalize import equalized
from qtool.recover.equalize import factors as equalizing
from qtool.recover.joints import joints
from qtool.recover.smooth import smoothed
from tests.graphs import node, rng, weights
from tests.plan.flow import Sample, candidate
from tests.recover.layers import FED, WIDTH, linear, pictures, uneven
from tests.recover.test_bias import network
from tests.recover.whole import memory, values_of
from tests.rewrite.flow import run
from tests.rewrite.zoo import CASES

TECHNIQUES = {"equalize": equalized, "smooth": smoothed, "awq": activation_aware}
FORMS: tuple[dict[str, Any], ...] = (
    {"mode": "static"},
    {"mode": "dynamic"},
    {"mode": "weight-only", "bits": 4},
)


def loud(relu: bool = True) -> onnx.ModelProto:
    """Two layers, between which one channel reaches 100 times as far as the others."""
    w = weights(FED, WIDTH) * 10
    w[:, 3] *= 100
    between = [node("Relu", ["a"], ["h"])] if relu else [node("Identity", ["a"], ["h"])]
    after = weights(WIDTH, FED, seed=2) * 5
    after[3] /= 100
    return linear(between, {"w0": w, "w1": after})


def normed() -> onnx.ModelProto:
    """The same behind a norm, 20 times as far: what reaches further is no longer quantized at all."""
    gain = np.ones(WIDTH, np.float32)
    gain[3] = 20
    after = weights(WIDTH, FED, seed=2) * 5
    after[3] /= 20
    return linear(
        [node("LayerNormalization", ["a", "v", "u"], ["h"])], {"v": gain, "u": weights(WIDTH), "w1": after}
    )


def done_of(case: str, form: dict[str, Any]) -> tuple[Candidate, Sequence[Sample]]:
    made: dict[str, tuple[Callable[[], onnx.ModelProto], Sequence[Sample]]] = {
        "loud": (loud, uneven()),
        "normed": (normed, uneven()),
        "network": (network, pictures()),
    }
    build, given = made[case] if case in made else (CASES[case].build, CASES[case].samples())
    return candidate(build(), given, include=["*"], **form), given


@pytest.mark.parametrize("technique", TECHNIQUES)
@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("case", ["loud", "normed", "network", *CASES])
def test_what_is_scaled_computes_the_same_to_the_bit(case: str, form: dict[str, Any], technique: str) -> None:
    done, given = done_of(case, form)
    scaled = TECHNIQUES[technique](done.model.view, done.plan, memory(given), threads=1)
    after = to_bytes(rescaled(done.model.model, scaled))
    for optimize in (True, False):
        a, b = (run(m, given, optimize) for m in (to_bytes(done.model.model), after))
        assert all(np.array_equal(x[n], y[n], equal_nan=True) for x, y in zip(a, b, strict=True) for n in x)
    for every in scaled.values():
        for one in every:
            assert all(np.frexp(f)[0] == 0.5 for f in one.factors)


def chosen(done: Candidate, given: Sequence[Sample]) -> list[tuple[Layers, np.ndarray | None]]:
    """Each joint's layers, and the factors that equalizing chooses for it."""
    view: View = done.model.view
    found = joints(view, view.values.keys())
    seen = balance._looked_at(view.model, found, memory(given), 1)
    made = [balance._layers(view, done.plan, joint, seen[joint.value], {}) for joint in found]
    return [(layers, balance._best(layers, equalizing(layers))) for layers in made]


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("case", ["loud", "normed", "network", "mlp-gemm", "transformer", "mobile-block"])
def test_the_expected_noise_never_rises(case: str, form: dict[str, Any]) -> None:
    done, given = done_of(case, form)
    for layers, best in chosen(done, given):
        if best is not None:
            before = layers.noise(np.ones_like(best))
            assert layers.noise(best) < 0.9 * before
            assert layers.noise(best) <= min(layers.noise(rounded_off(s)) for s in equalizing(layers))


@pytest.mark.parametrize("case", ["loud", "network"])
def test_the_expected_noise_is_that_of_the_layer(case: str) -> None:
    """Of random errors: to some dB."""
    done, given = done_of(case, {"mode": "static"})
    view = done.model.view
    sites = {(s.value, u) for s in done.plan.sites for u in s.uses or ()}
    for layers, _ in chosen(done, given):
        joint = layers.joint
        ((name, (weight, _)),) = joint.after
        reader = view.node_by_name[name]
        if len(reader.inputs) > 2 or reader.op_type != "MatMul" or (weight, (name, 1)) not in sites:
            continue
        x = np.concatenate([v[joint.value] for v in values_of(view.model, [joint.value], given)])
        w, _, site = layers.weights[0]
        assert site is not None and layers.rounded is not None and layers.rounded.qparams is not None
        step = float(layers.rounded.qparams.scale)
        zero = int(layers.rounded.qparams.zero_point)
        q = np.clip(np.rint(x / step) + zero, 0, 255)
        back = balance._nearest(w, site.spec)
        err = ((q - zero) * step) @ back - x @ w
        real = float(np.square(err).sum() / len(x))
        assert real / 4 < layers.noise(np.ones(joint.channels)) < real * 4


@pytest.mark.parametrize(("case", "technique"), [("loud", "equalize"), ("normed", "smooth")])
def test_a_loud_channel_is_evened_out(case: str, technique: str) -> None:
    done, given = done_of(case, {"mode": "static"})
    scaled = TECHNIQUES[technique](done.model.view, done.plan, memory(given), threads=1)
    (factors,) = (one.factors for one in scaled["w1"])
    assert factors[3] >= 2 * np.median(factors)


@pytest.mark.parametrize("case", ["loud", "normed"])
def test_each_technique_has_its_own_joints(case: str) -> None:
    done, given = done_of(case, {"mode": "static"})
    view, source = done.model.view, memory(given)
    assert bool(equalized(view, done.plan, source, 1)) == (case == "loud")
    assert bool(smoothed(view, done.plan, source, 1)) == (case == "normed")
    assert activation_aware(view, done.plan, source, 1) == {}, "of 8 bits"


def test_a_weight_behind_one_joint_and_before_another_is_scaled_by_both(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(balance, "_WORTH", np.inf)  # whatever it comes to
    done, given = done_of("network", {"mode": "static"})

    def candidates(layers: Layers) -> list[np.ndarray]:
        return [np.exp2(rng(1).integers(-3, 4, layers.joint.channels).astype(np.float64))]

    def balances(able: bool) -> Balances:
        return balanced(done.model.view, done.plan, memory(given), candidates, lambda layers: able, 1)

    assert balances(False) == {}
    found = balances(True)
    assert {one.axis for one in found["w1"]} == {0, 1}
    before, after = (run(to_bytes(m), given) for m in (done.model.model, rescaled(done.model.model, found)))
    assert all(np.array_equal(a["y"], b["y"]) for a, b in zip(before, after, strict=True))


def test_what_does_not_help_is_left_alone() -> None:
    done, given = done_of("loud", {"mode": "static"})

    def harm(layers: Layers) -> list[np.ndarray]:
        return [1 / layers.seen.reach]

    found: Balances = balanced(done.model.view, done.plan, memory(given), harm, lambda layers: True, 1)
    assert found == {}


@settings(max_examples=200, deadline=None)
@given(arrays.arrays(np.float64, st.integers(1, 12), elements=st.floats(allow_nan=True, allow_infinity=True)))
def test_factors_are_powers_of_two_whatever_they_come_from(s: np.ndarray) -> None:
    found = rounded_off(s)
    assert found.shape == s.shape
    assert (np.frexp(found)[0] == 0.5).all()
    assert (found >= 2.0**-12).all() and (found <= 2.0**12).all()
    bad = ~(np.isfinite(s) & (s > 0))
    assert (found[bad] == 1).all()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(-4, 4), min_size=1, max_size=8), st.integers(-5, 5))
def test_a_common_factor_changes_nothing(powers: list[int], common: int) -> None:
    s = np.exp2(np.array(powers, np.float64))
    np.testing.assert_array_equal(rounded_off(s), rounded_off(s * 4.0**common))


def test_channels_that_are_never_fed_do_no_harm() -> None:
    w = weights(FED, WIDTH) * 10
    w[:, ::3] = 0
    proto = linear([node("Relu", ["a"], ["h"])], {"w0": w, "b0": np.zeros(WIDTH, np.float32)})
    done = candidate(proto, uneven(), include=["*"])
    for technique in TECHNIQUES.values():
        scaled = technique(done.model.view, done.plan, memory(uneven()), threads=1)
        assert all(np.isfinite(one.factors).all() for every in scaled.values() for one in every)
