"""Patches times weights are the convolution, as onnxruntime computes it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import helper

from qtool.errors import ModelError, RuntimeFailure
from qtool.numerics.patches import (
    Convolution,
    conv_weight_of,
    conv_weight_rows,
    patches,
    position_count,
    spread_out,
)
from qtool.runtime.session import Session
from tests.graphs import model, rng
from tests.tiers import examples

Case = tuple[Convolution, tuple[int, ...], tuple[int, ...]]
"""A convolution, the shape of its input, the shape of its weight."""


@st.composite
def cases(draw: st.DrawFn) -> Case:
    axes, transposed = draw(st.integers(1, 3)), draw(st.booleans())
    groups = draw(st.integers(1, 3))
    auto_pad = draw(st.sampled_from(["NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]))

    def each(least: int, most: int) -> tuple[int, ...]:
        return tuple(draw(st.lists(st.integers(least, most), min_size=axes, max_size=axes)))

    strides, dilations = each(1, 3), each(1, 2)
    if auto_pad.startswith("SAME"):
        dilations = (1,) * axes  # with both, onnxruntime refuses
    pads = (*each(0, 2), *each(0, 2)) if auto_pad == "NOTSET" else (0,) * 2 * axes
    extra: tuple[int, ...] = ()
    shape: tuple[int, ...] = ()
    spatial = each(4, 7)
    if transposed and draw(st.booleans()):
        extra = tuple(draw(st.integers(0, max(s, d) - 1)) for s, d in zip(strides, dilations, strict=True))
    if transposed and auto_pad == "NOTSET" and draw(st.booleans()):
        shape = tuple(n * s + draw(st.integers(0, 1)) for n, s in zip(spatial, strides, strict=True))
        pads = (0,) * 2 * axes
    conv = Convolution(each(1, 3), strides, dilations, pads, groups, auto_pad, transposed, extra, shape)
    into, out = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2))
    weight = (into, out // groups) if transposed else (out, into // groups)
    return conv, (2, into, *spatial), (*weight, *conv.kernel)


def convolved(conv: Convolution, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    attributes: dict[str, Any] = {
        "kernel_shape": conv.kernel,
        "strides": conv.strides,
        "dilations": conv.dilations,
        "group": conv.groups,
    }
    if conv.auto_pad != "NOTSET":
        attributes["auto_pad"] = conv.auto_pad
    elif not conv.output_shape:
        attributes["pads"] = conv.pads
    if conv.output_padding:
        attributes["output_padding"] = conv.output_padding
    if conv.output_shape:
        attributes["output_shape"] = conv.output_shape
    op = "ConvTranspose" if conv.transposed else "Conv"
    node = helper.make_node(op, ["x", "w"], ["y"], name="conv", **attributes)
    proto = model([node], {"x": x.shape}, {"y": [None] * x.ndim}, {"w": w})
    result: np.ndarray = Session(proto.SerializeToString(), threads=1).run({"x": x})[0]
    return result


@settings(max_examples=examples(150), deadline=None)
@given(cases())
def test_patches_times_weights_are_the_convolution(case: Case) -> None:
    conv, shape, weight_shape = case
    x = rng(1).normal(size=shape).astype(np.float32)
    w = rng(2).normal(size=weight_shape).astype(np.float32)
    try:
        wanted = convolved(conv, x, w)
    except (ModelError, RuntimeFailure):
        assume(False)
    positions = np.arange(position_count(shape, conv))
    products = np.matmul(patches(x, conv, positions), conv_weight_rows(w, conv).swapaxes(1, 2))  # [G, P, O/G]
    folded = products.swapaxes(1, 2).reshape(wanted.shape[1], len(x), -1).swapaxes(0, 1)
    np.testing.assert_allclose(folded.reshape(wanted.shape), wanted, atol=1e-4)


@settings(max_examples=examples(50), deadline=None)
@given(cases())
def test_weight_rows_go_back_to_the_weight(case: Case) -> None:
    conv, _, shape = case
    w = np.arange(np.prod(shape)).reshape(shape)
    np.testing.assert_array_equal(conv_weight_of(conv_weight_rows(w, conv), shape, conv), w)


def test_some_positions_are_those_of_all() -> None:
    conv = Convolution((3, 3), (2, 1), (1, 1), (1, 1, 1, 1), groups=2)
    x = rng().normal(size=(3, 4, 9, 7)).astype(np.float32)
    total = position_count(x.shape, conv)
    every, some = patches(x, conv, np.arange(total)), spread_out(total, 20)
    np.testing.assert_array_equal(patches(x, conv, some), every[:, some])


@pytest.mark.parametrize(("total", "most"), [(0, 5), (5, 5), (5, 9), (1000, 10), (4800, 512)])
def test_positions_are_spread_out(total: int, most: int) -> None:
    spread = spread_out(total, most)
    assert len(spread) <= most and len(spread) >= min(total, most) * 0.99
    assert (np.diff(spread) > 0).all() and (spread >= 0).all() and (spread < total).all()
    if total > most:  # no gap is much wider than another one
        assert np.diff(spread).max() < 4 * total / most
        np.testing.assert_array_equal(spread, spread_out(total, most))
