"""With all switches off it is FP32; with one on, that tensor alone is quantized: by onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest

from qtool.graph.save import to_bytes
from qtool.plan.candidate import Candidate
from qtool.plan.model import OBSERVED, Kind
from qtool.plan.predict import key_of
from qtool.rewrite.simulate.switched import Switched, switched
from tests.plan.flow import candidate
from tests.rewrite.zoo import CASES
from tests.tiers import in_turn

NAMES = [n for n in ("residual", "conv-bn-relu6", "transformer", "lstm", "if-weights") if n in CASES]
LEVELS = {
    "off": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "on": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
Arrays = dict[str, np.ndarray]


def opened(data: bytes, level: str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = LEVELS[level]
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(data, options, ["CPUExecutionProvider"])


def made(name: str, mode: str = "static") -> tuple[Candidate, Switched]:
    case = CASES[name]
    done = candidate(case.build(), case.samples(), mode=mode)
    return done, switched(done.model.model, done.plan)


def fed(model: Switched, sample: Arrays, *on: str) -> dict[str, Any]:
    """The inputs of the model, with some switches on; a weight is fed as it is."""
    switches = {value: np.asarray(key in on) for key, value in model.switches.items()}
    nothing = np.zeros((), np.float32)
    weights = {value: model.weights[key] if key in on else nothing for key, value in model.fed.items()}
    return sample | switches | weights


def near(a: list[np.ndarray], b: list[np.ndarray]) -> None:
    for x, y in zip(a, b, strict=True):
        size = max(float(np.abs(x).max(initial=0)), 1e-3)
        np.testing.assert_allclose(x, y, rtol=0, atol=2e-5 * size)


@pytest.mark.parametrize(("name", "mode", "level"), in_turn(NAMES, ["static", "dynamic", "fp16"], LEVELS))
def test_with_all_switches_off_it_is_fp32(name: str, mode: str, level: str) -> None:
    done, model = made(name, mode)
    ours, theirs = opened(to_bytes(model.model), level), opened(to_bytes(done.model.model), level)
    for sample in CASES[name].samples()[:2]:
        near(theirs.run(None, sample), ours.run(None, fed(model, sample)))


def fake(array: np.ndarray, scale: np.ndarray, zero: np.ndarray, qmin: int, qmax: int) -> np.ndarray:
    q = np.clip(np.rint(array / scale) + zero, qmin, qmax)
    return ((q - zero) * scale).astype(np.float32)


@pytest.mark.parametrize(("name", "level"), in_turn([n for n in NAMES if n != "if-weights"], LEVELS))
def test_with_one_on_it_reads_that_tensor_quantized(name: str, level: str) -> None:
    """Consumers read the fake quantization of the value: both are outputs here."""
    done, model = made(name)
    done_any = False
    for key in model.switches:
        sites = [s for s in done.plan.sites if s.kind is Kind.ACTIVATION and key_of(s) == key]
        if len(sites) != 1 or sites[0].qparams is None:
            continue
        site = sites[0]
        proto = __import__("onnx").load_from_string(to_bytes(model.model))
        ((chosen),) = [n for n in proto.graph.node if n.op_type == "If" and n.input[0] == model.switches[key]]
        looked = {v.name for v in proto.graph.output}
        body = next(a.g for a in chosen.attribute if a.name == "else_branch")
        before, after = body.node[0].input[0], chosen.output[0]
        for value in {before, after} - looked - {i.name for i in proto.graph.input}:
            proto.graph.output.add().name = value
        session = opened(proto.SerializeToString(), level)
        sample = CASES[name].samples()[0]
        values = dict(
            zip(
                [o.name for o in session.get_outputs()],
                session.run(None, fed(model, sample, key)),
                strict=True,
            )
        )
        plain = sample[before] if before in sample else values[before]
        q, params = site.spec.qtype, site.qparams
        expected = fake(plain, params.scale, params.zero_point, q.qmin, q.qmax)
        step = float(np.max(params.scale))
        off = np.abs(values[after] - expected)
        assert off.max() <= step * 1.01, "half a step rounds either way"
        assert (off > step / 100).mean() < 0.01
        done_any = True
    assert done_any


@pytest.mark.parametrize("name", NAMES)
def test_every_scale_and_every_weight_has_a_switch(name: str) -> None:
    done, model = made(name)
    main = [
        s
        for s in done.plan.sites
        if s.kind in OBSERVED and done.model.view.in_main(done.model.view.values[s.value])
    ]
    assert {*(key_of(s) for s in main), *model.weights} == model.switches.keys()
    inputs = {v.name for v in model.model.graph.inputs}
    assert {*model.switches.values(), *model.fed.values()} <= inputs
    original = {v.name for v in done.model.model.graph.inputs}
    assert not original & {*model.fed.values()}, "the prepared model is as it was"


@pytest.mark.parametrize("name", NAMES)
def test_a_weight_counts_where_its_switch_is_on(name: str) -> None:
    _, model = made(name)
    session = opened(to_bytes(model.model), "on")
    sample = CASES[name].samples()[0]
    weight = next(iter(model.weights))
    plain = session.run(None, fed(model, sample))
    near(plain, session.run(None, fed(model, sample, weight)))
    other = fed(model, sample, weight) | {model.fed[weight]: model.weights[weight] * 2 + 1}
    assert any(not np.array_equal(a, b) for a, b in zip(plain, session.run(None, other), strict=True))
