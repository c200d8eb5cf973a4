"""A model that came quantized keeps its scales and integers, in the form that the target runs fast."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from qtool.plan.model import Kind, Plan, Site
from tests.graphs import model, node, rng, samples
from tests.rewrite.flow import ran, run, sqnr, write

# Within the grids: the source clips at 7 bits what 8 bits of the same scale still hold.
_FED = [{"x": s["x"] * np.float32(0.25)} for s in samples(4, x=(2, 16, 8, 8))]
_INTEGERS = rng().integers(-128, 128, (32, 16, 3, 3)).astype(np.int8)
_PER_CHANNEL = np.linspace(0.001, 0.003, 32).astype(np.float32)


def quantized(
    name: str, dtype: str = "uint8", clip: int = 0, step: float = 0.02, zero: int = 0
) -> tuple[list[Any], dict[str, Any]]:
    """Q -> DQ of a value; between them a Clip of the integers, where there is one."""
    constants: dict[str, Any] = {f"{name}_s": np.float32(step), f"{name}_z": np.asarray(zero, dtype)}
    source, nodes = f"{name}_q", [node("QuantizeLinear", [name, f"{name}_s", f"{name}_z"], [f"{name}_q"])]
    if clip:
        constants |= {f"{name}_l": np.asarray(0, dtype), f"{name}_h": np.asarray(clip, dtype)}
        nodes.append(node("Clip", [source, f"{name}_l", f"{name}_h"], [f"{name}_c"]))
        source = f"{name}_c"
    nodes.append(node("DequantizeLinear", [source, f"{name}_s", f"{name}_z"], [f"{name}_d"]))
    return nodes, constants


def net(
    *,
    acts: str = "uint8",
    clip: int = 0,
    zero: int = 128,
    weight: str = "integers",
    scales: Any = _PER_CHANNEL,
) -> onnx.ModelProto:
    """Q, DQ -> Conv -> Relu -> MaxPool -> Conv, with Q and DQ before the first Conv and behind the Relu alone."""
    first, one = quantized("x", acts, clip, zero=zero)
    second, two = quantized("r", acts, clip, zero=np.iinfo(acts).min)
    axis = {"axis": 0} if np.ndim(scales) else {}
    middle = np.zeros(np.shape(scales), np.int8)
    constants = {**one, **two, "w_s": scales, "w_z": middle, "b": np.arange(32, dtype=np.int32) * 50}
    constants |= {"k": rng(1).normal(0, 0.1, (32, 32, 1, 1)).astype(np.float32)}
    constants["b_s"] = np.float32(0.02) * scales
    restore = node("DequantizeLinear", ["w_q", "w_s", "w_z"], ["w"], **axis)
    if weight == "integers":
        constants["w_q"], nodes = _INTEGERS, [restore]
    else:  # fake-quantized floats
        along = np.reshape(scales, (-1, 1, 1, 1)) if np.ndim(scales) else scales
        constants["w_f"] = (_INTEGERS * along).astype(np.float32)
        nodes = [node("QuantizeLinear", ["w_f", "w_s", "w_z"], ["w_q"], **axis), restore]
    nodes += [
        node("DequantizeLinear", ["b", "b_s"], ["b_f"], **axis),
        *first,
        node("Conv", ["x_d", "w", "b_f"], ["c"], pads=[1, 1, 1, 1]),
        node("Relu", ["c"], ["r"]),
        *second,
        node("MaxPool", ["r_d"], ["p"], kernel_shape=[2, 2]),
        node("Conv", ["p", "k"], ["y"]),
    ]
    return model(nodes, {"x": (2, 16, 8, 8)}, ["y"], constants)


def site(plan: Plan, kind: Kind, ends: str) -> Site:
    return next(s for s in plan.sites if s.kind is kind and s.value.endswith(ends))


FORMS: dict[str, dict[str, Any]] = {
    "per channel": {},
    "per tensor": {"scales": np.float32(0.002)},
    "fake-quantized weights": {"weight": "floats"},
    "s8 activations": {"acts": "int8", "zero": 0},
    "7-bit activations behind a Clip": {"clip": 127, "zero": 64},
}


@pytest.mark.parametrize("form", FORMS)
def test_scales_and_integers_stay_and_every_conv_runs_in_int8(form: str) -> None:
    proto = net(**FORMS[form])
    done = write(proto, _FED, "cpu", include=["*"])
    weight = site(done.plan, Kind.WEIGHT, "w")
    assert np.array_equal(weight.integers, _INTEGERS)
    first = site(done.plan, Kind.ACTIVATION, "x").qparams
    behind = [s.qparams for s in done.plan.sites if s.kind is Kind.ACTIVATION and s.value != "x"][:2]
    assert all(q is not None and q.scale == np.float32(0.02) for q in (first, *behind))
    assert ran(done.data)["QLinearConv"] == 2
    # Not optimized: int8 kernels saturate on a CPU without VNNI.
    assert sqnr(run(proto, _FED, optimize=False), run(done.data, _FED, optimize=False)) > 28


def test_scales_suffice_without_samples_where_none_is_missing() -> None:
    done = write(net(), (), "cpu", include=["*"])
    assert {done.candidate.model.view.node_by_name[n].op_type for n in done.plan.forms} == {
        "Conv",
        "Relu",
        "MaxPool",
    }
    assert ran(done.data)["QLinearConv"] == 1  # the output of the last Conv has no scale


@pytest.mark.parametrize(("clip", "kept"), [(0, False), (127, True)])
def test_without_vnni_8_bit_weights_stay_beside_7_bit_activations_alone(clip: int, kept: bool) -> None:
    plan = write(net(clip=clip, zero=64 if clip else 128), _FED, "cpu-avx2", include=["*"]).plan
    weight = site(plan, Kind.WEIGHT, "w")
    assert weight.spec.qtype.name == ("int8" if kept else "int8-paired")
    assert (weight.integers is not None) == kept
