"""Channel scaling: exact in float, never more expected noise, and gains where a channel has a wide range."""

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
from qtool.recover import channel_scaling
from qtool.recover.awq import AWQ
from qtool.recover.channel_scaling import (
    PairedLayers,
    Technique,
    best_factors,
    paired_layers,
    powers_of_two,
    rounded_weight,
    scale_channels,
)
from qtool.recover.channel_statistics import channel_statistics
from qtool.recover.equalization_pairs import find_pairs
from qtool.recover.equalize import EQUALIZE
from qtool.recover.smoothquant import SMOOTHQUANT
from tests.graphs import node, rng, weights
from tests.plan.flow import Sample, candidate
from tests.recover.layers import FED, WIDTH, linear, pictures, uneven
from tests.recover.oracle import memory, values_of
from tests.recover.test_bias_correction import network
from tests.rewrite.flow import run
from tests.rewrite.zoo import CASES
from tests.tiers import examples, in_turn, sample

TECHNIQUES = {"equalize": EQUALIZE, "smooth": SMOOTHQUANT, "awq": AWQ}
FORMS: tuple[dict[str, Any], ...] = (
    {"mode": "static"},
    {"mode": "dynamic"},
    {"mode": "weight-only", "bits": 4},
)


def loud(relu: bool = True) -> onnx.ModelProto:
    """Two layers with one channel between them whose range is 100 times as wide as the others'."""
    w = weights(FED, WIDTH) * 10
    w[:, 3] *= 100
    between = [node("Relu", ["a"], ["h"])] if relu else [node("Identity", ["a"], ["h"])]
    after = weights(WIDTH, FED, seed=2) * 5
    after[3] /= 100
    return linear(between, {"w0": w, "w1": after})


def normed() -> onnx.ModelProto:
    """The same after a norm, 20 times as wide: with a wider range the value would not be quantized."""
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
    build, inputs = made[case] if case in made else (CASES[case].build, CASES[case].samples())
    return candidate(build(), inputs, include=["*"], **form), inputs


EXACT = ("loud", "normed", "network", *CASES)


@pytest.mark.parametrize(("case", "form", "technique"), in_turn(sample(EXACT, 4), FORMS, TECHNIQUES), ids=str)
def test_the_scaled_model_computes_the_same_bits(case: str, form: dict[str, Any], technique: str) -> None:
    done, inputs = done_of(case, form)
    scaled = scale_channels(TECHNIQUES[technique], done.model.view, done.plan, memory(inputs), threads=1)
    after = to_bytes(rescaled(done.model.model, scaled))
    for optimize in (True, False):
        a, b = (run(m, inputs, optimize) for m in (to_bytes(done.model.model), after))
        assert all(np.array_equal(x[n], y[n], equal_nan=True) for x, y in zip(a, b, strict=True) for n in x)
    assert all(np.frexp(f)[0] == 0.5 for every in scaled.values() for one in every for f in one.factors)


def equalized(done: Candidate, inputs: Sequence[Sample]) -> list[tuple[PairedLayers, np.ndarray | None]]:
    """The layers of each pair, and the factors that equalization chooses for it."""
    view: View = done.model.view
    pairs = find_pairs(view, view.values.keys())
    channels = channel_statistics(view.model, {p.value: p.axis for p in pairs}, memory(inputs), 32, 1)
    made = [paired_layers(view, done.plan, pair, channels[pair.value], {}) for pair in pairs]
    return [(layers, best_factors(layers, EQUALIZE.factors(layers))) for layers in made]


@pytest.mark.parametrize(
    ("case", "form"),
    in_turn(["loud", "normed", "network", "mlp-gemm", "transformer", "mobile-block"], FORMS),
    ids=str,
)
def test_the_expected_noise_never_rises(case: str, form: dict[str, Any]) -> None:
    done, inputs = done_of(case, form)
    for layers, best in equalized(done, inputs):
        if best is not None:
            before = layers.noise(np.ones_like(best))
            assert layers.noise(best) < 0.9 * before
            assert layers.noise(best) <= min(layers.noise(powers_of_two(s)) for s in EQUALIZE.factors(layers))


