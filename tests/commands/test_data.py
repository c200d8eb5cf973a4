"""A look at samples: figures, the samples that are looked at, and warnings of what looks wrong."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from rich.console import Console

import qtool
from qtool import DataError, Reading, Survey
from qtool.report.survey import SURVEY, render_survey
from tests.graphs import Shape, model, node, samples, write_samples

Samples = list[dict[str, np.ndarray]]


def taking(*shape: Any, kind: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """A model of one input, x."""
    made: Shape = list(shape)
    return model(
        [node("Identity", ["x"], ["y"])], {"x": made}, {"y": made}, input_type=kind, output_type=kind
    )


def embedding(rows: int = 10) -> onnx.ModelProto:
    """Token ids, cast on their way, looked up in a table."""
    nodes = [node("Cast", ["ids"], ["cast"], to=TensorProto.INT64), node("Gather", ["table", "cast"], ["y"])]
    table = {"table": np.ones((rows, 2), np.float32)}
    return model(nodes, {"ids": ["n", "s"]}, {"y": ["n", "s", 2]}, table, input_type=TensorProto.INT32)


def images(count: int = 3, low: float = 0, high: float = 1, shape: tuple[int, ...] = (1, 3, 5, 6)) -> Samples:
    return [
        {"x": np.random.default_rng(i).uniform(low, high, shape).astype(np.float32)} for i in range(count)
    ]


def shown(survey: Survey) -> str:
    stream = io.StringIO()
    render_survey(survey, Console(file=stream, width=200))
    return stream.getvalue()


def test_figures_are_those_of_all_samples() -> None:
    made = images(7, -1, 3)
    (surveyed,) = qtool.survey(made, taking(1, 3, 5, 6)).inputs
    values = np.concatenate([s["x"] for s in made])
    assert surveyed.figures is not None
    assert surveyed.figures.count == values.size
    assert (surveyed.figures.mean, surveyed.figures.std) == pytest.approx(
        (values.mean(), values.std()), rel=1e-5
    )
    assert [c.mean for c in surveyed.channels] == pytest.approx(values.mean((0, 2, 3)).tolist(), rel=1e-5)
    assert [s.shape for s in surveyed.shapes] == [(1, 3, 5, 6)]


def test_types_are_listed_before_and_after_they_became_the_models() -> None:
    made: Samples = [{"x": np.zeros(3)}, {"x": np.ones(3, np.float32)}]
    (surveyed,) = qtool.survey(made, taking(3)).inputs
    assert (surveyed.dtype, set(surveyed.types)) == ("float32", {"float64", "float32"})


def test_shapes_that_differ_are_counted() -> None:
    made: Samples = [{"x": np.ones((1, n), np.float32)} for n in (5, 3, 5, 5)]
    (surveyed,) = qtool.survey(made, taking("n", "s")).inputs
    assert [(s.shape, s.samples) for s in surveyed.shapes] == [((1, 5), 3), ((1, 3), 1)]


@pytest.mark.parametrize(
    ("total", "reading", "looked", "names"),
    [
        (5, Reading(), 5, ["0", "1", "2"]),
        (300, Reading(), 100, ["0", "3", "6"]),
        (300, Reading(samples=150), 150, None),
        (5, Reading(samples=9), 5, ["0", "1", "2"]),
        (100, Reading(samples=2, seed=1), 2, None),
    ],
)
def test_some_samples_are_looked_at(
    total: int, reading: Reading, looked: int, names: list[str] | None
) -> None:
    survey = qtool.survey(samples(total, x=(2,)), taking(2), reading=reading)
    assert (survey.samples, survey.looked) == (total, looked)
    assert names is None or [s.name for s in survey.head] == names


def test_the_chosen_samples_are_those_of_calibration(tmp_path: Path) -> None:
    from qtool.data.open import open_source

    reading = Reading(samples=3, seed=4)
    folder = write_samples(tmp_path / "d", samples(50, x=(2,)))
    survey = qtool.survey(folder, taking(2), reading=reading)
    assert [s.name for s in survey.head] == [s.name for s in open_source(folder, {}, reading).read()]


def test_a_generator_is_a_source_too() -> None:
    assert qtool.survey(iter(samples(4, x=(2,))), taking(2)).samples == 4


# What looks wrong


@pytest.mark.parametrize(
    ("made", "shape", "warning"),
    [
        ([{"x": np.round(s["x"])} for s in images(3, 0, 255)], (1, 3, 5, 6), "looks unnormalised"),
        ([{"x": np.round(s["x"])} for s in images(3, 0, 255, (1, 5, 6, 3))], (1, 5, 6, 3), "looks unnormalised"),
        (images(3, 0, 1, (1, 50, 60, 3)), ("n", "c", "h", "w"), "looks channels-last"),
        ([{"x": np.zeros((1, 3, 5, 6), np.float32)}] * 3, (1, 3, 5, 6), "is 0 everywhere"),
        ([{"x": np.full((2,), 0.5, np.float32)}, {"x": np.full((2,), 0.5, np.float32)}], (2,), "is 0.5 everywhere"),
        (samples(1, x=(4,)) * 3, (4,), "all 3 samples that were read are the same"),
    ],
    ids=["raw pixels", "raw pixels NHWC", "channels-last", "zeros", "constant", "same"],
)  # fmt: skip
def test_suspicious_samples_are_warned_of(made: Samples, shape: tuple[Any, ...], warning: str) -> None:
    survey = qtool.survey(made, taking(*shape))
    assert warning in "; ".join(survey.warnings)


@pytest.mark.parametrize(
    ("made", "proto"),
    [
        (images(), taking(1, 3, 5, 6)),
        (images(3, -2, 255), taking(1, 3, 5, 6)),
        ([{"x": np.round(s["x"])} for s in images(3, 0, 2)], taking(1, 3, 5, 6)),
        ([{"x": np.round(s["x"])} for s in images(3, 0, 255, (1, 30))], taking(1, 30)),
        ([{"x": np.full((1, 3, 5, 6), i, np.uint8)} for i in range(3)], taking(1, 3, 5, 6, kind=TensorProto.UINT8)),
        ([{"x": np.ones((1, n), np.int64)} for n in (3, 4)], taking("n", "s", kind=TensorProto.INT64)),
        (samples(1, x=(4,)), taking(4)),
        ([{"x": np.full((), i, np.float32)} for i in range(2)], taking()),
    ],
    ids=["0..1", "signed", "0..2", "no image", "uint8", "mask", "one sample", "scalar"],
)  # fmt: skip
def test_good_samples_have_no_warning(made: Samples, proto: onnx.ModelProto) -> None:
    assert qtool.survey(made, proto).warnings == ()


def test_filled_inputs_have_no_warning() -> None:
    proto = model([node("Add", ["x", "z"], ["y"])], {"x": [2], "z": [2]}, ["y"])
    assert qtool.survey(samples(2, x=(2,)), proto, reading=Reading(fill={"z": 0.0})).warnings == ()


# Bad data


@pytest.mark.parametrize("ids", [[0, 10], [-11, 0]], ids=str)
def test_4_ids_that_the_models_table_lacks(ids: list[int]) -> None:
    good, bad = np.array([[9, -10]], np.int32), np.array([ids], np.int32)
    with pytest.raises(DataError, match=r"samples/1: input 'ids' holds -?1\d; .* table of 10 rows") as caught:
        qtool.survey([{"ids": good}, {"ids": bad}], embedding())
    assert "tokenizer" in caught.value.hint


@pytest.mark.parametrize(
    ("made", "word"),
    [
        ([{"x": np.zeros((1, 2), np.float32)}], "shape"),
        ([{"y": np.zeros(2, np.float32)}], "no input 'x'"),
        ([{"x": np.array([np.nan, 0], np.float32)}], "NaN"),
        ([{"x": np.zeros(2, np.float32)}, {"x": np.zeros(3, np.float32)}], "samples/1"),
    ],
    ids=["rank", "name", "nan", "second"],
)
def test_4_samples_that_do_not_fit_are_refused(made: Samples, word: str) -> None:
    with pytest.raises(DataError, match=word):
        qtool.survey(made, taking(2))


# Rendered


def awkward() -> Survey:
    """Text, a mask with infinities, no numbers at all, and a name that a terminal would obey."""
    kinds = {"a": TensorProto.FLOAT, "b\x1b[31m": TensorProto.STRING, "c": TensorProto.FLOAT}
    proto = model([node("Identity", ["a"], ["y"])], {"a": ["n"], "c": ["n", "s"]}, {"y": ["n"]})
    proto.graph.input.insert(1, onnx.helper.make_tensor_value_info("b\x1b[31m", kinds["b\x1b[31m"], ["n"]))
    made = [
        {
            "a": np.array([0, -np.inf], np.float32),
            "b\x1b[31m": np.array(["x[/]y\x07" * 20]),
            "c": np.zeros((1, n), np.float32),
        }
        for n in range(5)
    ]
    return qtool.survey(made, proto)


def refuse(constant: str) -> Any:
    raise AssertionError(f"{constant} is no JSON")


def test_the_document_is_plain_json() -> None:
    document = json.loads(SURVEY.to_json(awkward()), parse_constant=refuse)
    assert document["schema"] == "qtool.data/1"
    assert document["head"][0]["first"]["a"] == [0, "-inf"]
    a, b, c = document["inputs"]
    assert (a["figures"]["infinite"], b["figures"], c["wants"]) == (5, None, ["n", "s"])


def test_the_table_has_every_input_and_no_control_character() -> None:
    text = shown(awkward())
    assert "\x1b" not in text
    assert "\x07" not in text
    for word in ("5 samples of the kind python", "float32 [n, s]", "[1, 0..4] (5 shapes)", "-inf", "x[/]y"):
        assert word in text


def test_a_table_of_many_inputs_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    from qtool.report import survey as rendered

    monkeypatch.setattr(rendered, "_MOST_INPUTS", 2)
    names = [f"x{i}" for i in range(5)]
    proto = model([node("Sum", names, ["y"])], {name: [2] for name in names}, ["y"])
    assert "and 3 more (--json)" in shown(qtool.survey(samples(1, **dict.fromkeys(names, (2,))), proto))


def test_numbers_are_short_and_whole_ones_whole() -> None:
    from qtool.report.survey import number

    assert [number(v) for v in (1.0, 0.123456, 12345678, True, "a", -math.inf, 1e30)] == [
        "1", "0.1235", "12345678", "True", "'a'", "-inf", "1e+30",
    ]  # fmt: skip
