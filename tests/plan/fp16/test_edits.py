"""Weight copies and norm barriers in float16: the plan lists them, and the writer follows the plan."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
import pytest

from qtool.graph.save import to_bytes
from qtool.plan.model import EditKind, GraphEdit, Plan
from qtool.plan.serial import from_json, to_json
from qtool.plan.validate import validate_plan
from qtool.rewrite.write import rewrite
from tests import graphs
from tests.graphs import node
from tests.rewrite.fp16.flow import FLOAT, FLOAT16, Converted, check, close, converted, stored_types
from tests.rewrite.fp16.test_norms import SAMPLES, norm, with_fp16

SHARED = graphs.model(
    [
        node("MatMul", ["x", "w"], ["h"], "first"),
        node("MatMul", ["h", "w"], ["y"], "second"),
    ],
    {"x": (4, 8)},
    ["y"],
    {"w": graphs.weights(8, 8)},
)
ENDS = ("before", "mean", "sub", "div")
NORM_BARRIER = EditKind.NORM_BARRIER


def barriers(made: Converted) -> list[GraphEdit]:
    return [e for e in made.plan.edits if e.kind is NORM_BARRIER]


def written(made: Converted, plan: Plan) -> onnx.ModelProto:
    return onnx.load_from_string(to_bytes(rewrite(made.model.model, plan)))


def test_a_float32_norm_has_its_barrier_after_the_cast() -> None:
    made = converted(norm(), SAMPLES)
    uses = (("mean", 0), ("sub", 0))
    assert barriers(made) == [GraphEdit(NORM_BARRIER, "h", uses)]


def test_a_norm_of_two_types_has_its_barrier_after_the_division() -> None:
    made = with_fp16(norm(), ENDS)
    assert barriers(made) == [GraphEdit(NORM_BARRIER, "normal", None)]


@pytest.mark.parametrize("names", [("before",), ENDS], ids="-".join)
def test_the_writer_follows_the_plan_and_not_the_graph(names: tuple[str, ...]) -> None:
    made = with_fp16(norm(), names)
    assert made.ops["Max"] == 1
    rest = tuple(e for e in made.plan.edits if e.kind is not NORM_BARRIER)
    plan = replace(made.plan, edits=rest)
    assert Counter(n.op_type for n in written(made, plan).graph.node)["Max"] == 0
    assert NORM_BARRIER.value in validate_plan(plan, made.model.view)
    moved = replace(made.plan, edits=(*rest, GraphEdit(NORM_BARRIER, "d", None)))
    assert NORM_BARRIER.value in validate_plan(moved, made.model.view)


def fp16_of(*names: str) -> Converted:
    return converted(SHARED, mode="weight-only", sets=[f"{n}=fp16" for n in names])


def test_a_weight_is_copied_while_a_float32_node_reads_it() -> None:
    one, both = fp16_of("first"), fp16_of("first", "second")
    assert (one.plan.fp16.copied, both.plan.fp16.copied) == ({"w"}, set())
    assert stored_types(one.proto) == {"w": FLOAT, "w_float16": FLOAT16}
    assert stored_types(both.proto) == {"w": FLOAT16}


def test_plans_without_required_copies_are_invalid() -> None:
    one = fp16_of("first")
    plan = replace(one.plan, fp16=replace(one.plan.fp16, copied=frozenset()))
    assert stored_types(written(one, plan)) == {"w": FLOAT16}
    assert "'w'" in validate_plan(plan, one.model.view)
    assert validate_plan(one.plan, one.model.view) == ""


def test_a_copy_is_needed_beside_a_model_output() -> None:
    proto = onnx.ModelProto()
    proto.CopyFrom(SHARED)
    proto.graph.output.append(onnx.helper.make_tensor_value_info("w", FLOAT, (8, 8)))
    made = converted(proto, graphs.samples(2, x=(4, 8)))
    assert made.plan.fp16.copied == {"w"}
    own = converted(proto, graphs.samples(2, x=(4, 8)), io="float16")
    assert (own.plan.fp16.ports, own.plan.fp16.copied) == ({"x", "y", "w"}, set())


def test_the_plan_names_the_ports_that_become_float16() -> None:
    large = [{"x": np.full((4, 8), 6e4, np.float32)}] * 2
    assert converted(SHARED, large, io="float16").plan.fp16.ports == {"y"}, "60000 needs a margin"
    made = converted(SHARED, graphs.samples(2, x=(4, 8)), io="float16")
    assert made.plan.fp16.ports == {"x", "y"}
    partial = replace(made.plan, fp16=replace(made.plan.fp16, ports=frozenset({"y"})))
    proto = written(made, partial)
    types = [v.type.tensor_type.elem_type for v in (*proto.graph.input, *proto.graph.output)]
    assert types == [FLOAT, FLOAT16], "the writer follows the plan"
    unknown = replace(made.plan, fp16=replace(made.plan.fp16, ports=frozenset({"h"})))
    assert "'h'" in validate_plan(unknown, made.model.view)


def test_edits_and_copies_survive_json() -> None:
    for made in (with_fp16(norm(), ENDS), fp16_of("first"), converted(SHARED, io="float16")):
        back = from_json(to_json(made.plan), "plan.json")
        assert back.edits == made.plan.edits
        assert replace(back.fp16, reasons={}) == replace(made.plan.fp16, reasons={})
        assert validate_plan(back, made.model.view) == ""


def test_an_add_in_float16_is_not_taken_into_the_product_before_it() -> None:
    nodes = [node("MatMul", ["x", "w"], ["h"], "product"), node("Add", ["h", "b"], ["y"], "bias")]
    constants = {"w": graphs.weights(256, 256), "b": graphs.weights(256, seed=1)}
    proto = graphs.model(nodes, {"x": (2, 6, 256)}, ["y"], constants)
    samples = graphs.samples(2, x=(2, 6, 256))
    alone = converted(proto, samples, mode="dynamic")
    made = converted(proto, samples, mode="dynamic", sets=["bias=fp16"])
    check(made)
    assert [e.kind for e in alone.plan.edits] == [EditKind.ADDED_BIAS]
    assert (made.fp16_nodes, made.plan.edits) == ({"bias"}, ())
    assert "product" in made.plan.forms
    assert validate_plan(made.plan, made.model.view) == ""
    close(made, samples, 15)
