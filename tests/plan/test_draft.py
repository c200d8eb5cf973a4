"""Rule-based drafts of small graphs: the quantized nodes, their sites and the shared scales."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from qtool.plan.model import Kind, Plan
from qtool.tables.forms import Form
from qtool.tables.targets import TARGETS, Worth
from tests.graphs import node, weights
from tests.plan.build import model
from tests.plan.flow import drafted, ready, reasons, rules_plan, sites
from tests.targets import COMMON

CONV3 = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
W = {f"w{i}": weights(16, 16, 3, 3, seed=i) for i in range(4)}
CLAMP = {"zero": np.float32(0), "six": np.float32(6)}
# cpu-avx2 has the placements of cpu.
TESTED = ("cpu", "generic")

IMAGE = {"x": [1, 16, 8, 8]}


def conv(source: str, result: str, weight: int = 0, **attributes: object) -> onnx.NodeProto:
    return node("Conv", [source, f"w{weight}"], [result], name=result, **{**CONV3, **attributes})


def chain(*middle: onnx.NodeProto, last: str, **constants: np.ndarray) -> onnx.ModelProto:
    """conv `a`, the nodes in the middle, and a conv `z` that reads `last`."""
    return model([conv("x", "a"), *middle, conv(last, "z", 1)], IMAGE, ["z"], {**W, **CLAMP, **constants})


def activations(plan: Plan) -> set[str]:
    return set(sites(plan, Kind.ACTIVATION))


@pytest.mark.parametrize("target", TESTED)
@pytest.mark.parametrize(
    "clamp",
    [node("Relu", ["a"], ["r"], name="r"), node("Clip", ["a", "zero", "six"], ["r"], name="r")],
    ids=lambda n: n.op_type,
)
def test_conv_and_clamp_are_one_site_behind_the_clamp(target: str, clamp: onnx.NodeProto) -> None:
    plan = drafted(chain(clamp, last="r"), target)
    assert activations(plan) == {"x", "r", "z"}
    assert set(plan.forms) == {"a", "r", "z"}


@pytest.mark.parametrize("reader", ["graph output", "float op", "int8 op and float op"])
def test_conv_and_clamp_are_one_site_for_every_consumer(reader: str) -> None:
    """A Q before the Relu would spend half its steps on negative values."""
    nodes = [conv("x", "a"), node("Relu", ["a"], ["r"], name="r")]
    outputs = ["r"]
    if "float op" in reader:
        nodes.append(node("Softmax", ["r"], ["s"], name="s"))
        outputs = ["s"]
    if "int8 op" in reader:
        nodes.append(conv("r", "z", 1))
        outputs.append("z")
    plan = drafted(model(nodes, IMAGE, outputs, W))
    assert "a" not in activations(plan)


@pytest.mark.parametrize("target", TESTED)
def test_relu6_is_bounded_by_0_and_6(target: str) -> None:
    plan = drafted(chain(node("Clip", ["a", "zero", "six"], ["r"], name="r"), last="r"), target)
    assert sites(plan, Kind.ACTIVATION)["r"].bounds == (0, 6)


@pytest.mark.parametrize(
    ("bounds", "wanted"),
    [(["zero", ""], (0, np.inf)), (["", "six"], (-np.inf, 6)), (["", ""], (-np.inf, np.inf))],
    ids=["lower", "upper", "neither"],
)
def test_a_clip_of_one_side_bounds_that_side(bounds: list[str], wanted: tuple[float, float]) -> None:
    while bounds and not bounds[-1]:
        bounds = bounds[:-1]
    plan = drafted(chain(node("Clip", ["a", *bounds], ["r"], name="r"), last="r"))
    assert sites(plan, Kind.ACTIVATION)["r"].bounds == wanted


@pytest.mark.parametrize("target", TESTED)
def test_a_residual_add_runs_in_int8_with_its_own_scale(target: str) -> None:
    add = [conv("a", "b", 2), node("Add", ["a", "b"], ["s"], name="s")]
    plan = drafted(chain(*add, last="s"), target)
    assert set(plan.forms) == {"a", "b", "s", "z"}
    activation_sites = sites(plan, Kind.ACTIVATION)
    assert set(activation_sites) == {"x", "a", "b", "s", "z"}
    assert len({s.group for s in activation_sites.values()}) == len(activation_sites)


PASSES = {
    "MaxPool": [node("MaxPool", ["a"], ["p"], kernel_shape=[2, 2])],
    "Transpose": [node("Transpose", ["a"], ["p"], perm=[0, 1, 3, 2])],
    "Reshape": [node("Reshape", ["a", "same"], ["p"])],
    "Concat": [conv("x", "b", 2), node("Concat", ["a", "b"], ["ab"], axis=2), node("Slice", ["ab", "i0", "i8", "i2"], ["p"])],
    "Split": [node("Split", ["a"], ["l", "m"], axis=2), node("Concat", ["m", "l"], ["p"], axis=2)],
    "Unsqueeze": [node("Unsqueeze", ["a", "i0"], ["u"]), node("Squeeze", ["u", "i0"], ["p"])],
    "Expand": [node("Expand", ["a", "same"], ["p"])],
}  # fmt: skip
MOVED = {"same": np.array([1, 16, 8, 8]), "i0": np.array([0]), "i8": np.array([8]), "i2": np.array([2])}


@pytest.mark.parametrize("target", TESTED)
@pytest.mark.parametrize("op", PASSES)
def test_pass_through_ops_share_one_scale_with_what_they_move(target: str, op: str) -> None:
    job = ready(chain(*PASSES[op], last="p", **MOVED), target)
    activation_sites = sites(rules_plan(job), Kind.ACTIVATION)
    moved = {v for n in PASSES[op] if n.op_type != "Conv" for v in (*n.input, *n.output)} - MOVED.keys()
    moved &= set(job.view.values)  # a reshape there and back is dropped beforehand
    assert moved <= set(activation_sites)
    assert len({activation_sites[v].group for v in moved}) == 1
    assert {activation_sites["x"].group, activation_sites["z"].group}.isdisjoint(
        {activation_sites[v].group for v in moved}
    )


@pytest.mark.parametrize("target", TESTED)
def test_pass_through_of_integers_is_not_listed(target: str) -> None:
    """Shape arithmetic moves int64 about with the same ops."""
    nodes = [
        node("Shape", ["x"], ["shape"]),
        node("Slice", ["shape", "i0", "i2"], ["head"]),
        node("Concat", ["head", "rest"], ["new"], axis=0),
        conv("x", "a"),
        node("Reshape", ["a", "new"], ["y"]),
    ]
    plan = drafted(model(nodes, IMAGE, ["y"], {**W, **MOVED, "rest": np.array([-1])}), target)
    assert {"Slice_head", "Concat_new", "Shape_shape"}.isdisjoint(plan.forms.keys() | reasons(plan).keys())


def linear(op: str) -> onnx.ModelProto:
    made = {
        "MatMul": [node("MatMul", ["x", "w"], ["y"], name="linear")],
        "MatMul+Add": [node("MatMul", ["x", "w"], ["m"], name="linear"), node("Add", ["m", "b"], ["y"])],
        "Gemm": [node("Gemm", ["x", "w", "b"], ["y"], name="linear")],
    }
    constants = {"w": weights(32, 32), "b": weights(32, seed=1)}
    used = {i for n in made[op] for i in n.input}
    return model(made[op], {"x": [4, 32]}, ["y"], {k: v for k, v in constants.items() if k in used})


@pytest.mark.parametrize("op", ["MatMul", "MatMul+Add", "Gemm"])
def test_linears_quantize_their_input_only(op: str) -> None:
    plan = drafted(linear(op))
    assert activations(plan) == {"x"}
    bias_add = {"Add_y": Form.INT8} if op == "MatMul+Add" else {}
    assert plan.forms == {"linear": Form.INT8} | bias_add


@pytest.mark.parametrize("op", ["MatMul", "MatMul+Add", "Gemm"])
def test_generic_linears_quantize_their_output_too(op: str) -> None:
    plan = drafted(linear(op), "generic")
    assert {"x", "m" if op == "MatMul+Add" else "y"} <= activations(plan)


@pytest.mark.parametrize("target", COMMON)
def test_types_are_those_of_the_target(target: str) -> None:
    plan = drafted(linear("Gemm"), target)
    row = TARGETS[target]
    assert {s.spec.qtype for s in plan.sites if s.kind is Kind.ACTIVATION} == {row.activation}
    assert {s.spec.qtype for s in plan.sites if s.kind is Kind.WEIGHT} == {row.weight}
    assert all(s.spec.symmetric for s in plan.sites if s.kind is not Kind.ACTIVATION)


DEPTHWISE = {"wd": weights(16, 1, 3, 3)}


def depthwise(source: str) -> onnx.NodeProto:
    return node("Conv", [source, "wd"], ["d"], name="depthwise", group=16, **CONV3)


def test_depthwise_is_int8_between_int8_ops() -> None:
    plan = drafted(chain(depthwise("a"), last="d", **DEPTHWISE))
    assert "depthwise" in plan.forms


def test_depthwise_alone_stays_float_with_a_reason() -> None:
    nodes = [node("Sin", ["x"], ["s"]), depthwise("s"), node("Cos", ["d"], ["y"])]
    plan = drafted(model(nodes, IMAGE, ["y"], DEPTHWISE))
    assert not plan.forms
    assert "isolated" in reasons(plan)["depthwise"]


FLOAT_ON_CPU = {
    "stem": ([node("Conv", ["x3", "ws"], ["y"], name="n", **CONV3)], {"x3": [1, 3, 8, 8]}, {"ws": weights(16, 3, 3, 3)}),
    "grouped": ([conv("x", "a"), node("Conv", ["a", "wg"], ["y"], name="n", group=4, **CONV3)], IMAGE, {"wg": weights(16, 4, 3, 3)}),
    "activation MatMul": ([conv("x", "a"), conv("x", "b", 1), node("MatMul", ["a", "b"], ["y"], name="n")], IMAGE, {}),
    "Softmax": ([conv("x", "a"), node("Softmax", ["a"], ["s"], name="n"), conv("s", "y", 1)], IMAGE, {}),
    "AveragePool": ([conv("x", "a"), node("AveragePool", ["a"], ["p"], name="n", kernel_shape=[2, 2]), conv("p", "y", 1)], IMAGE, {}),
    "Mul": ([conv("x", "a"), conv("x", "b", 1), node("Mul", ["a", "b"], ["m"], name="n"), conv("m", "y", 2)], IMAGE, {}),
    "ConvTranspose": ([conv("x", "a"), node("ConvTranspose", ["a", "wt"], ["y"], name="n")], IMAGE, {"wt": weights(16, 16, 2, 2)}),
    "GRU": ([node("GRU", ["s", "W", "R"], ["", "y"], name="n", hidden_size=16)], {"s": [5, 1, 16]}, {"W": weights(1, 48, 16), "R": weights(1, 48, 16)}),
}  # fmt: skip


def float_on_cpu(case: str) -> onnx.ModelProto:
    nodes, inputs, constants = FLOAT_ON_CPU[case]
    used = {i for n in nodes for i in n.input}
    return model(nodes, inputs, ["y"], {k: v for k, v in {**W, **constants}.items() if k in used})


@pytest.mark.parametrize("case", FLOAT_ON_CPU)
def test_nodes_slower_in_int8_stay_float_with_a_reason(case: str) -> None:
    plan = drafted(float_on_cpu(case))
    assert "n" not in plan.forms
    assert len(reasons(plan)["n"]) > 10


@pytest.mark.parametrize("case", [c for c in FLOAT_ON_CPU if c != "GRU"])
def test_generic_quantizes_them(case: str) -> None:
    plan = drafted(float_on_cpu(case), "generic")
    assert "n" in plan.forms
    assert not plan.skips


@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("target", TESTED)
def test_recurrent_layers_are_dynamic_or_float_and_stored(target: str, op: str) -> None:
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[op]
    constants = {"W": weights(1, gates * 48, 32), "R": weights(1, gates * 48, 48, seed=1)}
    plan = drafted(
        model([node(op, ["x", "W", "R"], ["", "y"], name="n", hidden_size=48)], {"x": [5, 1, 32]}, ["y"], constants),
        target,
    )  # fmt: skip
    if op == "LSTM" and TARGETS[target].onnxruntime:
        assert plan.forms == {"n": Form.DYNAMIC}
        assert {s.kind for s in plan.sites} == {Kind.FUSED}
    else:
        assert not plan.forms
        assert reasons(plan)["n"]
        assert {s.kind for s in plan.sites} == {Kind.STORED}


def test_attention_products_stay_float_and_their_linears_do_not() -> None:
    nodes = [node("MatMul", ["x", f"w{k}"], [k], name=k) for k in "qkv"]
    nodes += [
        node("Transpose", ["k"], ["kt"], perm=[0, 2, 1], name="t"),
        node("MatMul", ["q", "kt"], ["s"], name="scores"),
        node("Softmax", ["s"], ["p"], name="softmax"),
        node("MatMul", ["p", "v"], ["y"], name="mixed"),
    ]
    constants = {f"w{k}": weights(32, 32, seed=i) for i, k in enumerate("qkv")}
    plan = drafted(model(nodes, {"x": [1, 6, 32]}, ["y"], constants), "cpu")
    assert set(plan.forms) == {"q", "k", "v"}
    assert {"scores", "softmax", "mixed", "t"} <= reasons(plan).keys()
    assert activations(plan) == {"x"}, "the three read one quantized input"


@pytest.mark.parametrize("target", TESTED)
def test_an_integer_output_is_not_quantized(target: str) -> None:
    """MaxPool's Indices are int64 addresses, not values to quantize."""
    nodes = [
        conv("x", "a"),
        node("MaxPool", ["a"], ["p", "indices"], kernel_shape=[2, 2]),
        conv("p", "z", 1),
    ]
    plan = drafted(model(nodes, IMAGE, ["z", "indices"], W), target)
    assert "indices" not in activations(plan)