@pytest.mark.parametrize("case", ["loud", "network"])
def test_the_expected_noise_is_that_of_the_layer(case: str) -> None:
    """Of random errors, so up to some dB."""
    done, inputs = done_of(case, {"mode": "static"})
    view = done.model.view
    sites = {(s.value, u) for s in done.plan.sites for u in s.uses or ()}
    for layers, _ in equalized(done, inputs):
        pair = layers.pair
        ((name, (weight, _)),) = pair.after
        reader = view.node_by_name[name]
        if len(reader.inputs) > 2 or reader.op_type != "MatMul" or (weight, (name, 1)) not in sites:
            continue
        x = np.concatenate([v[pair.value] for v in values_of(view.model, [pair.value], inputs)])
        w, _, site = layers.weights[0]
        assert site is not None and layers.site is not None and layers.site.qparams is not None
        step, zero = float(layers.site.qparams.scale), int(layers.site.qparams.zero_point)
        q = np.clip(np.rint(x / step) + zero, 0, 255)
        err = ((q - zero) * step) @ rounded_weight(w, site.spec) - x @ w
        real = float(np.square(err).sum() / len(x))
        assert real / 4 < layers.noise(np.ones(pair.channels)) < real * 4


@pytest.mark.parametrize(("case", "own"), [("loud", "equalize"), ("normed", "smooth")])
def test_each_technique_scales_its_own_pairs(case: str, own: str) -> None:
    """8-bit weights are none of AWQ's; the channel with the wide range gets the largest factor."""
    done, inputs = done_of(case, {"mode": "static"})
    for name, technique in TECHNIQUES.items():
        scaled = scale_channels(technique, done.model.view, done.plan, memory(inputs), 1)
        assert bool(scaled) == (name == own), name
        if scaled:
            (factors,) = (one.factors for one in scaled["w1"])
            assert factors[3] >= 2 * np.median(factors)


def test_a_weight_between_two_pairs_is_scaled_by_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel_scaling, "_WORTH", np.inf)  # whatever the gain
    done, inputs = done_of("network", {"mode": "static"})

    def factors(layers: PairedLayers) -> list[np.ndarray]:
        return [np.exp2(rng(1).integers(-3, 4, layers.pair.channels).astype(np.float64))]

    actual, nothing = (
        scale_channels(Technique(factors, lambda layers: able), done.model.view, done.plan, memory(inputs), 1)  # noqa: B023
        for able in (True, False)
    )
    assert nothing == {}
    assert {one.axis for one in actual["w1"]} == {0, 1}
    before, after = (run(to_bytes(m), inputs) for m in (done.model.model, rescaled(done.model.model, actual)))
    assert all(np.array_equal(a["y"], b["y"]) for a, b in zip(before, after, strict=True))


def test_factors_that_do_not_help_are_not_used() -> None:
    done, inputs = done_of("loud", {"mode": "static"})
    harm = Technique(lambda layers: [1 / layers.channels.absmax], lambda layers: True)
    assert scale_channels(harm, done.model.view, done.plan, memory(inputs), 1) == {}


@settings(max_examples=examples(200), deadline=None)
@given(arrays.arrays(np.float64, st.integers(1, 12), elements=st.floats(allow_nan=True, allow_infinity=True)))
def test_factors_become_powers_of_two(s: np.ndarray) -> None:
    actual = powers_of_two(s)
    assert actual.shape == s.shape
    assert (np.frexp(actual)[0] == 0.5).all()
    assert (actual >= 2.0**-12).all() and (actual <= 2.0**12).all()
    bad = ~(np.isfinite(s) & (s > 0))
    assert (actual[bad] == 1).all()


@settings(max_examples=examples(100), deadline=None)
@given(st.lists(st.integers(-4, 4), min_size=1, max_size=8), st.integers(-5, 5))
def test_a_common_factor_changes_nothing(powers: list[int], common: int) -> None:
    s = np.exp2(np.array(powers, np.float64))
    np.testing.assert_array_equal(powers_of_two(s), powers_of_two(s * 4.0**common))


def test_channels_that_are_never_fed_do_no_harm() -> None:
    w = weights(FED, WIDTH) * 10
    w[:, ::3] = 0
    proto = linear([node("Relu", ["a"], ["h"])], {"w0": w, "b0": np.zeros(WIDTH, np.float32)})
    done = candidate(proto, uneven(), include=["*"])
    for technique in TECHNIQUES.values():
        scaled = scale_channels(technique, done.model.view, done.plan, memory(uneven()), threads=1)
        assert all(np.isfinite(one.factors).all() for every in scaled.values() for one in every)
