"""Bits a layer: what --target-bits begins with, and what it comes to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import qtool
from qtool.errors import UsageError
from qtool.options import Options
from qtool.plan.model import WEIGHTS
from tests.graphs import model, node, weights

SIZE = 128


def network() -> onnx.ModelProto:
    """Four products, the later ones of ever less account."""
    nodes, constants, value = [], {}, "x"
    for i in range(4):
        constants[f"w{i}"] = weights(SIZE, SIZE, seed=i) / np.float32(SIZE**0.5)
        nodes += [node("MatMul", [value, f"w{i}"], [f"p{i}"]), node("Relu", [f"p{i}"], [f"r{i}"])]
        value = f"r{i}"
    return model(nodes, {"x": ["n", SIZE]}, {value: ["n", SIZE]}, constants)


def mixed(tmp_path: Path, target: float, bits: int = 8) -> tuple[set[int], float]:
    """The bits of the weights, and how many they are on the mean, with scales."""
    random = np.random.default_rng(0)
    samples = [{"x": random.normal(size=(8, SIZE)).astype(np.float32)} for _ in range(16)]
    options = Options(
        mode="weight-only",
        calib=samples,
        target_bits=target,
        recover="none",
        gate="none",
        threads=1,
        force=True,
        bits=bits,
    )
    result = qtool.quantize(network(), tmp_path / "q.onnx", options)
    sites = [s for s in result.plan.sites if s.kind in WEIGHTS]
    assert all(s.qparams is not None for s in sites)
    scales = sum(s.qparams.scale.size * (4 if s.spec.symmetric else 5) for s in sites if s.qparams)
    total = 4 * SIZE**2
    return {s.spec.qtype.bits for s in sites}, sum(
        s.spec.qtype.bits for s in sites
    ) * SIZE**2 / total + 8 * scales / total


def test_unless_asked_it_begins_with_four_bits(tmp_path: Path) -> None:
    found, mean = mixed(tmp_path, 6.5)
    assert min(found) == 4 and mean <= 6.5
    with pytest.raises(UsageError, match="4 bits are"):
        mixed(tmp_path, 3.5)


def test_with_two_bits_there_are_levels_in_between(tmp_path: Path) -> None:
    found, mean = mixed(tmp_path, 4.0, bits=2)
    assert 2 in found and len(found) > 1 and found <= {2, 4, 8}
    assert mean <= 4.0
    with pytest.raises(UsageError, match="2 bits are"):
        mixed(tmp_path, 2.1, bits=2)
