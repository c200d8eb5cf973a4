"""Integer operators (format qoperator): chosen in the plan, followed by the writer, checked in a plan file."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import onnx
import pytest

from qtool.graph.save import to_bytes
from qtool.plan.candidate import Candidate
from qtool.plan.model import Plan
from qtool.plan.serial import from_json, to_json
from qtool.plan.validate import validate_plan
from qtool.rewrite.write import rewrite
from qtool.tables.qoperators import IntegerOperator
from tests.graphs import node, samples, weights
from tests.plan.build import model
from tests.plan.flow import candidate

CONV3 = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
NET = model(
    [
        node("Conv", ["x", "w0"], ["a"], name="first", **CONV3),
        node("Relu", ["a"], ["r"], name="clamp"),
        node("MaxPool", ["r"], ["p"], name="pool", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["p", "w1"], ["b"], name="second", **CONV3),
        node("Add", ["b", "p"], ["s"], name="sum"),
        node("Conv", ["s", "w2"], ["y"], name="third", **CONV3),
    ],
    {"x": [1, 16, 8, 8]},
    ["y"],
    {f"w{i}": weights(16, 16, 3, 3, seed=i) for i in range(3)},
)


def _settled(format_: str, target: str = "cpu") -> Candidate:
    return candidate(NET, samples(3, x=(1, 16, 8, 8)), target, format=format_)


DONE = _settled("qoperator")


def _ops(plan: Plan) -> Counter[str]:
    proto = onnx.load_from_string(to_bytes(rewrite(DONE.model.model, plan)))
    return Counter(n.op_type for n in proto.graph.node)


@pytest.mark.parametrize("target", ["cpu", "generic"])
def test_the_plan_says_what_each_node_becomes(target: str) -> None:
    contrib = target == "cpu"
    conv = IntegerOperator.QLINEAR_CONV
    wanted = dict.fromkeys(("first", "second", "third"), conv) | {
        "clamp": IntegerOperator.FOLDED,
        "pool": IntegerOperator.MOVE,
    }
    found = _settled("qoperator", target).plan.integer_operators
    assert found == (wanted | {"sum": IntegerOperator.ELEMENTWISE} if contrib else wanted)


def test_format_qdq_has_none() -> None:
    assert _settled("qdq").plan.integer_operators == {}


def test_the_writer_follows_the_plan_and_not_the_graph() -> None:
    """What the plan leaves out stays between DequantizeLinear and QuantizeLinear, though it would fit."""
    fewer = {n: o for n, o in DONE.plan.integer_operators.items() if n != "sum"}
    assert _ops(DONE.plan)["QLinearAdd"] == 1
    found = _ops(replace(DONE.plan, integer_operators=fewer))
    assert (found["QLinearAdd"], found["Add"], found["QLinearConv"]) == (0, 1, 3)


def test_they_survive_json() -> None:
    back = from_json(to_json(DONE.plan), "plan.json")
    assert back.integer_operators == DONE.plan.integer_operators
    assert list(back.integer_operators) == list(DONE.plan.integer_operators)


DAMAGED: dict[str, dict[str, IntegerOperator | None]] = {
    "another operator": {"first": IntegerOperator.MOVE},
    "none": {"pool": None},
    "of a node that is not there": {"nowhere": IntegerOperator.MOVE},
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_what_does_not_fit_the_scales_is_refused(damage: str) -> None:
    assert validate_plan(DONE.plan, DONE.model.view) == ""
    changed = {**DONE.plan.integer_operators, **DAMAGED[damage]}
    plan = replace(DONE.plan, integer_operators={n: o for n, o in changed.items() if o is not None})
    assert f"'{next(iter(DAMAGED[damage]))}'" in validate_plan(plan, DONE.model.view)


def test_the_writer_refuses_an_operator_without_integers() -> None:
    plain = replace(DONE.plan, sites=(), forms={})
    with pytest.raises(KeyError, match="quantized"):
        rewrite(DONE.model.model, plain)


def test_the_plan_names_the_ports_that_become_integers() -> None:
    done = candidate(NET, samples(3, x=(1, 16, 8, 8)), "cpu", io="uint8")
    assert done.plan.integer_ports == ("x", "y")
    assert from_json(to_json(done.plan), "plan.json").integer_ports == ("x", "y")
    assert validate_plan(done.plan, done.model.view) == ""
    assert "'pool'" in validate_plan(replace(done.plan, integer_ports=("pool",)), done.model.view)
    only = onnx.load_from_string(
        to_bytes(rewrite(done.model.model, replace(done.plan, integer_ports=("y",))))
    )
    types = [v.type.tensor_type.elem_type for v in (*only.graph.input, *only.graph.output)]
    assert types == [onnx.TensorProto.FLOAT, onnx.TensorProto.UINT8], "the writer follows the plan"
