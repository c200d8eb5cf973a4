"""An inspection rendered: JSON that any parser takes, and a terminal that no name can hurt."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import Any

import onnx
import pytest
from onnx import helper
from rich.console import Console

from qtool.graph.inspection.change import changes, difference
from qtool.graph.inspection.model import Difference, GraphValue, Inspection, OpCount, TensorChange
from qtool.graph.inspection.read import inspect_model
from qtool.report.difference import render_difference
from qtool.report.inspection import render_inspection, to_json
from qtool.report.tables import percent
from tests.graph.inspection import graphs
from tests.graph.inspection.graphs import QUANTIZED
from tests.graphs import ROOT
from tests.report.test_report import ODD, refuse

BUILT = {"plain": graphs.plain, **QUANTIZED}


def with_recipe(made: onnx.ModelProto) -> onnx.ModelProto:
    helper.set_model_props(made, {"qtool.version": "0.1", "qtool.mode": "static", "qtool.target": "cpu"})
    return made


def shown(subject: Inspection | Difference, *, verbose: bool = False, width: int = 160) -> str:
    stream = io.StringIO()
    render: Any = render_inspection if isinstance(subject, Inspection) else render_difference
    render(subject, Console(file=stream, width=width), verbose)
    return stream.getvalue()


def line(text: str, label: str) -> str:
    """The one line that starts with a label, single-spaced."""
    (labelled,) = (" ".join(x.split()) for x in text.splitlines() if x.split()[:1] == [label])
    return labelled


# One model


def test_the_table_has_ops_precisions_and_sizes() -> None:
    text = shown(replace(inspect_model(with_recipe(graphs.qdq())), path="int8.onnx"))
    assert line(text, "int8.onnx").startswith("int8.onnx ")
    assert "IR 8, opset 17" in line(text, "int8.onnx")
    assert line(text, "inputs") == "inputs x float32 [1, 8, 4, 4]"
    assert line(text, "Conv") == "Conv 1 1"
    assert line(text, "Sigmoid") == "Sigmoid 1 1"
    assert line(text, "DequantizeLinear") == "DequantizeLinear 4"
    assert line(text, "int8") == "int8 1 32 32 88.9%"
    assert line(text, "nodes") == "nodes 9: 2 in int8, 1 in float32, 6 convert"
    assert line(text, "quantized") == "quantized 88.9% of the parameters in 8 bits or fewer (qdq)"
    assert line(text, "made") == "made by qtool 0.1 (static, cpu)"


def test_each_format_has_a_column() -> None:
    """A count under the wrong heading would be a lie."""
    text = shown(inspect_model(graphs.qdq()))
    heading, conv, sigmoid = (
        next(x for x in text.splitlines() if x.startswith(w)) for w in ("op ", "Conv", "Sigmoid")
    )
    assert conv.rindex("1") == heading.index("int8") + len("int8") - 1
    assert sigmoid.rindex("1") == heading.index("float32") + len("float32") - 1


def test_a_float_model_says_that_nothing_is_quantized() -> None:
    text = shown(inspect_model(graphs.plain()))
    assert line(text, "quantized") == "quantized nothing"
    assert "on quantized weights" not in text
    assert "[N, 8]" in text


def test_stored_weights_have_a_column() -> None:
    text = shown(inspect_model(graphs.stored()))
    assert "on quantized weights" in text
    assert line(text, "MatMul") == "MatMul 1 1 1"


def test_many_ops_and_ports_are_cut_and_counted_and_verbose_has_them_all() -> None:
    inspection = replace(
        inspect_model(graphs.plain()),
        ops={f"Op{i}": OpCount(2, {"float32": 2}) for i in range(40)},
        inputs=tuple(GraphValue(f"x{i}", "float32", None) for i in range(30)),
        metadata={f"key{i}": "value" for i in range(20)},
    )
    short, long = shown(inspection), shown(inspection, verbose=True)
    assert line(short, "others").startswith("others 52 52 Op14, ")
    assert "and 18 more (-v)" in short
    assert "and 15 more (-v)" in short
    assert len(short.splitlines()) < 50
    for name in (*inspection.ops, *inspection.metadata, *(p.name for p in inspection.inputs)):
        assert name in long
    assert "more (-v)" not in long


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, "0.0%"), (1e-9, "<0.1%"), (0.5, "50.0%"), (0.9997, ">99.9%"), (1, "100.0%")],
)
def test_a_share_is_never_rounded_to_all_or_nothing(share: float, text: str) -> None:
    assert percent(share) == text


# Two models


def test_the_difference_is_shown() -> None:
    compared = difference(graphs.plain(), with_recipe(graphs.qdq()))
    text = shown(compared)
    assert line(text, "Gemm") == "Gemm 1 -1"
    assert line(text, "DequantizeLinear") == "DequantizeLinear 4 +4"
    assert line(text, "nodes") == "nodes 2 -> 9 (int8 0 -> 2, float32 2 -> 1, convert 0 -> 6)"
    assert "-> 88.9% of the parameters" in line(text, "quantized")
    assert line(text, "inputs") == "inputs x float32 [N, 8] -> x float32 [1, 8, 4, 4]"
    assert line(text, "made") == "made by qtool 0.1 (static, cpu)"
    assert f"{compared.before.bytes:,} -> {compared.after.bytes:,} bytes" in line(text, "size")


def test_identical_models_are_reported_as_such() -> None:
    compared = difference(graphs.plain(), graphs.plain())
    assert "the same file, byte for byte" in shown(compared)
    assert "interface" not in shown(compared)


def test_only_changes_are_shown() -> None:
    before = inspect_model(graphs.plain())
    text = shown(changes(before, replace(before, sha256="other")))
    assert line(text, "interface") == "interface unchanged"
    assert line(text, "nodes") == "nodes 2 (computing in the same formats)"
    labels = {x.split()[0] for x in text.splitlines() if x.strip()}
    assert labels == {"before", "after", "size", "nodes", "quantized", "interface", "constants"}


def test_constants_that_differ_are_named_a_few_or_all() -> None:
    names = [f"tensor_{i}" for i in range(30)]
    compared = replace(
        difference(graphs.plain(), graphs.qdq()),
        tensors=tuple(TensorChange(n, "float32 [2]", "float32 [2]") for n in names),
    )
    short, long = shown(compared), shown(compared, verbose=True)
    assert "tensor_0: float32 [2], other numbers" in short
    assert "and 22 more differ (-v)" in short
    assert all(name in long for name in names)
    retyped = replace(compared, tensors=(TensorChange("w", "float32 [2]", "float16 [2]"),))
    assert "w: float32 [2] -> float16 [2]" in shown(retyped)


# Both


@pytest.mark.parametrize("width", [20, 80, 300])
@pytest.mark.parametrize("name", BUILT)
def test_any_model_renders_in_any_width(name: str, width: int) -> None:
    inspection = inspect_model(BUILT[name]())
    for verbose in (False, True):
        shown(inspection, verbose=verbose, width=width)
        shown(changes(inspect_model(graphs.plain()), inspection), verbose=verbose, width=width)


@pytest.mark.parametrize("name", ODD, ids=ascii)
@pytest.mark.parametrize("verbose", [False, True], ids=["short", "verbose"])
def test_names_are_escaped_in_the_terminal(name: str, verbose: bool) -> None:
    port = GraphValue(name, "float32", (name, None))
    inspection = replace(
        inspect_model(graphs.plain()),
        path=name, producer=name, opsets={name: 1}, inputs=(port,), outputs=(port,), external={name: 1},
        ops={name: OpCount(1, {"float32": 1}), f"{name}2": OpCount(1, {"other": 1}), f"{name}3": OpCount(1, {"other": 1})},
        metadata={name: name, f"qtool.{name}": name, "qtool.mode": name, "qtool.version": name},
    )  # fmt: skip
    pair = replace(
        changes(inspect_model(graphs.qdq()), inspection), tensors=(TensorChange(name, name, f"{name}2"),)
    )
    for each in (inspection, pair):
        text = shown(each, verbose=verbose)
        assert not set(text) & {"\x1b", "\x07", "\x00", "\r", "\u202e"}
        if name in ("[bold]", "conv[0]", "[/red]", ":smile:"):
            assert name in text
        document = json.loads(to_json(each), parse_constant=refuse)
        assert document["models"][-1]["path"] == name


@pytest.mark.parametrize("name", BUILT)
def test_json_holds_the_inspection(name: str) -> None:
    inspection = inspect_model(BUILT[name]())
    document = json.loads(to_json(inspection), parse_constant=refuse)
    assert document["schema"] == "qtool.inspection/1"
    assert document["difference"] is None
    (model,) = document["models"]
    assert model["computes"] == inspection.computes
    assert model["quantized_share"] == inspection.quantized_share
    assert model["parameters"] == inspection.parameters
    assert sum(op["nodes"] for op in model["ops"].values()) == model["nodes"] == inspection.nodes


def test_json_of_two_models_holds_both_and_the_difference() -> None:
    compared = difference(graphs.plain(), graphs.qdq())
    document = json.loads(to_json(compared), parse_constant=refuse)
    assert [m["sha256"] for m in document["models"]] == [compared.before.sha256, compared.after.sha256]
    changed = document["difference"]
    assert changed["ops"]["DequantizeLinear"] == [0, 4]
    assert changed["ops_removed"] == ["Gemm"]
    assert changed["size_ratio"] == compared.size_ratio
    assert changed["inputs"][0][1]["shape"] == [1, 8, 4, 4]
    assert "before" not in changed


def test_every_key_of_the_json_is_documented() -> None:
    text = (ROOT / "docs" / "report.md").read_text(encoding="utf-8")
    document = json.loads(to_json(difference(graphs.plain(), graphs.qdq())))
    for key in (*document["models"][0], *document["difference"]):
        assert f"`{key}`" in text or f"`{key}[]`" in text, key
