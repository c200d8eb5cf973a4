"""HQQ: the weights that it changes, the written model, and GPTQ after it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from qtool.data.iterables import InMemory
from qtool.graph.save import to_bytes
from qtool.graph.view import float_constant
from qtool.plan.resolve import integers_of
from qtool.plan.serial import from_json, to_json
from qtool.recover.gptq import round_weights
from qtool.recover.hqq import half_quadratic_plan
from qtool.rewrite.write import rewrite
from tests.graphs import model, node, rng
from tests.plan.flow import Sample, candidate
from tests.rewrite.flow import run, sqnr
from tests.tiers import sample

FORMS: tuple[dict[str, Any], ...] = tuple(
    {"bits": bits, "block": 32, "prefer": prefer} for bits in (2, 4) for prefer in ("size", "speed")
)


def network() -> onnx.ModelProto:
    """Two products large enough for their kernel, of weights with outliers, and inputs that go together."""
    random = rng(3)
    weights = {
        "v": random.standard_t(3, (256, 384)).astype(np.float32) / 12,
        "w": random.standard_t(3, (384, 256)).astype(np.float32) / 48,
    }
    nodes = [node("MatMul", ["x", "v"], ["h"]), node("Relu", ["h"], ["r"]), node("MatMul", ["r", "w"], ["y"])]
    return model(nodes, {"x": ["n", 256]}, {"y": ["n", 256]}, weights)


def rows(count: int, seed: int = 8) -> list[Sample]:
    random = rng(seed)
    mixing = rng(1).normal(size=(64, 256)).astype(np.float32)
    return [{"x": random.normal(size=(96, 64)).astype(np.float32) @ mixing} for _ in range(count)]


@pytest.mark.parametrize("form", sample(FORMS, 3), ids=str)
def test_scales_are_written_as_planned_and_gptq_continues_from_them(form: dict[str, Any]) -> None:
    done = candidate(network(), rows(4), mode="weight-only", **form)
    plan = half_quadratic_plan(done.model.view, done.plan)
    assert plan != done.plan
    assert all(s.integers is None for s in plan.sites)
    assert [replace(s, qparams=None) for s in plan.sites] == [
        replace(s, qparams=None) for s in done.plan.sites
    ]
    rounded = round_weights(done.model.view, plan, InMemory(rows(8)), threads=1)
    floats = run(to_bytes(done.model.model), rows(4, seed=5))
    actual = []
    for each in (plan, rounded):
        data = to_bytes(rewrite(done.model.model, each))
        assert data == to_bytes(rewrite(done.model.model, from_json(to_json(each), "plan")))
        optimized, plain = (run(data, rows(4, seed=5), optimize) for optimize in (True, False))
        assert sqnr(plain, optimized) > 30  # the kernel rounds activations to 8 bits
        actual.append(sqnr(floats, optimized))
    assert actual[1] > actual[0]


@pytest.mark.parametrize("bits", [2, 4])
def test_the_reference_agrees_with_the_runtime(bits: int) -> None:
    done = candidate(network(), rows(2), mode="weight-only", bits=bits, target="generic")
    proto = onnx.load_from_string(
        to_bytes(rewrite(done.model.model, half_quadratic_plan(done.model.view, done.plan)))
    )
    reference = ReferenceEvaluator(proto)
    wanted = [dict(zip(("y",), reference.run(None, dict(sample)), strict=True)) for sample in rows(2)]
    assert sqnr(wanted, run(proto.SerializeToString(), rows(2), False)) > 90


def test_eight_bits_and_weights_with_integers_stay() -> None:
    eight = candidate(network(), rows(2), mode="weight-only", bits=8)
    assert half_quadratic_plan(eight.model.view, eight.plan) == eight.plan
    four = candidate(network(), rows(2), mode="weight-only", bits=4)
    view = four.model.view
    arrays = {s.value: float_constant(view.values[s.value]) for s in four.plan.sites}
    sites = tuple(
        s if (w := arrays[s.value]) is None else replace(s, integers=integers_of(s, w))
        for s in four.plan.sites
    )
    rounded = replace(four.plan, sites=sites)
    assert any(s.integers is not None for s in sites)
    assert half_quadratic_plan(view, rounded).sites == sites
