"""Float models that compute what a plan's quantized ones do: held to those, value names and all."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import onnx
import pytest

from qtool.graph.save import to_bytes
from qtool.graph.view import View
from qtool.plan.candidate import Candidate
from qtool.plan.model import Plan
from qtool.rewrite.simulate.simulated import simulated
from qtool.rewrite.write import rewrite
from qtool.runtime.session import Session
from tests.plan.flow import candidate
from tests.recover.oracle import made, values_of
from tests.rewrite.flow import run, sqnr
from tests.rewrite.zoo import CASES
from tests.tiers import in_turn

FORMS: tuple[dict[str, Any], ...] = (
    {"mode": "static"},
    {"mode": "dynamic"},
    {"mode": "weight-only"},
    {"mode": "weight-only", "bits": 4},
    {"mode": "fp16"},
)
# What is no more apart than that is the same but for a step here and there.
NEAR_DB = 45.0


def done_of(case: str, form: dict[str, Any]) -> Candidate:
    return candidate(CASES[case].build(), CASES[case].samples(), **form)


@pytest.mark.parametrize(("case", "form"), in_turn(CASES, FORMS), ids=str)
def test_it_computes_as_the_quantized_model(case: str, form: dict[str, Any]) -> None:
    done, fed = done_of(case, form), CASES[case].samples()
    before = to_bytes(done.model.model)
    made = simulated(done.model.model, done.plan)
    assert to_bytes(done.model.model) == before
    _keeps_names(View(done.model.model), View(made))
    model = to_bytes(made)
    onnx.checker.check_model(onnx.load_from_string(model))
    if form["mode"] in ("static", "dynamic") and "lstm" in case:
        return  # its kernel rounds activations within
    for optimize in (True, False):
        # Without QDQ fusions: the runtime would quantize the restored weights once more.
        session = Session(model, threads=1, optimize=optimize, integers=False)
        got = [dict(zip(session.outputs, session.run(s), strict=True)) for s in fed]
        quantized = run(to_bytes(rewrite(done.model.model, done.plan)), fed, optimize)
        floats = run(before, fed, optimize)
        # Beside what quantization itself adds: flipped ties are steps.
        agreement, noise = sqnr(quantized, got), sqnr(floats, quantized)
        assert agreement > min(NEAR_DB, noise + 6), (agreement, noise, optimize)


def _keeps_names(before: View, after: View) -> None:
    """Values, nodes, inputs and outputs of the float model are in the simulated one, too."""
    assert before.values.keys() <= after.values.keys()
    assert before.node_by_name.keys() <= after.node_by_name.keys()
    for a, b in ((before.model.graph.inputs, after.model.graph.inputs),
                 (before.model.graph.outputs, after.model.graph.outputs)):  # fmt: skip
        assert [(v.name, v.dtype) for v in a] == [(v.name, v.dtype) for v in b]


@pytest.mark.parametrize(("form", "case"), in_turn(FORMS, ["residual", "transformer", "mlp-gemm"]), ids=str)
def test_values_within_stay_near_those_of_the_float_model(form: dict[str, Any], case: str) -> None:
    done, fed = done_of(case, form), CASES[case].samples()
    names = made(done.model.model)
    before = values_of(done.model.model, names, fed)
    after = values_of(simulated(done.model.model, done.plan), names, fed)
    assert sqnr(before, after) > (14 if form.get("bits") == 4 else 25)


@pytest.mark.parametrize("case", ["transformer", "lstm", "if-weights"])
def test_without_sites_it_is_the_model(case: str) -> None:
    done, fed = done_of(case, {"mode": "static"}), CASES[case].samples()
    nothing: Plan = replace(done.plan, sites=(), forms={}, outlier_columns={})
    assert to_bytes(simulated(done.model.model, nothing)) == to_bytes(done.model.model)
    assert run(to_bytes(done.model.model), fed)  # and it was a model
