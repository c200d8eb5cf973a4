"""The table of ops agrees with the ONNX specification and, where it makes promises, with the runtime."""

from __future__ import annotations

import math

import numpy as np
import pytest
from onnx import defs

from qtool.runtime.session import Session
from qtool.tables.ops import ANY, EXACT_ON_CONSTANTS, OPS, Q_MOVES_UP_THROUGH, OpRule, Role
from tests.graphs import model, node

ROWS = [r for r in OPS.values() if "::" not in r.op_type]  # of the ONNX specification
WITH_WEIGHT = [r for r in ROWS if r.weight]
BOUNDED = [r for r in ROWS if r.bounds != ANY]


def by_op(rule: OpRule) -> str:
    return rule.op_type


@pytest.mark.parametrize("name", OPS)
def test_a_rule_is_found_under_its_own_op(name: str) -> None:
    assert OPS[name].op_type == name


@pytest.mark.parametrize(
    "name", [*(r.op_type for r in ROWS), *sorted(EXACT_ON_CONSTANTS), *sorted(Q_MOVES_UP_THROUGH)]
)
def test_every_op_is_a_standard_one(name: str) -> None:
    assert defs.has(name)


@pytest.mark.parametrize("rule", ROWS, ids=by_op)
def test_the_inputs_exist_in_the_specification_and_do_not_overlap(rule: OpRule) -> None:
    named = [*(rule.data or ()), *rule.weight, *([] if rule.bias is None else [rule.bias])]
    assert len(named) == len(set(named)) or (rule.op_type == "Gather" and named == [0, 0])
    assert all(0 <= i < defs.get_schema(rule.op_type).max_input for i in named)


@pytest.mark.parametrize("rule", ROWS, ids=by_op)
def test_only_ops_with_weights_have_fields_of_weights(rule: OpRule) -> None:
    has_weight = rule.role in (Role.WEIGHTED, Role.RECURRENT) or rule.op_type == "Gather"
    assert bool(rule.weight) == has_weight
    assert rule.bias is None or rule.role is Role.WEIGHTED


@pytest.mark.parametrize("rule", [r for r in ROWS if r.role is Role.PASS], ids=by_op)
def test_ops_that_only_move_values_bound_nothing(rule: OpRule) -> None:
    assert rule.bounds == ANY


@pytest.mark.parametrize("rule", BOUNDED, ids=by_op)
def test_the_runtime_keeps_within_the_bounds(rule: OpRule) -> None:
    x = np.array([[-1e30, -50, -3, -0.5, 0, 0.5, 3, 50, 1e30]], np.float32)
    session = Session(model([node(rule.op_type, ["x"], ["y"])], {"x": x.shape}, ["y"]).SerializeToString())
    y = session.run({"x": x})[0]
    lo, hi = rule.bounds
    assert lo < hi
    assert lo <= y.min()
    assert y.max() <= hi
    # The bounds are tight: each finite one is reached.
    assert math.isinf(lo) or y.min() == lo
    assert math.isinf(hi) or y.max() == hi


@pytest.mark.parametrize("rule", WITH_WEIGHT, ids=by_op)
def test_fields_of_weights_are_valid(rule: OpRule) -> None:
    assert rule.storage_min_elements >= 0
    assert isinstance(rule.channel_axis, int)


def test_the_channel_axes_run_over_output_channels() -> None:
    weights = {"Conv": (8, 3, 2, 2), "ConvTranspose": (3, 8, 2, 2), "MatMul": (3, 8), "Gemm": (3, 8)}
    inputs = {"Conv": (1, 3, 4, 4), "ConvTranspose": (1, 3, 4, 4), "MatMul": (2, 3), "Gemm": (2, 3)}
    assert set(weights) == {r.op_type for r in ROWS if r.role is Role.WEIGHTED}
    for op, shape in weights.items():
        proto = model(
            [node(op, ["x", "w"], ["y"])], {"x": inputs[op]}, ["y"], {"w": np.ones(shape, np.float32)}
        )
        (y,) = Session(proto.SerializeToString()).run({"x": np.ones(inputs[op], np.float32)})
        assert y.shape[1] == shape[OPS[op].channel_axis] == 8
