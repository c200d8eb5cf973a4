"""The pairs whose sum is limited are those that the kernels add in 16 bits, and the limit holds after rounding."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest

from qtool.numerics.pairs import pair_magnitudes, within_pairs
from qtool.numerics.quantize import quantize
from qtool.numerics.weights import weight_qparams
from qtool.tables.qtypes import (
    INT8_PAIRED,
    INT8_REDUCED,
    PER_TENSOR,
    Granularity,
    PerBlock,
    PerChannel,
    PerRowOfLast,
    TensorSpec,
)
from tests.exact import exact
from tests.graphs import model, node, rng

ALIKE = [
    (PerChannel(0), (8, 5, 3, 3)),  # odd: a pair lies over two taps
    (PerChannel(0), (8, 6, 2, 2)),
    (PerChannel(0), (8, 33)),
    (PerChannel(1), (33, 8)),
    (PerRowOfLast(), (2, 8, 7)),
    (PerBlock(0, 6), (15, 4)),
    (PER_TENSOR, (8, 8)),
]


@pytest.mark.parametrize(("granularity", "shape"), ALIKE, ids=str)
def test_nearest_integers_hold_the_limit_at_scales_that_are_never_coarser(
    granularity: Granularity, shape: tuple[int, ...]
) -> None:
    w = rng(1).standard_normal(shape).astype(np.float32)
    params = weight_qparams(w, TensorSpec(INT8_PAIRED, granularity, symmetric=True))
    q = quantize(w, params, INT8_PAIRED, granularity)
    assert pair_magnitudes(q.astype(np.float32), granularity).max() <= 128
    assert np.array_equal(within_pairs(q, granularity, 128), q)
    reduced = weight_qparams(w, TensorSpec(INT8_REDUCED, granularity, symmetric=True))
    assert (params.scale <= reduced.scale * (64 / 63.4)).all()


@pytest.mark.parametrize(("granularity", "shape"), ALIKE, ids=str)
def test_integers_over_the_limit_give_way(granularity: Granularity, shape: tuple[int, ...]) -> None:
    q = rng(2).integers(-127, 128, shape).astype(np.int8)
    limited = within_pairs(q, granularity, 128)
    assert pair_magnitudes(limited.astype(np.float32), granularity).max() == 128
    assert (np.abs(limited) <= np.abs(q)).all()


LAYERS = {
    "taps of 5 channels": ((16, 5, 3, 3), PerChannel(0), {}),
    "taps of 16 channels": ((16, 16, 3, 3), PerChannel(0), {}),
    "one tap": ((16, 8, 1, 1), PerChannel(0), {}),
    "groups of 3 channels": ((8, 3, 2, 2), PerChannel(0), {"group": 2}),
    "a matrix": ((45, 16), PerChannel(1), {}),
    "a transposed matrix": ((16, 45), PerChannel(0), {"transB": 1}),
}


@pytest.mark.parametrize("case", LAYERS)
@pytest.mark.parametrize("limited", [True, False])
def test_kernels_sum_exactly_what_the_limit_allows_and_no_more(case: str, limited: bool) -> None:
    """On this CPU, without the tests' exact sessions; as the runtime's own float operators."""
    shape, granularity, attributes = LAYERS[case]
    if not limited and exact():
        pytest.skip("this CPU sums any weights exactly")
    q = rng(3).integers(-127, 128, shape).astype(np.int8)
    q = within_pairs(q, granularity, 128) if limited else q
    channels = shape[granularity.axis]
    inputs = [1, shape[1] * attributes.get("group", 1), 9, 9] if len(shape) == 4 else [4, q.size // channels]
    constants = {
        "s": np.float32(1),
        "z": np.uint8(0),
        "t": np.float32(500),
        "half": np.uint8(128),
        "w": q,
        "ones": np.ones(channels, np.float32),
        "zeros": np.zeros(channels, np.int8),
    }
    op = "Conv" if len(shape) == 4 else "Gemm"
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        node("DequantizeLinear", ["w", "ones", "zeros"], ["v"], axis=granularity.axis),
        node(op, ["d", "v"], ["c"], **attributes),
        node("QuantizeLinear", ["c", "t", "half"], ["r"]),
        node("DequantizeLinear", ["r", "t", "half"], ["y"]),
    ]
    data = model(nodes, {"x": inputs}, ["y"], constants).SerializeToString()
    feed = {"x": rng(4).choice([0.0, 255.0], inputs).astype(np.float32)}
    plain = ort.SessionOptions()
    plain.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    fused, floats = (ort.InferenceSession(data, o).run(None, feed)[0] for o in (ort.SessionOptions(), plain))
    assert np.array_equal(fused, floats) == limited
