"""Hessians equal their definition, in batches of any size."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from qtool.data.iterables import InMemory
from qtool.errors import RuntimeFailure
from qtool.graph.load import from_model
from qtool.graph.prepare import prepare
from qtool.graph.view import View
from qtool.recover import hessians as module
from qtool.recover.hessians import HessianSpec, ModelRun, hessians
from qtool.recover.operands import Operand, operand_of
from tests.graphs import model, node, rng


def network() -> View:
    """Conv (grouped) -> Relu -> two products that read the same rows."""
    made = model(
        [
            node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1], group=2),
            node("Relu", ["c"], ["r"]),
            node("MatMul", ["r", "p"], ["y"]),
            node("MatMul", ["r", "q"], ["z"]),
        ],
        {"x": ["n", 4, 6, 5]},
        {"y": ["n", 6, 6, 3], "z": ["n", 6, 6, 2]},
        {
            "w": rng(1).normal(size=(6, 2, 3, 3)).astype(np.float32),
            "p": rng(2).normal(size=(5, 3)).astype(np.float32),
            "q": rng(3).normal(size=(5, 2)).astype(np.float32),
        },
    )
    return View(prepare(from_model(made).model, onnxruntime=True, opset=13).model)


def samples(count: int) -> InMemory:
    return InMemory([{"x": rng(i).normal(size=(2, 4, 6, 5)).astype(np.float32)} for i in range(count)])


def operands(view: View) -> list[Operand]:
    actual = [operand_of(n, {}) for n in view.nodes if n.op_type in ("Conv", "MatMul")]
    return [o for o in actual if o is not None]


def wanted(view: View) -> dict[str, HessianSpec]:
    conv, first, second = operands(view)
    assert first == second  # the same rows: one sum does for both
    return {"conv": HessianSpec((conv,), 2, 18), "product": HessianSpec((first,), 1, 5)}


def by_hand(view: View, source: InMemory) -> Mapping[str, np.ndarray]:
    """From the definition: windows cut out one by one."""
    w = rng(1).normal(size=(6, 2, 3, 3)).astype(np.float32)
    conv, product = np.zeros((2, 18, 18)), np.zeros((1, 5, 5))
    for sample in source.read():
        x = np.pad(np.asarray(sample.inputs["x"]), ((0, 0), (0, 0), (1, 1), (1, 1))).astype(np.float64)
        out = np.zeros((2, 6, 6, 5))
        for n, i, j in np.ndindex(2, 6, 5):
            for g in range(2):
                row = x[n, 2 * g : 2 * g + 2, i : i + 3, j : j + 3].reshape(-1)
                conv[g] += np.outer(row, row)
                out[n, 3 * g : 3 * g + 3, i, j] = w[3 * g : 3 * g + 3].reshape(3, -1) @ row
        rows = np.maximum(out, 0).reshape(-1, 5)
        product += rows.T @ rows
    return {"conv": conv, "product": product}


@pytest.mark.parametrize("room", [1, 1 << 20], ids=["one at a time", "all at once"])
def test_sums_are_those_of_the_definition(room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_SUMS", room)
    monkeypatch.setattr(module, "_PATCHES", 4 * 36 * 7 if room == 1 else 1 << 20)
    view, source = network(), samples(3)
    want, right = wanted(view), by_hand(view, source)
    calls: list[tuple[int, int]] = []
    actual = dict(
        hessians(ModelRun(view.model, source, 1, lambda a, b: calls.append((a, b))), list(want.values()))
    )
    assert len(actual) == 2
    for name, key in want.items():
        np.testing.assert_allclose(actual[key], right[name], rtol=1e-4, atol=1e-3)
        assert actual[key].dtype == np.float64
    assert calls[-1][0] == calls[-1][1] and [a for a, _ in calls] == sorted(a for a, _ in calls)


def test_a_weight_that_two_nodes_read_gets_the_sum_of_both() -> None:
    view, source = network(), samples(2)
    _, product, _ = operands(view)
    once = dict(hessians(ModelRun(view.model, source, 1), [HessianSpec((product,), 1, 5)]))
    other = Operand(product.value, product.form, product.parts, None)
    twice = dict(hessians(ModelRun(view.model, source, 1), [HessianSpec((product, other), 1, 5)]))
    np.testing.assert_allclose(next(iter(twice.values())), 2 * next(iter(once.values())))


def test_more_samples_are_taken_where_they_have_few_rows() -> None:
    view = network()
    _, product, _ = operands(view)
    few: list[int] = []
    list(
        hessians(
            ModelRun(view.model, samples(40), 1, lambda done, _: few.append(done)),
            [HessianSpec((product,), 1, 5)],
        )
    )
    assert len(few) == 40  # 72 rows each: far from enough


def test_a_sample_that_the_model_fails_on_is_a_runtime_failure() -> None:
    view = network()
    bad = InMemory([{"x": np.zeros((1, 4, 6, 5), np.float32)}])
    conv = operands(view)[0]
    lost = HessianSpec((Operand("nowhere", conv.form, 1, None),), 2, 18)
    with pytest.raises((KeyError, RuntimeFailure)):
        list(hessians(ModelRun(view.model, bad, 1), [lost]))
