"""Scales that follow a step: each bucket computes as a model made for its steps alone."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from qtool.calibration.buckets import buckets_of
from qtool.data.iterables import InMemory
from qtool.errors import DataError, UsageError
from qtool.graph.save import to_bytes
from qtool.plan.candidate import make_candidate
from qtool.plan.rules import rule_based
from qtool.plan.serial import PLAN
from qtool.rewrite.write import rewrite
from qtool.runtime.session import Session
from tests.exact import honest_target
from tests.plan.flow import Sample, prepared
from tests.rewrite.flow import Written, write

STEPS = (0, 10, 20, 30)


def network(step_type: int = TensorProto.INT64, *, opset: int = 17) -> onnx.ModelProto:
    """Two convolutions whose values grow with the step: x [1, 1, 6, 6], step [1] -> y."""
    rng = np.random.default_rng(0)
    constants = {"w1": (rng, (8, 1, 3, 3)), "b1": (rng, (8,)), "w2": (rng, (8, 8, 3, 3))}
    return helper.make_model(
        helper.make_graph(
            [
                helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], name="first", pads=[1] * 4),
                helper.make_node("Relu", ["c1"], ["r1"], name="relu"),
                helper.make_node("Conv", ["r1", "w2"], ["c2"], name="second", pads=[1] * 4),
                helper.make_node("Cast", ["step"], ["number"], name="cast", to=TensorProto.FLOAT),
                helper.make_node("Add", ["c2", "number"], ["y"], name="add"),
            ],
            "steps",
            [
                helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 6, 6]),
                helper.make_tensor_value_info("step", step_type, [1]),
            ],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8, 6, 6])],
            [
                numpy_helper.from_array(r.normal(0, 0.3, shape).astype(np.float32), name)
                for name, (r, shape) in constants.items()
            ],
        ),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=10,
    )


def samples(count: int = 24) -> list[Sample]:
    """Samples of all steps, ten times as large at each."""
    rng = np.random.default_rng(1)
    sizes = [10.0 ** (index % len(STEPS)) for index in range(count)]
    return [
        {"x": rng.normal(0, size, (1, 1, 6, 6)).astype(np.float32), "step": np.array([STEPS[i % len(STEPS)]])}
        for i, size in enumerate(sizes)
    ]


def by_step(case: Written, optimize: bool) -> dict[int, float]:
    """The SQNR in dB of the convolutions at each step."""
    original, quantized = Session(case.original.SerializeToString()), Session(case.data, optimize=optimize)
    ratios: dict[int, float] = {}
    for sample in case.samples[: len(STEPS)]:
        step = int(sample["step"][0])
        a, b = (session.run(dict(sample))[0] - step for session in (original, quantized))
        ratios[step] = 10 * np.log10(np.square(a).sum() / np.square(a - b).sum())
    return ratios


@pytest.mark.parametrize("optimize", [True, False])
def test_small_values_keep_their_accuracy_beside_large_ones(optimize: bool) -> None:
    choices = {"include": ["op:Conv"]}
    fixed = by_step(write(network(), samples(), honest_target(), **choices), optimize)
    following = by_step(write(network(), samples(), honest_target(), timestep="step", **choices), optimize)
    assert fixed[STEPS[0]] < 5
    assert min(following.values()) > 25


@pytest.mark.parametrize("step_type", [TensorProto.INT64, TensorProto.FLOAT])
def test_each_bucket_computes_as_a_model_of_its_samples_alone(step_type: int) -> None:
    proto, kind = network(step_type, opset=21), np.float32 if step_type == TensorProto.FLOAT else np.int64
    every = [{**s, "step": s["step"].astype(kind)} for s in samples()]
    choices = {"include": ["op:Conv"], "exclude": ["add"], "format": "qoperator"}
    every_step = ReferenceEvaluator(write(proto, every, "generic", timestep="step", **choices).proto)
    for step in STEPS:
        own = [s for s in every if s["step"][0] == step]
        alone = ReferenceEvaluator(write(proto, own, "generic", **choices).proto)
        np.testing.assert_array_equal(every_step.run(None, own[0])[0], alone.run(None, own[0])[0])


def test_the_graph_runs_integer_operators_and_the_plan_replays_it() -> None:
    case = write(network(), samples(), "cpu", include=["op:Conv"], timestep="step")
    ops = Counter(node.op_type for node in case.proto.graph.node)
    assert ops["QLinearConv"] == 2
    assert ops["Gather"] >= 3
    replayed = PLAN.from_json(PLAN.to_json(case.plan), "the plan")
    assert to_bytes(rewrite(case.candidate.model.model, replayed)) == case.data


def test_a_search_that_goes_on_from_a_plan_keeps_the_steps() -> None:
    plan = write(network(), samples(), "cpu", include=["op:Conv"], timestep="step").plan
    resumed = prepared(network(), samples(), "cpu", plan=plan, resume=True)
    assert make_candidate(resumed, rule_based(resumed.task)).plan.steps == plan.steps


def test_values_with_one_scale_at_some_steps_only_get_one_graph() -> None:
    """A Resize takes integers where both its scales are equal, which a tighter bound undoes at large steps."""
    proto = network()
    resize = helper.make_node("Resize", ["c1", "", "sizes"], ["r1"], name="relu", mode="nearest")
    proto.graph.node[1].CopyFrom(resize)
    proto.graph.initializer.append(numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "sizes"))
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8, 12, 12]))
    model = prepared(proto, samples(), "cpu", include=["op:Conv"], timestep="step")
    base = make_candidate(model, rule_based(model.task))
    assert {"c1", "r1"} <= base.plan.steps.qparams.keys()
    tight = base.changed(bounds={"r1": (-20.0, 20.0)})
    assert rewrite(model.model, tight.plan).graph


@pytest.mark.parametrize(
    ("changed", "options", "error"),
    [
        ({}, {"timestep": "stop"}, UsageError),  # misspelt
        ({}, {"timestep": "step", "mode": "dynamic"}, UsageError),
        ({}, {"timestep": "step", "acts": "uint16"}, UsageError),
        ({"step": np.array([7])}, {"timestep": "step"}, UsageError),  # one step for all
        ({"step": np.array([np.nan])}, {"timestep": "step"}, DataError),
    ],
)
def test_what_can_not_follow_a_step_is_refused(
    changed: Sample, options: dict[str, object], error: type[Exception]
) -> None:
    with pytest.raises(error):
        prepared(network(), [{**s, **changed} for s in samples(8)], **options)


@given(st.lists(st.integers(-5, 50), min_size=2, max_size=40), st.integers(2, 9))
def test_every_sample_is_in_the_bucket_that_its_step_reaches(steps: list[int], most: int) -> None:
    source = InMemory([{"t": np.array([step])} for step in steps])
    if len(set(steps)) < 2:
        with pytest.raises(UsageError):
            buckets_of(source, "t", most)
        return
    buckets = buckets_of(source, "t", most)
    assert 2 <= len(buckets.positions) <= most
    assert list(buckets.bounds) == sorted(set(buckets.bounds))
    for index, positions in enumerate(buckets.positions):
        assert positions
        assert {sum(steps[p] >= bound for bound in buckets.bounds) for p in positions} == {index}
