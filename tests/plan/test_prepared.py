"""Constants scaled in pairs by powers of two: the model stays the same to the bit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtool.graph.save import to_bytes
from qtool.plan.model import Scaled
from qtool.plan.prepared import PreparedModel, laid_along, rescaled
from qtool.recover.equalization_pairs import EqualizationPair, find_pairs
from tests.graphs import node, rng, weights
from tests.plan.build import model
from tests.plan.flow import Sample, ready
from tests.rewrite.flow import run
from tests.rewrite.zoo import CASES
from tests.tiers import examples

Balance = dict[str, tuple[Scaled, ...]]


def drawn(data: st.DataObject, pairs: list[EqualizationPair], reach: int = 8) -> Balance:
    """Factors of 2^-reach to 2^reach for every channel of every pair."""
    scaled: Balance = {}
    for pair in pairs:
        seed = data.draw(st.integers(0, 1000))
        factors = np.exp2(rng(seed).integers(-reach, reach + 1, pair.channels).astype(np.float64))
        ports = [(p, 1 / factors) for p in pair.before] + [(p, factors) for _, p in pair.after]
        for (name, axis), these in ports:
            scaled[name] = (*scaled.get(name, ()), Scaled(axis, tuple(these.tolist())))
    return scaled


def every_pair(job: PreparedModel) -> list[EqualizationPair]:
    return find_pairs(job.view, job.view.values.keys())


def same_outputs(job: PreparedModel, scaled: Balance, samples: Sequence[Sample]) -> None:
    other = to_bytes(rescaled(job.model, scaled))
    for optimize in (False, True):
        before, after = run(to_bytes(job.model), samples, optimize), run(other, samples, optimize)
        for a, b in zip(before, after, strict=True):
            for name, array in a.items():
                np.testing.assert_array_equal(b[name], array, err_msg=f"{name}, {optimize}")


# What may lie between two products of [N, C], or two convolutions; a -> h.
LINEAR_LINKS = {
    "nothing": [node("Identity", ["a"], ["h"])],
    "relu": [node("Relu", ["a"], ["h"])],
    "leaky": [node("LeakyRelu", ["a"], ["h"], alpha=0.125)],
    "vector": [node("Mul", ["a", "v"], ["h"])],
    "bias": [node("Add", ["a", "v"], ["i"]), node("Relu", ["i"], ["h"])],
    "norm": [node("LayerNormalization", ["a", "v", "u"], ["h"], axis=-1)],
    "sigmoid": [node("Sigmoid", ["a"], ["h"])],
}
CONV_LINKS = {
    "relu": [node("Relu", ["a"], ["h"])],
    "leaky": [node("LeakyRelu", ["a"], ["h"])],
    "max": [node("Relu", ["a"], ["r"]), node("MaxPool", ["r"], ["h"], kernel_shape=[2, 2])],
    "average": [node("AveragePool", ["a"], ["h"], kernel_shape=[3, 3], pads=[1, 1, 1, 1])],
    "depthwise": [node("Conv", ["a", "d"], ["e"], group=8, pads=[1, 1, 1, 1]), node("Relu", ["e"], ["h"])],
    "sigmoid": [node("Sigmoid", ["a"], ["h"])],
}
SIZE = 8


def renamed(links: list[onnx.NodeProto], number: int, constants: set[str]) -> list[onnx.NodeProto]:
    """The nodes with a number behind every name."""
    made = []
    for link in links:
        new = onnx.NodeProto()
        new.CopyFrom(link)
        new.name = f"{link.name}{number}"
        new.input[:] = [f"{n}{number}" for n in link.input]
        new.output[:] = [f"{n}{number}" for n in link.output]
        constants.update(n for n in new.input if n.rstrip("0123456789") in "vud")
        made.append(new)
    return made


def chain(kinds: list[str], links: dict[str, list[onnx.NodeProto]], conv: bool) -> onnx.ModelProto:
    nodes, constants = [], {}
    last = "x"
    for number, kind in enumerate([*kinds, ""]):
        w, b = f"w{number}", f"b{number}"
        constants[w] = weights(SIZE, SIZE, *((1, 1) if conv else ()), seed=number) * 5
        constants[b] = weights(SIZE, seed=number + 50)
        result = f"a{number}" if kind else "y"
        nodes.append(node("Conv" if conv else "Gemm", [last, w, b], [result]))
        if kind:
            extra: set[str] = set()
            nodes += renamed(links[kind], number, extra)
            for name in extra:
                shape = (SIZE, 1, 3, 3) if name.startswith("d") else (SIZE,)
                constants[name] = rng(number).uniform(0.5, 1.5, shape).astype(np.float32)
            last = f"h{number}"
    return model(nodes, {"x": [2, SIZE, 6, 6] if conv else ["N", SIZE]}, ["y"], constants, output_rank=4)


def fed(conv: bool) -> list[Sample]:
    shape = (2, SIZE, 6, 6) if conv else (3, SIZE)
    return [{"x": rng(9).standard_normal(shape).astype(np.float32)}]


@settings(max_examples=examples(15), deadline=None)
@given(st.lists(st.sampled_from(sorted(LINEAR_LINKS)), min_size=1, max_size=3), st.data())
def test_linear_layers_compute_the_same_to_the_bit(kinds: list[str], data: st.DataObject) -> None:
    job = ready(chain(kinds, LINEAR_LINKS, conv=False))
    pairs = every_pair(job)
    assert len(pairs) == len([k for k in kinds if k != "sigmoid"])
    same_outputs(job, drawn(data, pairs), fed(False))


@settings(max_examples=examples(15), deadline=None)
@given(st.lists(st.sampled_from(sorted(CONV_LINKS)), min_size=1, max_size=3), st.data())
def test_convolutions_compute_the_same_to_the_bit(kinds: list[str], data: st.DataObject) -> None:
    job = ready(chain(kinds, CONV_LINKS, conv=True))
    pairs = every_pair(job)
    assert len(pairs) == sum({"sigmoid": 0, "depthwise": 2}.get(k, 1) for k in kinds)
    same_outputs(job, drawn(data, pairs), fed(True))


@pytest.mark.parametrize(
    "case", ["conv-bn-relu6", "residual", "mlp-gemm", "transformer", "lstm", "shared-weights"]
)
@settings(max_examples=examples(2), deadline=None)
@given(data=st.data())
def test_zoo_models_compute_the_same_to_the_bit(case: str, data: st.DataObject) -> None:
    job = ready(CASES[case].build())
    same_outputs(job, drawn(data, every_pair(job)), list(CASES[case].samples())[:2])


def test_rescaling_changes_a_clone() -> None:
    job = ready(CASES["mlp-matmul"].build())
    before = to_bytes(job.model)
    after = to_bytes(rescaled(job.model, {"w0": (Scaled(1, (2.0,) * 40), Scaled(0, (0.5,) * 32))}))
    assert to_bytes(job.model) == before
    assert after == before, "they cancel out"
    assert to_bytes(rescaled(job.model, {})) == before


@pytest.mark.parametrize(
    ("name", "axis", "count"),
    [("w0", 2, 40), ("w0", -3, 40), ("w0", 1, 39), ("w0", 0, 40), ("w0", 1, 0), ("none", 0, 4), ("x", 0, 4)],
)
def test_factors_that_do_not_fit_are_a_key_error(name: str, axis: int, count: int) -> None:
    job = ready(CASES["mlp-matmul"].build())
    with pytest.raises(KeyError):
        rescaled(job.model, {name: (Scaled(axis, (2.0,) * count),)})


def test_factors_are_laid_along_their_axis() -> None:
    factors = np.arange(3)
    assert laid_along(factors, 1, 4).shape == (1, 3, 1, 1)
    assert laid_along(factors, -1, 2).shape == (1, 3)
    assert laid_along(factors, 0, 1).shape == (3,)
