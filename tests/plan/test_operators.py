"""The plan chooses the operator of a node, and the writer follows the plan."""

from __future__ import annotations

from dataclasses import replace

import onnx
import pytest

from qtool.graph.save import to_bytes
from qtool.plan.candidate import Candidate
from qtool.plan.model import Dequantizer, EditKind, Kind
from qtool.plan.validate import validate_plan
from qtool.rewrite.write import rewrite
from qtool.tables.forms import Operator
from tests.graphs import node, samples, weights
from tests.plan.build import model
from tests.plan.flow import candidate

# Two products read x, one reads the sum of both.
SHARED = model(
    [
        node("MatMul", ["x", "w0"], ["a"], name="first"),
        node("MatMul", ["x", "w1"], ["b"], name="second"),
        node("Add", ["a", "b"], ["s"]),
        node("MatMul", ["s", "w2"], ["y"], name="alone"),
    ],
    {"x": [4, 256]},
    ["y"],
    {f"w{i}": weights(256, 256, seed=i) for i in range(3)},
)


def _settled(target: str) -> Candidate:
    return candidate(SHARED, samples(2, x=(4, 256)), target, mode="dynamic")


CPU = _settled("cpu")


def _ops(done: Candidate) -> dict[str, int]:
    proto = onnx.load_from_string(to_bytes(rewrite(done.model.model, done.plan)))
    ops = [n.op_type for n in proto.graph.node]
    return {op: ops.count(op) for op in ops}


def test_a_product_that_shares_its_activation_reads_integers() -> None:
    shared, alone = Operator.MATMUL_INTEGER_TO_FLOAT, Operator.DYNAMIC_QUANTIZE_MATMUL
    assert CPU.plan.operators == {"first": shared, "second": shared, "alone": alone}


def test_other_runtimes_get_standard_operators() -> None:
    assert set(_settled("generic").plan.operators.values()) == {Operator.MATMUL_INTEGER}


def test_the_writer_follows_the_plan_and_not_the_graph() -> None:
    """The same model and sites: only the operator in the plan differs."""
    chosen = Operator.DYNAMIC_QUANTIZE_MATMUL
    plan = replace(CPU.plan, operators=dict.fromkeys(CPU.plan.operators, chosen))
    assert validate_plan(plan, CPU.model.view) == ""
    assert _ops(CPU).get("DynamicQuantizeMatMul") == 1
    assert _ops(replace(CPU, plan=plan)).get("DynamicQuantizeMatMul") == 3


@pytest.mark.parametrize("operator", [Operator.CONV_INTEGER, Operator.MATMUL_NBITS, None], ids=str)
def test_an_operator_that_the_form_does_not_have_is_refused(operator: Operator | None) -> None:
    others = {n: o for n, o in CPU.plan.operators.items() if n != "alone"}
    plan = replace(CPU.plan, operators=others if operator is None else {**others, "alone": operator})
    assert "'alone' cannot be written as" in validate_plan(plan, CPU.model.view)


VECTOR = model(
    [node("MatMul", ["x", "w"], ["m"], name="product"), node("Add", ["m", "v"], ["y"], name="shift")],
    {"x": [1, 256]},
    ["y"],
    {"w": weights(256, 1), "v": weights(24, seed=1)},
)


@pytest.mark.parametrize(("target", "sums"), [("generic", ["m"]), ("cpu", [])])
def test_an_add_that_onnxruntime_would_fuse_as_a_bias_becomes_a_sum(target: str, sums: list[str]) -> None:
    done = candidate(VECTOR, samples(2, x=(1, 256)), target, mode="dynamic", include=["product"])
    assert [e.value for e in done.plan.edits if e.kind is EditKind.SUM] == sums


@pytest.mark.parametrize(
    ("target", "bits", "wanted"),
    [
        ("cpu", 8, Dequantizer.CAST_MUL),
        ("cpu", 4, Dequantizer.CAST_MUL),
        ("generic", 8, Dequantizer.OPERATOR),
        ("generic", 4, Dequantizer.OPERATOR),
    ],
)
def test_the_plan_chooses_the_dequantizer_of_a_stored_weight(
    target: str, bits: int, wanted: Dequantizer
) -> None:
    done = candidate(SHARED, samples(2, x=(4, 256)), target, mode="weight-only", bits=bits)
    stored = [s for s in done.plan.sites if s.kind is Kind.STORED]
    assert {s.dequantizer for s in stored} == {wanted}
    assert ("DequantizeLinear" in _ops(done)) == (wanted is Dequantizer.OPERATOR)
    other = next(d for d in Dequantizer if d is not wanted)
    sites = tuple(replace(s, dequantizer=other) for s in done.plan.sites)
    changed = replace(done, plan=replace(done.plan, sites=sites))
    if target == "generic":
        assert "DequantizeLinear" not in _ops(changed), "the writer follows the plan"
