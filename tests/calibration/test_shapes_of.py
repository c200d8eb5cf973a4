"""Shapes are those of the arrays that onnxruntime gives."""

from __future__ import annotations

import pytest

from qtool.calibration.runner import shapes_of
from qtool.data.iterables import InMemory
from tests.plan.flow import ready
from tests.rewrite.zoo import CASES


@pytest.mark.parametrize("name", ["residual", "conv-bn-relu6", "transformer", "lstm-y-unused"])
def test_shapes_of_all_values_of_a_model(name: str) -> None:
    case = CASES[name]
    job = ready(case.build())
    samples = case.samples()
    actual = shapes_of(job.model, list(job.view.values), InMemory(list(samples)), threads=1)
    for input_name, array in samples[0].items():
        assert actual[input_name] == array.shape
    for value in job.model.graph.outputs:
        declared = value.shape
        assert declared is not None
        assert len(actual[value.name or ""]) == len(declared)
    made = {v.name for n in job.model.graph for v in n.outputs if v.name}
    assert made <= actual.keys()
    for name_, shape in actual.items():
        declared = job.view.values[name_].shape
        for ours, theirs in zip(shape, declared or (), strict=False):
            assert not isinstance(theirs, int) or ours == theirs


def test_only_named_values_are_fetched() -> None:
    case = CASES["residual"]
    job = ready(case.build())
    samples = case.samples()
    some = list(samples[0])[:1]
    actual = shapes_of(job.model, [*some, "no such value"], InMemory(list(samples)), threads=1)
    assert actual == {name: samples[0][name].shape for name in some}
