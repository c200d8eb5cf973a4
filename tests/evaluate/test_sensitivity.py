"""The errors of single tensors, and that their powers add up to the error of a plan."""

from __future__ import annotations

import math

import numpy as np
import pytest

from qtool.data.iterables import InMemory
from qtool.evaluate.compare import compare
from qtool.evaluate.sensitivity import SAMPLES, sensitivity
from qtool.graph.save import to_bytes
from qtool.plan.fp16.ports import is_float32
from qtool.plan.predict import keys_of
from qtool.rewrite.write import rewrite
from qtool.runtime.session import Session
from tests.plan.flow import candidate
from tests.rewrite.zoo import CASES

NAMES = ("residual", "transformer")


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("residual", "static"),
        ("transformer", "dynamic"),
        ("conv-bn-relu6", "weight-only"),
        ("residual", "fp16"),
    ],
)
def test_everything_that_a_plan_quantizes_has_an_error(name: str, mode: str) -> None:
    case = CASES[name]
    done = candidate(case.build(), case.samples(), mode=mode)
    source = InMemory(list(case.samples()))
    calls: list[tuple[int, int]] = []
    actual = sensitivity(done.model.model, [done.plan], source, 1, lambda a, b: calls.append((a, b)))
    assert [*actual.noise] == [*keys_of(done.plan)]
    assert actual.outputs == tuple(v.name for v in done.model.model.graph.outputs if is_float32(v))
    assert actual.samples <= min(SAMPLES, len(source))
    assert actual.passes == (len(actual.noise) + 1) * actual.samples
    assert calls == [(i + 1, actual.passes) for i in range(actual.passes)]
    assert all((noise >= 0).all() and noise.shape == actual.signal.shape for noise in actual.noise.values())
    session = Session(to_bytes(done.model.model), threads=1)
    outputs = [session.run(sample) for sample in case.samples()]
    assert actual.signal.sum() <= sum(float(np.square(o).sum()) for out in outputs for o in out) * 1.001


@pytest.mark.parametrize("name", NAMES)
def test_powers_add_up_to_the_error_of_the_plan(name: str) -> None:
    """The prediction is of float arithmetic on quantized values: a few decibels off what int8 kernels give.

    Weights of 7 bits: with 8, the products of CPUs without VNNI saturate, which no prediction knows of.
    """
    case = CASES[name]
    done = candidate(case.build(), case.samples(), "cpu-avx2")
    source = InMemory(list(case.samples()))
    actual = sensitivity(done.model.model, [done.plan], source, 1)
    made = to_bytes(rewrite(done.model.model, done.plan))
    measured = compare(Session(to_bytes(done.model.model), threads=1), Session(made, threads=1), source).sqnr
    assert abs(actual.sqnr(keys_of(done.plan)) - measured) < 4


def test_plans_with_common_sites_are_measured_together() -> None:
    case = CASES["residual"]
    full = candidate(case.build(), case.samples())
    less = candidate(case.build(), case.samples(), exclude=["op:Add"])
    source = InMemory(list(case.samples()))
    both = sensitivity(full.model.model, [full.plan, less.plan], source, 1)
    alone = sensitivity(full.model.model, [full.plan], source, 1)
    assert both.noise.keys() == {*keys_of(full.plan), *keys_of(less.plan)}
    for key in alone.noise:
        assert both.noise[key] == pytest.approx(alone.noise[key], rel=1e-3)


def test_no_tensors_give_an_infinite_sqnr() -> None:
    case = CASES["residual"]
    done = candidate(case.build(), case.samples())
    source = InMemory(list(case.samples()))
    actual = sensitivity(done.model.model, [done.plan], source, 1)
    assert actual.sqnr([]) == math.inf


@pytest.mark.parametrize("share", [0.4, 0.7])
def test_fewer_inferences_find_the_same_loud_tensors(share: float) -> None:
    """Groups are measured first: the sum of all noise stays, and so does the loudest tensor."""
    case = CASES["transformer"]
    done = candidate(case.build(), case.samples())
    source = InMemory(list(case.samples()))
    full = sensitivity(done.model.model, [done.plan], source, 1)
    few = sensitivity(done.model.model, [done.plan], source, 1, passes=int(share * full.passes))
    assert few.passes <= share * full.passes
    assert few.noise.keys() == full.noise.keys()
    assert few.sqnr(few.noise) == pytest.approx(full.sqnr(full.noise), abs=2)
    assert max(few.noise, key=few.relative) == max(full.noise, key=full.relative)