@pytest.mark.parametrize("target", TESTED)
def test_a_gemm_bias_over_rows_is_not_a_channel_bias(target: str) -> None:
    """C [M, 1] has as many values as there are channels when M = N, and means something else."""
    nodes = [node("Gemm", ["x", "w", "c"], ["y"], name="n")]
    plan = drafted(model(nodes, {"x": [32, 24]}, ["y"], {"w": weights(24, 32), "c": weights(32, 1)}), target)
    assert not sites(plan, Kind.BIAS)


def test_generic_does_not_round_a_divisor() -> None:
    """A divisor below half a step becomes 0, and the quotient infinite."""
    nodes = [conv("x", "a"), node("Relu", ["n"], ["d"]), node("Div", ["a", "d"], ["y"], name="div")]
    plan = drafted(model(nodes, IMAGE | {"n": [1, 16, 8, 8]}, ["y"], W), "generic")
    assert "d" not in activations(plan)


@pytest.mark.parametrize("target", COMMON)
def test_every_op_of_a_target_s_table_is_in_the_op_table(target: str) -> None:
    from qtool.tables.ops import OPS

    for placements in TARGETS[target].forms.values():
        assert {key.split("/")[0] for key in placements.rows} <= OPS.keys()


@pytest.mark.parametrize("target", COMMON)
def test_placements_that_may_stay_float_have_a_reason(target: str) -> None:
    for table in TARGETS[target].forms.values():
        rows = [table.otherwise, *table.rows.values()]
        assert all(p.reason.detail for p in rows if p.worth is not Worth.ALWAYS)


UNKNOWN = [node("QuickGelu", ["m"], ["g"], name="contrib", domain="com.microsoft"), node("Relu", ["g"], ["r"], name="r")]  # fmt: skip


@pytest.mark.parametrize("target", TESTED)
@pytest.mark.parametrize("name", ["contrib", "r", "second"])
def test_ops_behind_unknown_types_are_accounted_for(target: str, name: str) -> None:
    """ONNX's inference has no types for com.microsoft. The rest of the model must be listed all the same."""
    nodes = [node("MatMul", ["x", "w"], ["m"], name="first"), *UNKNOWN, node("MatMul", ["r", "v"], ["y"], name="second")]  # fmt: skip
    plan = drafted(model(nodes, {"x": [4, 32]}, ["y"], {"w": weights(32, 32), "v": weights(32, 32)}), target)
    assert name in plan.forms.keys() | reasons(plan).keys()
