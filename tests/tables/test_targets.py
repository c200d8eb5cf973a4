"""The table of targets names only what exists, and gives a reason for every refusal."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from qtool.plan.variants import variant
from qtool.tables.ops import OPS
from qtool.tables.qtypes import INT8_PAIRED, QTYPES
from qtool.tables.targets import TARGETS, Placement, Placements, Target, Worth
from tests.graphs import model, node, weights

PLACEMENTS = [
    pytest.param(placements, key, id=f"{target.name}-{form.value}-{key}")
    for target in TARGETS.values()
    for form, placements in target.forms.items()
    for key in placements.rows
]
TABLES = [
    pytest.param(placements, id=f"{target.name}-{form.value}")
    for target in TARGETS.values()
    for form, placements in target.forms.items()
]
EXAMPLES = {
    "Conv/stem": ([node("Conv", ["x", "w"], ["y"])], {"x": (1, 3, 8, 8)}, {"w": weights(8, 3, 3, 3)}),
    "Conv/depthwise": (
        [node("Conv", ["x", "w"], ["y"], group=4)],
        {"x": (1, 4, 8, 8)},
        {"w": weights(4, 1, 3, 3)},
    ),
    "Conv/grouped": (
        [node("Conv", ["x", "w"], ["y"], group=2)],
        {"x": (1, 8, 8, 8)},
        {"w": weights(4, 4, 3, 3)},
    ),
    "Add/residual": (
        [node("Conv", ["x", "w"], ["c"]), node("Relu", ["c"], ["r"]), node("Add", ["r", "z"], ["y"])],
        {"x": (1, 4, 8, 8), "z": (1, 4, 6, 6)},
        {"w": weights(4, 4, 3, 3)},
    ),
    "MatMul/activations": (
        [node("Sigmoid", ["z"], ["s"]), node("MatMul", ["x", "s"], ["y"])],
        {"x": (2, 3), "z": (3, 2)},
        {},
    ),
    "MatMul/fed": ([node("MatMul", ["x", "z"], ["y"])], {"x": (2, 3), "z": (3, 2)}, {}),
    "Mul/square": ([node("Mul", ["x", "x"], ["y"])], {"x": (2, 3)}, {}),
    "Mul/silu": (
        [node("Sigmoid", ["x"], ["s"]), node("Mul", ["x", "s"], ["y"])],
        {"x": (2, 3)},
        {},
    ),
}


@pytest.mark.parametrize("name", TARGETS)
def test_targets_have_their_names_and_a_description(name: str) -> None:
    assert TARGETS[name].name == name
    assert TARGETS[name].summary


@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda t: t.name)
def test_the_types_of_a_target_are_in_the_table(target: Target) -> None:
    for qtype in (target.activation, target.weight):
        assert QTYPES[qtype.name] is qtype
    assert all(p.min_weight >= 0 and p.min_vector_weight >= 0 for p in target.forms.values())


@pytest.mark.parametrize(("target", "key"), PLACEMENTS)
def test_a_placement_names_an_op_of_the_table(target: Placements, key: str) -> None:
    assert key.split("/")[0] in OPS
    assert key.count("/") <= 1


@pytest.mark.parametrize("key", sorted({p.values[1] for p in PLACEMENTS if "/" in p.values[1]}))
def test_variants_are_those_of_nodes(key: str) -> None:
    nodes, inputs, constants = EXAMPLES[key]
    graph = ir.from_proto(model(nodes, inputs, ["y"], constants)).graph
    assert f"{graph[-1].op_type}/{variant(graph[-1])}" == key


@pytest.mark.parametrize(("target", "key"), PLACEMENTS)
def test_targets_answer_by_their_rows(target: Placements, key: str) -> None:
    op, _, form = key.partition("/")
    assert target.of(op, form) is target.rows[key]


@pytest.mark.parametrize("placements", TABLES)
def test_an_unknown_variant_falls_back_to_its_op_and_an_unknown_op_to_otherwise(
    placements: Placements,
) -> None:
    assert placements.of("NoSuchOp") is placements.otherwise
    for op in placements.rows:
        if "/" not in op:
            assert placements.of(op, "no-such-variant") is placements.rows[op]


@pytest.mark.parametrize("placements", TABLES)
def test_placements_other_than_always_have_a_reason(placements: Placements) -> None:
    rows: list[Placement] = [placements.otherwise, *placements.rows.values()]
    assert all(row.reason.detail for row in rows if row.worth is not Worth.ALWAYS)
    assert all(not row.reason.detail for row in rows if row.worth is Worth.ALWAYS)


def test_the_target_without_vnni_takes_weights_whose_sums_do_not_saturate() -> None:
    assert TARGETS["cpu-avx2"].weight is INT8_PAIRED
