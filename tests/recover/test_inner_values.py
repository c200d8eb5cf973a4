"""Walks through a model part by part: the values are those of the whole model, with all changes so far."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from qtool.errors import RuntimeFailure
from qtool.recover.inner_values import Walk
from qtool.rewrite.simulate.simulated import simulated
from tests.graphs import node, samples, weights
from tests.plan.build import model
from tests.plan.flow import Sample, candidate, ready
from tests.recover.oracle import made, proto_of, values_of
from tests.rewrite.flow import sqnr
from tests.rewrite.zoo import CASES, Case
from tests.tiers import examples, sample


def loop() -> onnx.ModelProto:
    """A Loop whose body reads a value and a weight from outside, between two products."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["goes"], name="goes"),
            helper.make_node("MatMul", ["state", "w1"], ["product"], name="inner"),
            helper.make_node("Add", ["product", "h"], ["next"], name="sum"),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("goes", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, None),
        ],
    )
    return model(
        [
            node("MatMul", ["x", "w0"], ["h"]),
            node("Relu", ["h"], ["r"]),
            node("Loop", ["turns", "", "r"], ["l"], body=body),
            node("MatMul", ["l", "w2"], ["y"]),
        ],
        {"x": ["N", 16]},
        ["y"],
        {"w0": weights(16, 16), "w1": weights(16, 16, seed=1), "w2": weights(16, 8, seed=2), "turns": np.array(3)},
    )  # fmt: skip


def sizes(*leading: int) -> list[Sample]:
    """Samples with different numbers of rows."""
    return [samples(1, seed=n, x=(n, 32))[0] for n in leading]


WALKED = {**CASES, "loop": Case(loop, lambda: samples(3, x=(4, 16)))}


def close(a: np.ndarray, b: np.ndarray) -> None:
    assert a.shape == b.shape and a.dtype == b.dtype
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def walked(prepared: ir.Model, stops: Sequence[str], inputs: Sequence[Sample]) -> dict[str, list[np.ndarray]]:
    walk = Walk(prepared, [dict(s) for s in inputs], threads=1)
    return {name: [a.copy() for a in arrays] for name, arrays in walk.to(stops)}


@pytest.mark.parametrize("case", [*sample(tuple(CASES), 4), "if-weights", "loop"])
def test_every_stop_is_as_in_the_whole_model(case: str) -> None:
    prepared, inputs = ready(WALKED[case].build()).model, WALKED[case].samples()
    stops = made(prepared)
    wanted = values_of(prepared, stops, inputs)
    actual = walked(prepared, stops, inputs)
    assert list(actual) == stops
    for name, arrays in actual.items():
        for array, values in zip(arrays, wanted, strict=True):
            close(array, values[name])


@pytest.mark.parametrize("case", ["residual", "transformer", "if-weights", "loop", "output-feeds-on"])
def test_the_last_stop_alone_is_as_in_the_whole_model(case: str) -> None:
    prepared, inputs = ready(WALKED[case].build()).model, WALKED[case].samples()
    last = made(prepared)[-1]
    (arrays,) = walked(prepared, [last], inputs).values()
    for array, values in zip(arrays, values_of(prepared, [last], inputs), strict=True):
        close(array, values[last])


def test_samples_may_be_of_different_sizes() -> None:
    prepared, inputs = ready(CASES["mlp-matmul"].build()).model, sizes(1, 5, 2)
    stops = made(prepared)
    wanted = values_of(prepared, stops, inputs)
    for name, arrays in walked(prepared, stops, inputs).items():
        assert [len(a) for a in arrays] == [1, 5, 2]
        for array, values in zip(arrays, wanted, strict=True):
            close(array, values[name])


def shifted(prepared: ir.Model, name: str, by: float) -> onnx.ModelProto:
    """The model in which a value is made so much greater."""
    proto = proto_of(prepared)
    index, producer = next((i, n) for i, n in enumerate(proto.graph.node) if name in n.output)
    producer.output[list(producer.output).index(name)] = "raw"
    proto.graph.node.insert(index + 1, helper.make_node("Add", ["raw", "by"], [name], name="shift"))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array(by, np.float32), "by"))
    return proto


CHANGED = [
    ("residual", 0), ("residual", 3), ("transformer", 4), ("if-weights", 0), ("loop", 0), ("loop", 1),
    ("output-feeds-on", 0), ("silu", 0), ("float-between", 1),
]  # fmt: skip


