"""SmoothQuant: activation outliers after a norm move into the weights."""

from __future__ import annotations

from qtool.graph.save import to_bytes
from qtool.plan.prepared import rescaled
from qtool.recover.channel_scaling import scale_channels
from qtool.recover.smoothquant import SMOOTHQUANT
from qtool.rewrite.write import rewrite
from tests.plan.flow import candidate
from tests.recover.layers import uneven
from tests.recover.oracle import memory, proto_of
from tests.recover.test_channel_scaling import normed
from tests.rewrite.flow import run, sqnr


def test_outliers_after_a_norm_move_into_the_weights() -> None:
    inputs, held_out = uneven(8), uneven(4, seed=11)
    target = "cpu-avx2"  # whose sums do not saturate on any CPU
    done = candidate(normed(), inputs, target, include=["*"])
    scaled = scale_channels(SMOOTHQUANT, done.model.view, done.plan, memory(inputs), threads=1)
    assert scaled.keys() == {"v", "u", "w1"}
    smooth = candidate(proto_of(rescaled(done.model.model, scaled)), inputs, target, include=["*"])
    floats = run(normed(), held_out)
    before, after = (run(to_bytes(rewrite(d.model.model, d.plan)), held_out) for d in (done, smooth))
    assert sqnr(floats, after) > sqnr(floats, before) + 3


def test_without_quantized_activations_nothing_changes() -> None:
    done = candidate(normed(), uneven(), include=["*"], mode="weight-only")
    assert scale_channels(SMOOTHQUANT, done.model.view, done.plan, memory(uneven()), threads=1) == {}
