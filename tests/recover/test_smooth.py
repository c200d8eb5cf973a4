"""SmoothQuant behind norms."""

from __future__ import annotations

from qtool.graph.save import to_bytes
from qtool.plan.prepared import rescaled
from qtool.recover.smooth import smoothed
from qtool.rewrite.write import rewrite
from tests.plan.flow import candidate
from tests.recover.layers import uneven
from tests.recover.test_balance import normed
from tests.recover.whole import memory, proto_of
from tests.rewrite.flow import run, sqnr


def test_what_a_norm_makes_loud_moves_into_the_weights() -> None:
    given, held_out = uneven(8), uneven(4, seed=11)
    target = "cpu-avx2"  # whose sums do not saturate on any CPU
    done = candidate(normed(), given, target, include=["*"])
    scaled = smoothed(done.model.view, done.plan, memory(given), threads=1)
    assert scaled.keys() == {"v", "u", "w1"}
    smooth = candidate(proto_of(rescaled(done.model.model, scaled)), given, target, include=["*"])
    floats = run(normed(), held_out)
    before, after = (run(to_bytes(rewrite(d.model.model, d.plan)), held_out) for d in (done, smooth))
    assert sqnr(floats, after) > sqnr(floats, before) + 3


def test_of_weights_alone_there_is_nothing_to_smooth() -> None:
    done = candidate(normed(), uneven(), include=["*"], mode="weight-only")
    assert smoothed(done.model.view, done.plan, memory(uneven()), threads=1) == {}
