"""The written-out tanh Gelu is recognized by what it computes, and nothing else is taken for it."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest

from qtool.graph.prepare.gelu import fuse_gelu
from qtool.graph.prepare.shapes import infer_shapes
from qtool.graph.prepare.unused import drop_unused
from tests.graph.prepare.alike import (
    applied,
    assert_alike,
    assert_untouched,
    both_branches,
    graph_with_if,
    ops,
    subgraph,
)
from tests.graphs import model, node, samples

PASSES = (infer_shapes, fuse_gelu)
ROOT = math.sqrt(2 / math.pi)
CONSTANTS = {
    k: np.float32(v)
    for k, v in {
        "half": 0.5,
        "one": 1,
        "two": 2,
        "three": 3,
        "root": ROOT,
        "cubic": 0.044715,
        "root_cubic": ROOT * 0.044715,
    }.items()
}
TAIL = [
    node("Tanh", ["t"], ["th"]),
    node("Add", ["th", "one"], ["p"]),
    node("Mul", ["x", "p"], ["xp"]),
    node("Mul", ["xp", "half"], ["g"]),
]
INNER = {
    "pow": [
        node("Pow", ["x", "three"], ["x3"]),
        node("Mul", ["x3", "cubic"], ["c"]),
        node("Add", ["x", "c"], ["s"]),
        node("Mul", ["s", "root"], ["t"]),
    ],
    "products": [
        node("Mul", ["x", "x"], ["x2"]),
        node("Mul", ["x2", "x"], ["x3"]),
        node("Mul", ["cubic", "x3"], ["c"]),
        node("Add", ["c", "x"], ["s"]),
        node("Mul", ["root", "s"], ["t"]),
    ],
    "factored": [
        node("Mul", ["x", "x"], ["x2"]),
        node("Mul", ["x2", "cubic"], ["c"]),
        node("Add", ["c", "one"], ["s"]),
        node("Mul", ["x", "root"], ["xr"]),
        node("Mul", ["s", "xr"], ["t"]),
    ],
    "distributed": [
        node("Pow", ["x", "two"], ["x2"]),
        node("Mul", ["x2", "x"], ["x3"]),
        node("Mul", ["x3", "root_cubic"], ["c"]),
        node("Mul", ["x", "root"], ["l"]),
        node("Add", ["c", "l"], ["t"]),
    ],
}
OUTER = {
    "half-last": TAIL,
    "half-first": [
        node("Tanh", ["t"], ["th"]),
        node("Add", ["one", "th"], ["p"]),
        node("Mul", ["x", "half"], ["hx"]),
        node("Mul", ["hx", "p"], ["g"]),
    ],
    "half-on-the-sum": [
        node("Tanh", ["t"], ["th"]),
        node("Add", ["th", "one"], ["p"]),
        node("Mul", ["p", "half"], ["hp"]),
        node("Mul", ["hp", "x"], ["g"]),
    ],
    "distributed": [
        node("Tanh", ["t"], ["th"]),
        node("Mul", ["x", "half"], ["hx"]),
        node("Mul", ["hx", "th"], ["m"]),
        node("Add", ["m", "hx"], ["g"]),
    ],
}
SHAPE = (2, 3, 8)


def net(
    inner: list[onnx.NodeProto],
    outer: list[onnx.NodeProto],
    *,
    changed: dict[str, np.ndarray] | None = None,
    outputs: tuple[str, ...] = ("y",),
    more: tuple[onnx.NodeProto, ...] = (),
    shape: tuple[int, ...] = SHAPE,
) -> onnx.ModelProto:
    """x -> gelu -> Relu -> y."""
    nodes = [*inner, *outer, node("Relu", ["g"], ["y"]), *more]
    read = {name for n in nodes for name in n.input}
    constants = {k: v for k, v in {**CONSTANTS, **(changed or {})}.items() if k in read}
    return model(nodes, {"x": shape}, outputs, constants)


PAIRS = [(name, "half-first") for name in INNER] + [("pow", name) for name in OUTER]


@pytest.mark.parametrize(("inner_name", "outer_name"), PAIRS)
def test_every_order_of_the_factors_is_fused(inner_name: str, outer_name: str) -> None:
    proto = net(INNER[inner_name], OUTER[outer_name])
    made, note = applied(proto, *PASSES)
    assert "1 written-out Gelu" in note
    drop_unused(made)
    assert ops(made) == ["FastGelu", "Relu"]
    assert made.opset_imports["com.microsoft"] == 1
    assert_alike(proto, made)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 1)], ids=str)
def test_constants_of_one_element_may_have_axes_that_x_has(shape: tuple[int, ...]) -> None:
    proto = net(INNER["pow"], TAIL, changed={k: np.full(shape, v) for k, v in CONSTANTS.items()})
    made, _ = applied(proto, *PASSES, drop_unused)
    assert ops(made) == ["FastGelu", "Relu"]
    assert_alike(proto, made)


@pytest.mark.parametrize("changed", [{"root": 0.79788}, {"root": 0.7979, "cubic": 0.0447150}], ids=str)
def test_constants_that_exporters_rounded_are_recognized(changed: dict[str, float]) -> None:
    proto = net(INNER["pow"], TAIL, changed={k: np.float32(v) for k, v in changed.items()})
    made, _ = applied(proto, *PASSES, drop_unused)
    assert ops(made) == ["FastGelu", "Relu"]
    assert_alike(proto, made, rtol=1e-3)


def test_two_in_a_row_are_both_fused() -> None:
    second = [
        onnx.helper.make_node(
            n.op_type,
            [i if i in CONSTANTS else ("g" if i == "x" else f"{i}_2") for i in n.input],
            [f"{o}_2" for o in n.output],
            name=f"{n.name}_2",
        )
        for n in [*INNER["products"], *TAIL]
    ]
    proto = net(INNER["pow"], [*TAIL, *second], more=(node("Relu", ["g_2"], ["z"]),), outputs=("y", "z"))
    made, note = applied(proto, *PASSES)
    assert "2 written-out Gelus" in note
    assert_alike(proto, made)


def test_inner_results_that_others_read_stay_for_them() -> None:
    proto = net(INNER["pow"], TAIL, more=(node("Relu", ["th"], ["z"]),), outputs=("y", "z"))
    made, _ = applied(proto, *PASSES, drop_unused)
    assert {"FastGelu", "Tanh"} <= set(ops(made))
    assert_alike(proto, made)


def test_one_inside_a_branch_is_fused_there() -> None:
    proto = graph_with_if(
        [],
        subgraph([*INNER["pow"], *TAIL, node("Relu", ["g"], ["r"])], {"r": SHAPE}),
        subgraph([node("Relu", ["x"], ["e"])], {"e": SHAPE}),
        {"x": SHAPE},
        SHAPE,
        {k: v for k, v in CONSTANTS.items() if k in ("half", "one", "three", "root", "cubic")},
    )
    made, note = applied(proto, *PASSES)
    assert "1 written-out" in note
    assert_alike(proto, made, both_branches(samples(2, x=SHAPE)))


def test_one_that_ends_in_a_branch_computes_the_same() -> None:
    proto = graph_with_if(
        [*INNER["pow"], *TAIL[:-1]],
        subgraph([TAIL[-1], node("Relu", ["g"], ["r"])], {"r": SHAPE}),
        subgraph([node("Relu", ["x"], ["e"])], {"e": SHAPE}),
        {"x": SHAPE},
        SHAPE,
        {k: v for k, v in CONSTANTS.items() if k in ("half", "one", "three", "root", "cubic")},
    )
    made, _ = applied(proto, *PASSES)
    assert_alike(proto, made, both_branches(samples(2, x=SHAPE)))


def swapped(nodes: list[onnx.NodeProto], old: str, new: onnx.NodeProto) -> list[onnx.NodeProto]:
    return [new if old in n.output else n for n in nodes]


NOT_GELU = {
    "another-cubic": (INNER["pow"], TAIL, {"cubic": np.float32(0.05)}),
    "another-root": (INNER["pow"], TAIL, {"root": np.float32(0.8)}),
    "another-half": (INNER["pow"], TAIL, {"half": np.float32(0.51)}),
    "another-power": (INNER["pow"], TAIL, {"three": np.float32(2)}),
    "a-broken-power": (INNER["pow"], TAIL, {"three": np.float32(3.5)}),
    "another-one": (INNER["pow"], TAIL, {"one": np.float32(2)}),
    "one-minus-tanh": (INNER["pow"], swapped(TAIL, "p", node("Sub", ["one", "th"], ["p"])), {}),
    "a-square-of-tanh": (
        INNER["pow"],
        [TAIL[0], node("Mul", ["th", "th"], ["th2"]), node("Add", ["th2", "one"], ["p"]), *TAIL[2:]],
        {},
    ),
    "times-the-cube": (INNER["pow"], swapped(TAIL, "xp", node("Mul", ["x3", "p"], ["xp"])), {}),
    "no-cube": ([node("Mul", ["x", "root"], ["t"])], TAIL, {}),
    "one-value-a-channel": (INNER["pow"], TAIL, {"half": np.full(8, 0.5, np.float32)}),
    "a-constant-of-higher-rank": (INNER["pow"], TAIL, {"half": np.full((1, 1, 1, 1), 0.5, np.float32)}),
    "an-inner-constant-of-higher-rank": (INNER["pow"], TAIL, {"root": np.full((1,) * 4, ROOT, np.float32)}),
}


@pytest.mark.parametrize(("inner", "outer", "changed"), NOT_GELU.values(), ids=NOT_GELU.keys())
def test_what_computes_something_else_stays(inner: list, outer: list, changed: dict) -> None:
    assert_untouched(net(inner, outer, changed=changed), *PASSES)


def test_tanh_of_another_input_than_the_factor_stays() -> None:
    nodes = [*INNER["pow"], *swapped(TAIL, "xp", node("Mul", ["z", "p"], ["xp"])), node("Relu", ["g"], ["y"])]
    constants = {k: CONSTANTS[k] for k in ("half", "one", "three", "root", "cubic")}
    assert_untouched(model(nodes, {"x": SHAPE, "z": SHAPE}, ["y"], constants), *PASSES)


def test_one_that_makes_an_output_stays() -> None:
    assert_untouched(net(INNER["pow"], TAIL, outputs=("y", "g")), *PASSES)


def test_a_gelu_in_float64_still_computes() -> None:
    proto = net(INNER["pow"], TAIL)
    wide = model(
        list(proto.graph.node),
        {"x": SHAPE},
        ["y"],
        {t.name: onnx.numpy_helper.to_array(t).astype(np.float64) for t in proto.graph.initializer},
        input_type=onnx.TensorProto.DOUBLE,
        output_type=onnx.TensorProto.DOUBLE,
    )
    made, _ = applied(wide, *PASSES)
    assert_alike(wide, made, [{"x": samples(1, x=SHAPE)[0]["x"].astype(np.float64)}])


def test_a_long_chain_of_sums_takes_no_long_time() -> None:
    nodes, last = [], "x"
    for i in range(200):
        nodes.append(node("Add", [last, last], [f"a{i}"]))
        last = f"a{i}"
    proto = model([*nodes, node("Tanh", [last], ["t"]), node("Mul", ["t", last], ["y"])], {"x": (2,)}, ["y"])
    assert_untouched(proto, *PASSES)
