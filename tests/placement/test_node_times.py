"""Every kernel's time is counted to the right node."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import onnx
import pytest

from qtool.data.iterables import InMemory
from qtool.placement.node_times import Times, fused, node_times, read_neighbours, times_of
from qtool.rewrite.write import rewrite
from qtool.runtime.trace import KernelTimes
from tests.graphs import node, weights
from tests.plan.build import model
from tests.plan.flow import candidate, ready
from tests.rewrite.zoo import CASES


def view():
    proto = model(
        [
            node("Conv", ["x", "w"], ["c"], kernel_shape=[1, 1], name="net/conv"),
            node("Relu", ["c"], ["r"], name="net/conv/relu"),
            node("Sin", ["r"], ["s"], name="a"),
            node("Add", ["s", "r"], ["y"], name="a1"),
        ],
        {"x": [1, 4, 8, 8]},
        ["y"],
        {"w": weights(4, 4, 1, 1)},
        output_rank=4,
    )
    return ready(proto).view


def ran(*kernels: tuple[str, str], inferences: int = 2) -> KernelTimes:
    """Each took 10 us an inference."""
    return KernelTimes(inferences, 100 * inferences, Counter(dict.fromkeys(kernels, 10 * inferences)))


@pytest.mark.parametrize(
    ("kernel", "owner"),
    [
        (("Conv", "net/conv"), "net/conv"),
        (("Conv", "net/conv_nchwc"), "net/conv"),
        (("FusedConv", "fused net/conv"), "net/conv"),
        (("Relu", "net/conv/relu_quant"), "net/conv/relu"),
        (("Sin", "a_token_3"), "a"),
        (("Add", "a1"), "a1"),
        (("Add", "a12"), None),
        (("Sin", "other"), None),
        (("QuantizeLinear", "x_QuantizeLinear"), None),
        (("Conv", "c_quant"), "net/conv"),
    ],
)
def test_a_kernel_belongs_to_the_longest_name_that_its_own_begins_with(
    kernel: tuple[str, str], owner: str | None
) -> None:
    actual = times_of(ran(kernel), view(), {})
    assert actual.nodes == ({owner: pytest.approx(10e-6)} if owner else {})
    assert actual.inference == pytest.approx(100e-6)


def test_a_change_of_layout_belongs_to_its_convolution() -> None:
    wires = {"ReorderOutput": ("c", "s"), "ReorderInput": ("net/conv", "")}
    for name in wires:
        actual = times_of(ran((name, name)), view(), wires)
        assert actual.nodes.keys() <= {"net/conv", "a"}
        assert len(actual.nodes) == 1


@pytest.mark.parametrize(("order", "owner"), [((0, 2, 3, 1), "after"), ((0, 3, 1, 2), "before")])
def test_channels_last_belong_to_the_node_that_has_them_so(
    tmp_path: Path, order: tuple[int, ...], owner: str
) -> None:
    """Counted to the node behind it, the way back made that one seem slow in int8."""
    nodes = [
        node("Relu", ["x"], ["a"], name="before"),
        node("Transpose", ["a"], ["b"], name="turn", perm=order),
        node("Relu", ["b"], ["y"], name="after"),
    ]
    onnx.save(model(nodes, {"x": [1, 4, 4, 4]}, ["y"], output_rank=4), tmp_path / "m.onnx")
    assert read_neighbours(tmp_path / "m.onnx")["turn"][0] == owner


def test_nodes_in_one_kernel_are_fused_pairs() -> None:
    pairs = fused([Times({"net/conv": 1.0, "a": 1.0, "a1": 1.0})], view())
    assert pairs == [("net/conv/relu", "net/conv")]
    assert fused([Times({"net/conv": 1.0, "net/conv/relu": 1.0, "a": 1.0, "a1": 1.0})], view()) == []


@pytest.mark.parametrize("name", ["residual", "conv-bn-relu6"])
def test_every_kernel_of_a_model_has_an_owner(name: str) -> None:
    case = CASES[name]
    done = candidate(case.build(), case.samples())
    source = InMemory(list(case.samples()))
    actual = node_times(
        [done.model.model, rewrite(done.model.model, done.plan)], done.model.view, source, threads=1
    )
    for times in actual:
        assert times.nodes.keys() <= done.model.view.node_by_name.keys()
        assert all(seconds >= 0 for seconds in times.nodes.values())
        assert times.inference > 0
    convolutions = {n.name for n in done.model.view.nodes if n.op_type == "Conv"}
    parts = {first for first, _ in fused(actual, done.model.view)}
    for times in actual:
        assert convolutions <= times.nodes.keys() | parts, "timed, or part of what is"
