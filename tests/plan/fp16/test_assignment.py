"""The float16 assignment: its nodes, the reasons of the others, and the weights stored in float16."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from qtool.graph.view import View
from qtool.plan.fp16.cast_boundaries import not_worth_casts
from qtool.plan.fp16.ports import is_blind, is_heavy, ports_of
from qtool.plan.model import Fp16Node
from qtool.tables.float16 import EXACT_ARGUMENT, PRECISE, SMALL_TABLE, STORED_MIN_ELEMENTS
from tests import graphs
from tests.graphs import node
from tests.rewrite.fp16.blocks import BLOCKS, network
from tests.rewrite.fp16.flow import FLOAT, FLOAT16, check, close, converted, stored_types
from tests.tiers import examples

SHAPE = (2, 4, 64)
WEIGHTS = {"w": graphs.weights(64, 64), "v": graphs.weights(64, 64, seed=1)}
SAMPLES = graphs.samples(2, x=SHAPE)
F = np.float32
NO_GAIN = "next to float32 nodes: float16 would save no Cast"


def between(
    middle: list[onnx.NodeProto], constants: dict[str, np.ndarray] | None = None, opset: int = 17
) -> onnx.ModelProto:
    """x -> MatMul -> h, the middle from h to m, m -> MatMul -> y."""
    nodes = [node("MatMul", ["x", "w"], ["h"], "first"), *middle, node("MatMul", ["m", "v"], ["y"], "last")]
    return graphs.model(nodes, {"x": SHAPE}, ["y"], {**WEIGHTS, **(constants or {})}, opset=opset)


_AXES = {"axes": np.array([2])}
_SCALE = {"s": np.ones(64, F), "b": np.zeros(64, F)}
_ROWS: dict[str, tuple[list[onnx.NodeProto], dict[str, np.ndarray], int]] = {
    "Erf": ([node("Erf", ["h"], ["m"], "it")], {}, 17),
    "Exp": ([node("Exp", ["h"], ["m"], "it")], {}, 17),
    "Pow": ([node("Pow", ["h", "p"], ["m"], "it")], {"p": F(2)}, 17),
    "Mul/square": ([node("Mul", ["h", "h"], ["m"], "it")], {}, 17),
    "CumSum": ([node("CumSum", ["h", "a"], ["m"], "it")], {"a": np.array(2)}, 17),
    "LayerNormalization": ([node("LayerNormalization", ["h", "s", "b"], ["m"], "it")], _SCALE, 17),
    "RMSNormalization": ([node("RMSNormalization", ["h", "s"], ["m"], "it")], _SCALE, 23),
    "InstanceNormalization": ([node("InstanceNormalization", ["h", "s", "b"], ["m"], "it")], {"s": np.ones(4, F), "b": np.ones(4, F)}, 17),
    "GroupNormalization": ([node("GroupNormalization", ["h", "s", "b"], ["m"], "it", num_groups=2)], {"s": np.ones(4, F), "b": np.ones(4, F)}, 21),
    **{
        op: ([node(op, ["h", "axes"], ["r"], "it"), node("Add", ["h", "r"], ["m"])], _AXES, 18)
        for op in PRECISE if op.startswith("Reduce")
    },
}  # fmt: skip


@pytest.mark.parametrize("op", sorted(_ROWS.keys() - {"GroupNormalization"}))  # whose type onnx can't infer
def test_precise_ops_stay_float32_unless_set(op: str) -> None:
    middle, constants, opset = _ROWS[op]
    proto = between(middle, constants, opset)
    proto.graph.value_info.append(onnx.helper.make_tensor_value_info("m", FLOAT, SHAPE))
    for is_set in (False, True):
        made = converted(proto, sets=["it=fp16"] if is_set else [])
        check(made)
        assert ("it" in made.fp16_nodes) == is_set
        assert made.reasons.get("it", "") == ("" if is_set else PRECISE[op])
        assert {"first", "last"} <= made.fp16_nodes


def test_these_tests_try_every_standard_row_of_the_table() -> None:
    assert {k for k in PRECISE if "::" not in k} == _ROWS.keys()


@pytest.mark.parametrize("op", sorted(EXACT_ARGUMENT - {"Mod"}))
def test_arguments_that_must_be_exact(op: str) -> None:
    """Back to a product of many weights, not of few."""
    middle = [
        node("Add", ["h", "c"], ["a"], "behind"),
        node("MatMul", ["a", "few"], ["f"], "frequencies"),
        node("Abs", ["f"], ["g"], "beside"),
        node(op, ["g"], ["e"], "it"),
        node("MatMul", ["e", "back"], ["m"], "after"),
    ]
    constants = {"c": np.ones(64, F), "few": graphs.weights(64, 4), "back": graphs.weights(4, 64)}
    made = converted(between(middle, constants), SAMPLES)
    check(made)
    assert {"first", "after", "last"} <= made.fp16_nodes
    assert made.reasons["it"] == "its argument must be exact"
    for name in ("behind", "frequencies", "beside"):
        assert made.reasons[name] == f"it computes the argument of {op} 'it', which must be exact"


def test_the_input_of_a_cast_to_integers_is_exact() -> None:
    middle = [
        node("Mul", ["x", "c"], ["a"], "index"),
        node("Cast", ["a"], ["i"], "cast", to=TensorProto.INT64),
        node("Cast", ["i"], ["f"], "back", to=FLOAT),
        node("Add", ["h", "f"], ["m"], "join"),
    ]
    made = converted(between(middle, {"c": F(300)}), SAMPLES)
    check(made)
    assert made.reasons["index"] == "it computes the argument of Cast 'cast', which must be exact"


def test_consumers_of_a_mean_stay_until_other_data_joins() -> None:
    middle = [
        node("ReduceMean", ["h"], ["mean"], "it", axes=[2]),
        node("Neg", ["mean"], ["n"], "alone"),
        node("Add", ["h", "n"], ["d"], "meets"),
        node("Relu", ["d"], ["m"], "after"),
    ]
    made = converted(between(middle), SAMPLES)
    assert made.reasons["alone"] == "it uses 'mean', which is worth float32"
    assert made.reasons["meets"] == "it uses 'n', which is worth float32"
    assert made.reasons["after"] == NO_GAIN


@pytest.mark.parametrize(("rows", "is_float16"), [(64, False), (2000, True)])
def test_large_tables_are_float16(rows: int, is_float16: bool) -> None:
    middle = [
        node("ArgMax", ["x"], ["i"], axis=2, keepdims=0),
        node("Gather", ["table", "i"], ["g"], "it"),
        node("Add", ["h", "g"], ["m"], "join"),
    ]
    made = converted(between(middle, {"table": graphs.weights(rows, 64, seed=9)}), SAMPLES)
    check(made)
    assert ("it" in made.fp16_nodes) == is_float16
    assert is_float16 or made.reasons["it"] == SMALL_TABLE
    assert stored_types(made.proto)["table"] == (FLOAT16 if is_float16 else FLOAT)
    close(made, SAMPLES)


def test_excluded_nodes_stay_with_their_weights() -> None:
    made = converted(between([node("Relu", ["h"], ["m"], "relu")]), SAMPLES, exclude=["last"])
    check(made)
    assert made.reasons["last"] == "excluded by 'last'"
    assert stored_types(made.proto) == {"w": FLOAT16, "v": FLOAT}


@pytest.mark.parametrize("mode", ["weight-only", "dynamic"])
def test_in_other_modes_only_set_nodes_are_float16(mode: str) -> None:
    made = converted(between([node("Relu", ["h"], ["m"], "relu")]), SAMPLES, mode=mode, sets=["relu=fp16"])
    check(made)
    assert made.fp16_nodes == {"relu"}


def test_nodes_next_to_quantizers_stay_float32() -> None:
    middle = [
        node("QuantizeLinear", ["h", "s", "z"], ["q"]),
        node("DequantizeLinear", ["q", "s", "z"], ["m"]),
    ]
    made = converted(between(middle, {"s": F(0.01), "z": np.uint8(128)}), SAMPLES)
    check(made)
    assert not made.fp16_nodes
    assert made.reasons["first"].startswith("next to a QuantizeLinear")


# Weights of float32 nodes: (nodes from x to y, the weight c, whether it is float16 in the file).
_LARGE = (64, 64)
STORED = {
    "norm": ([node("InstanceNormalization", ["x", "c", "b"], ["y"])], (2048,), True),
    "small": ([node("InstanceNormalization", ["x", "c", "b"], ["y"])], (STORED_MIN_ELEMENTS - 1,), False),
    "sine": ([node("Sin", ["c"], ["s"]), node("Add", ["x", "s"], ["y"])], _LARGE, False),
    "argument": ([node("Mul", ["x", "c"], ["a"]), node("Cos", ["a"], ["y"])], _LARGE, False),
    "coordinates": ([node("GridSample", ["x", "c"], ["y"])], (1, 32, 32, 2), False),
    "quantizer": ([node("QuantizeLinear", ["c", "one"], ["q"]), node("DequantizeLinear", ["q", "one"], ["d"]), node("Add", ["x", "d"], ["y"])], _LARGE, False),
}  # fmt: skip


@pytest.mark.parametrize("case", STORED)
def test_weights_of_float32_nodes(case: str) -> None:
    """A model without a float16 node may still store weights in float16, unless they must be exact."""
    nodes, shape, is_float16 = STORED[case]
    image = {"norm": (1, 2048, 3), "small": (1, STORED_MIN_ELEMENTS - 1, 3), "coordinates": (1, 2, 8, 8)}
    weight = (graphs.weights(*shape) * 5).astype(F)
    constants = {"c": weight, "b": np.zeros(shape[0], F), "one": F(0.1)}
    read = {name for n in nodes for name in n.input}
    constants = {k: v for k, v in constants.items() if k in read}
    proto = graphs.model(nodes, {"x": image.get(case, (64, 64))}, ["y"], constants)
    samples = graphs.samples(2, x=image.get(case, (64, 64)))
    made = converted(proto, samples, exclude=[])
    check(made)
    assert close(made, samples) > 60
    large = {t for n, t in stored_types(made.proto).items() if n.startswith("c")}
    assert large <= {FLOAT16 if is_float16 else FLOAT}
    assert bool(made.plan.fp16.stored) == is_float16


def casts(view: View, float16_sites: dict[str, Fp16Node], own: set[str]) -> int:
    """Count the Casts of an assignment, value by value."""
    total = 0
    for name, value in view.values.items():
        if value.dtype != 1 or (value.is_initializer() and not value.is_graph_input()):
            continue
        producer = value.producer()
        made = (
            name in own
            if producer is None
            else value.index() in float16_sites.get(producer.name or "", Fp16Node((), ())).outputs
        )
        wants = {name in own} if value.is_graph_output() else set()
        for use in value.uses():
            read = use.idx in float16_sites.get(use.node.name or "", Fp16Node((), ())).inputs
            if read or not is_blind(use.node, use.idx):
                wants.add(read)
        total += (not made) in wants
    return total


@settings(max_examples=examples(30), deadline=None)
@given(
    st.lists(st.sampled_from(sorted(BLOCKS)), min_size=1, max_size=5),
    st.integers(0, 99),
    st.booleans(),
    st.data(),
)
def test_every_node_that_saves_a_cast_leaves_float16_and_no_other(
    blocks: list[str], seed: int, io: bool, data: st.DataObject
) -> None:
    view = converted(network(blocks, seed)).model.view
    able = {n.name or "": p for n in view.nodes if isinstance(p := ports_of(n, 17), Fp16Node)}
    sites = {n: able[n] for n in sorted(able) if data.draw(st.booleans())}
    forced = {n for n in sites if data.draw(st.integers(0, 3)) == 0}
    own = {"x", "y"} if io else set()
    left = not_worth_casts(view, sites, own, forced)
    after = {n: p for n, p in sites.items() if n not in left}
    assert len(set(left)) == len(left)
    assert not forced & set(left)
    assert not [n for n in left if is_heavy(view.node_by_name[n])]
    assert casts(view, after, own) <= casts(view, sites, own)
    for name in after.keys() - forced:  # and none that is left would save one by leaving
        if not is_heavy(view.node_by_name[name]):
            rest = {n: p for n, p in after.items() if n != name}
            assert casts(view, rest, own) >= casts(view, after, own), name


def test_a_cast_is_directly_before_the_product() -> None:
    nodes = [
        node("Relu", ["x"], ["a"], "leads"),
        node("MatMul", ["a", "w"], ["h"], "product"),
        node("Relu", ["h"], ["y"], "follows"),
    ]
    made = converted(graphs.model(nodes, {"x": SHAPE}, ["y"], {"w": WEIGHTS["w"]}), SAMPLES)
    check(made)
    assert made.fp16_nodes == {"product", "follows"}
    assert made.reasons == {"leads": NO_GAIN}
    assert made.ops["Cast"] == 2
    own = converted(made.original, SAMPLES, io="float16")
    assert own.fp16_nodes == {"leads", "product", "follows"}
    assert own.ops["Cast"] == 0