@pytest.mark.parametrize(("case", "position"), CHANGED)
def test_a_change_to_an_array_reaches_all_later_values(case: str, position: int) -> None:
    prepared, inputs = ready(WALKED[case].build()).model, WALKED[case].samples()
    stops = made(prepared)
    changed = stops[position]
    wanted = values_of(shifted(prepared, changed, 0.5), stops, inputs)
    for name, arrays in Walk(prepared, [dict(s) for s in inputs], threads=1).to(stops):
        if name == changed:
            for array in arrays:
                array += np.float32(0.5)
        for array, values in zip(arrays, wanted, strict=True):
            close(array, values[name])


@settings(max_examples=examples(15), deadline=None)
@given(st.sets(st.integers(0, 7), min_size=1), st.integers(0, 7))
def test_the_choice_of_stops_changes_no_value(places: set[int], position: int) -> None:
    prepared, inputs = ready(CASES["residual"].build()).model, CASES["residual"].samples()[:2]
    names = made(prepared)
    changed = names[position % len(names)]
    stops = {names[p % len(names)] for p in places} | {changed, names[-1]}
    wanted = values_of(shifted(prepared, changed, -0.25), [names[-1]], inputs)
    for name, arrays in Walk(prepared, [dict(s) for s in inputs], threads=1).to(stops):
        if name == changed:
            for array in arrays:
                array -= np.float32(0.25)
        if name == names[-1]:
            for array, values in zip(arrays, wanted, strict=True):
                close(array, values[name])


@pytest.mark.parametrize(("case", "constant"), [("residual", "w2"), ("transformer", "wf"), ("loop", "w1")])
def test_changes_of_constants_ahead_take_effect(case: str, constant: str) -> None:
    prepared, inputs = ready(WALKED[case].build()).model, WALKED[case].samples()
    stops = made(prepared)
    other = prepared.clone()
    new = other.graph.initializers[constant].const_value.numpy() * 2  # type: ignore[union-attr]
    other.graph.initializers[constant].const_value = ir.tensor(new, name=constant)
    wanted = values_of(other, stops, inputs)
    for number, (name, arrays) in enumerate(Walk(prepared, [dict(s) for s in inputs], 1).to(stops)):
        if number == 0:
            prepared.graph.initializers[constant].const_value = ir.tensor(new, name=constant)
        for array, values in zip(arrays, wanted, strict=True):
            close(array, values[name])


def test_a_walk_continues_where_it_stopped() -> None:
    prepared, inputs = ready(CASES["residual"].build()).model, CASES["residual"].samples()
    stops = made(prepared)
    walk = Walk(prepared, [dict(s) for s in inputs], threads=1)
    wanted = values_of(prepared, stops, inputs)
    assert [name for name, _ in walk.to(stops[:2])] == stops[:2]
    for name, arrays in walk.to(stops[3:]):
        for array, values in zip(arrays, wanted, strict=True):
            close(array, values[name])


def test_values_without_later_consumers_are_dropped() -> None:
    prepared, inputs = ready(CASES["transformer"].build()).model, CASES["transformer"].samples()
    walk = Walk(prepared, [dict(s) for s in inputs], threads=1)
    stops = made(prepared)
    for _ in walk.to(stops):
        assert len(walk.live[0]) <= 6
    assert "x" not in walk.live[0]


def test_values_that_no_node_produces_are_skipped() -> None:
    prepared, inputs = ready(CASES["residual"].build()).model, CASES["residual"].samples()
    assert walked(prepared, ["x", "w0", "no such value"], inputs) == {}


def test_a_sample_that_the_model_fails_on_is_a_runtime_failure() -> None:
    prepared = ready(CASES["mlp-matmul"].build()).model
    with pytest.raises(RuntimeFailure):
        walked(prepared, [made(prepared)[-1]], [{"x": np.ones((2, 7), np.float32)}])


@pytest.mark.parametrize("case", ["residual", "mlp-gemm", "float-between"])
def test_the_runtime_rounds_no_weights(case: str) -> None:
    """It would, of float products between Q and DQ: those of a simulated model are just that."""
    done = candidate(CASES[case].build(), CASES[case].samples())
    model, inputs = simulated(done.model.model, done.plan), CASES[case].samples()
    (name,) = (v.name or "" for v in done.model.model.graph.outputs)
    actual = [{name: array} for array in walked(model, [name], inputs)[name]]
    floats, wanted = (values_of(m, [name], inputs) for m in (done.model.model, model))
    assert sqnr(wanted, actual) > sqnr(floats, wanted) + 6
