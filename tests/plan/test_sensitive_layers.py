"""Language models in 4 bits: 8 bits for the layers that lose most, by a rule of thumb or by measurement."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import helper

import qtool
from tests.graphs import node, samples, weights
from tests.plan.build import model
from tests.tiny_llm import Size, texts, tiny_llm

SIZE = Size(layers=4, vocabulary=256, width=32, inner=64, heads=2)
# The ends (but keys and values, too small to be stored), one projection down, and that to the vocabulary.
SENSITIVE = {f"MatMul_layers.{i}.{n}" for i in (0, 3) for n in "q o gate up down".split()} | {
    "MatMul_layers.2.down",
    "MatMul_logits",
}


@pytest.fixture(scope="module")
def decoder() -> onnx.ModelProto:
    return tiny_llm(SIZE)


def quantized(proto: onnx.ModelProto, folder: Path, **options: Any) -> qtool.Result:
    settled = {"mode": "weight-only", "bits": 4, "gate": "none", "timing": "table", "threads": 1}
    return qtool.quantize(proto, folder / "q.onnx", qtool.Options(**{**settled, "recover": "none"} | options))


def bits_of(result: qtool.Result) -> dict[str, int]:
    return {
        node: s.spec.qtype.bits for s in result.plan.sites for node, _ in s.uses or () if "MatMul" in node
    }


def in_eight(result: qtool.Result) -> set[str]:
    return {name for name, bits in bits_of(result).items() if bits == 8}


def test_without_samples_a_rule_of_thumb_decides(decoder: onnx.ModelProto, tmp_path: Path) -> None:
    assert in_eight(quantized(decoder, tmp_path)) == SENSITIVE


def test_the_users_types_go_first(decoder: onnx.ModelProto, tmp_path: Path) -> None:
    assert in_eight(quantized(decoder, tmp_path, sets=["op:MatMul=int4"])) == set()


def test_other_models_have_the_bits_of_the_option(tmp_path: Path) -> None:
    nodes = [node("MatMul", ["x", "w"], ["y"])]
    proto = model(nodes, {"x": ["N", 64]}, ["y"], {"w": weights(64, 64)})
    assert set(bits_of(quantized(proto, tmp_path)).values()) == {4}


def test_a_decoder_in_the_branches_of_an_if_has_the_bits_of_the_option(
    decoder: onnx.ModelProto, tmp_path: Path
) -> None:
    merged = onnx.ModelProto.FromString(decoder.SerializeToString())
    branch = helper.make_graph(decoder.graph.node, "branch", [], decoder.graph.output)
    branches = {"then_branch": branch, "else_branch": branch}
    outputs = [value.name for value in decoder.graph.output]
    merged.graph.ClearField("node")
    merged.graph.node.append(node("If", ["use_cache_branch"], outputs, **branches))
    merged.graph.input.append(helper.make_tensor_value_info("use_cache_branch", onnx.TensorProto.BOOL, [1]))
    assert set(bits_of(quantized(merged, tmp_path)).values()) == {4}


def test_with_samples_measured_types_take_no_more_bytes(decoder: onnx.ModelProto, tmp_path: Path) -> None:
    data = texts(8, 6, SIZE)
    rule = quantized(decoder, tmp_path, data=data, effort="fast")
    measured = quantized(decoder, tmp_path, data=data, force=True)
    assert in_eight(rule) == SENSITIVE != in_eight(measured)
    assert measured.report.quantized.bytes <= rule.report.quantized.bytes + 256
    assert measured.report.comparison.sqnr > rule.report.comparison.sqnr


def test_an_aim_without_samples_goes_by_the_rule(decoder: onnx.ModelProto, tmp_path: Path) -> None:
    assert set() < in_eight(quantized(decoder, tmp_path, target_bits=6.0, prefer="speed")) < SENSITIVE


def test_an_aim_needs_no_language_model(tmp_path: Path) -> None:
    nodes = [node("MatMul", ["x", "a"], ["h"]), node("MatMul", ["h", "b"], ["y"])]
    constants = {"a": weights(64, 64), "b": weights(64, 64, seed=2)}
    proto = model(nodes, {"x": ["N", 64]}, ["y"], constants)
    result = quantized(proto, tmp_path, target_bits=7.0, data=samples(4, x=(1, 64)))
    assert sorted(bits_of(result).values()) == [4, 8]
