"""Cross-layer equalization: its factors, and the gain in the written model."""

from __future__ import annotations

import numpy as np
import pytest

from qtool.graph.save import to_bytes
from qtool.plan.prepared import rescaled
from qtool.recover.channel_scaling import PairedLayers, scale_channels
from qtool.recover.channel_statistics import ChannelStatistics
from qtool.recover.equalization_pairs import EqualizationPair
from qtool.recover.equalize import EQUALIZE, factors
from qtool.rewrite.write import rewrite
from tests.plan.flow import candidate
from tests.recover.layers import uneven
from tests.recover.oracle import memory, proto_of
from tests.recover.test_channel_scaling import loud
from tests.rewrite.flow import run, sqnr


@pytest.mark.parametrize("relu", [True, False])
def test_a_channel_with_a_range_100_times_as_wide_loses_less(relu: bool) -> None:
    inputs, held_out = uneven(8), uneven(4, seed=11)
    done = candidate(loud(relu), inputs, include=["*"])
    scaled = scale_channels(EQUALIZE, done.model.view, done.plan, memory(inputs), threads=1)
    even = candidate(proto_of(rescaled(done.model.model, scaled)), inputs, include=["*"])
    floats = run(loud(relu), held_out)
    before, after = (run(to_bytes(rewrite(d.model.model, d.plan)), held_out) for d in (done, even))
    assert sqnr(floats, after) > sqnr(floats, before) + 3


def test_the_factors_are_those_of_the_paper_and_the_range() -> None:
    lo, hi = np.array([-2.0, 0.0, -1.0]), np.array([1.0, 8.0, 1.0])
    w = np.array([[0.5, -2.0], [1.0, 0.0], [-4.0, 1.0]], np.float32)
    pair = EqualizationPair("h", 3, 1, (("w0", 1),), (("n", ("w1", 0)),), False)
    layers = PairedLayers(pair, ChannelStatistics(lo, hi, hi, hi), ((w, 0, None),), None)
    actual = list(factors(layers))
    np.testing.assert_allclose(layers.channels.absmax, [2, 8, 1])
    np.testing.assert_allclose(layers.weight_absmax, [2, 1, 4])
    assert any(np.allclose(s, np.sqrt(layers.channels.absmax / layers.weight_absmax)) for s in actual)
    assert any(np.allclose(s, layers.channels.absmax) for s in actual)
    assert layers.noise(np.ones(3)) == 0, "nothing is rounded"
