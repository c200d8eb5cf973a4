"""AWQ: weights of 4 bits lose less with large activations; weights of 8 bits are left alone."""

from __future__ import annotations

import numpy as np
import pytest

from qtool.graph.save import to_bytes
from qtool.plan.prepared import rescaled
from qtool.recover.awq import AWQ, factors
from qtool.recover.channel_scaling import PairedLayers, scale_channels
from qtool.recover.channel_statistics import ChannelStatistics
from qtool.recover.equalization_pairs import EqualizationPair
from qtool.rewrite.write import rewrite
from tests.graphs import node, rng, weights
from tests.plan.flow import candidate
from tests.recover.layers import WIDTH, linear, uneven
from tests.recover.oracle import memory, proto_of
from tests.rewrite.flow import run, sqnr


def test_columns_with_large_activations_lose_less() -> None:
    gain = np.where(np.arange(WIDTH) % 16 == 5, 30, 1).astype(np.float32)
    proto = linear([node("LayerNormalization", ["a", "v", "u"], ["h"])], {"v": gain, "u": weights(WIDTH)})
    inputs, held_out = uneven(8), uneven(4, seed=11)
    done = candidate(proto, inputs, include=["*"], mode="weight-only", bits=4, block=32)
    scaled = scale_channels(AWQ, done.model.view, done.plan, memory(inputs), threads=1)
    assert scaled
    aware = candidate(
        proto_of(rescaled(done.model.model, scaled)),
        inputs,
        include=["*"],
        mode="weight-only",
        bits=4,
        block=32,
    )
    floats = run(proto, held_out)
    before, after = (run(to_bytes(rewrite(d.model.model, d.plan)), held_out) for d in (done, aware))
    assert sqnr(floats, after) > sqnr(floats, before) + 1


@pytest.mark.parametrize("form", [{"mode": "static"}, {"mode": "weight-only"}], ids=str)
def test_8_bits_are_left_alone(form: dict[str, str]) -> None:
    proto = linear([node("Relu", ["a"], ["h"])])
    done = candidate(proto, uneven(), include=["*"], **form)
    assert scale_channels(AWQ, done.model.view, done.plan, memory(uneven()), threads=1) == {}


def test_the_factors_are_powers_of_the_mean() -> None:
    mean = rng(1).uniform(0.1, 4, 5)
    pair = EqualizationPair("h", 5, 1, (("w0", 1),), (("n", ("w1", 0)),), False)
    actual = list(factors(PairedLayers(pair, ChannelStatistics(-mean, mean, mean, mean**2), (), None)))
    assert len(actual) == 10
    np.testing.assert_allclose(actual[-1], mean)
    np.testing.assert_allclose(actual[4], np.sqrt(mean))
