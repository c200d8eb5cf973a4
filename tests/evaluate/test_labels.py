"""Labels: how they are read, and what a model predicts."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from qtool.data.iterables import InMemory
from qtool.errors import DataError
from qtool.evaluate.alphabet import Alphabet, Spelled, read_alphabet
from qtool.evaluate.compare import Measures, check_labelled, compare
from qtool.evaluate.judging import Judging, measures_of, with_scores
from qtool.evaluate.labels import Accuracy, label_of, predict, read_labels
from qtool.runtime.session import Session
from tests.graphs import node
from tests.plan.build import model


def write(path: Path, document: object) -> Path:
    path.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
    return path


def test_labels_are_classes_by_file_name_or_stem(tmp_path: Path) -> None:
    labels = read_labels(write(tmp_path / "l.json", {"_classes": ["cat", "dog"], "0.npz": 3, "1": [1, 2]}))
    assert set(labels) == {"0.npz", "1"}
    assert label_of(labels, "0.npz") == 3
    assert np.array_equal(label_of(labels, "1.npz"), [1, 2])  # type: ignore[arg-type]
    assert label_of(labels, "2.npz") is None


@pytest.mark.parametrize(
    "document",
    [
        "{",
        "[]",
        "3",
        {"a": "cat"},
        {"a": 1.5},
        {"a": None},
        {"a": True},
        {"a": []},
        {"a": [1, "x"]},
        {"a": {"b": 1}},
        "\ud800",
    ],
    ids=repr,
)
def test_a_malformed_label_is_a_data_error(tmp_path: Path, document: object) -> None:
    path = tmp_path / "l.json"
    if document == "\ud800":
        path.write_bytes(b"\xff\xfe")
    else:
        write(path, document)
    with pytest.raises(DataError, match=r"l\.json"):
        read_labels(path)


def test_missing_labels_are_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="do not exist"):
        read_labels(tmp_path / "none.json")


@pytest.mark.parametrize(
    "text",
    ["0.npz,3\n1,1,2\n", "file,class\n0.npz,3\n1,1,2\n", '"0.npz", 3\r\n\r\n1,1,2', "\ufeff0.npz,3\n1,1,2"],
)
def test_labels_are_read_from_csv(tmp_path: Path, text: str) -> None:
    labels = read_labels(write(tmp_path / "l.csv", text))
    assert {k: v.tolist() for k, v in labels.items()} == {"0.npz": [3], "1": [1, 2]}


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("l.csv", "a,1\nb,cat\n", "'b' has"),
        ("l.csv", "a,1\nb\n", "'b' has"),
        ("l.csv", "a,1\na,2\n", "'a' is there twice"),
        ("l.csv", 'a,"1\n', "not readable"),
        ("l.json", '{"a": 1, "a": 2}', "'a' is there twice"),
        ("l.json", "[" * 100_000, "nested too deeply"),
    ],
)
def test_a_mistake_in_labels_is_named(tmp_path: Path, name: str, text: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_labels(write(tmp_path / name, text))


def test_labels_in_a_special_file_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "l.json")
    for path in (tmp_path / "l.json", tmp_path, Path("/dev/zero")):
        with pytest.raises(DataError, match="not a regular file"):
            read_labels(path)


SCORES = np.array([[0.1, 0.9], [0.8, 0.2]], np.float32)
PREDICTIONS = {
    "scores": ([SCORES], [0, 1], [1, 0]),
    "one row": ([SCORES[:1]], [1], [1]),
    "a vector": ([SCORES[0]], [1], [1]),
    "integers first": ([np.array([1, 0]), SCORES], [0, 0], [1, 0]),
    "the output that fits": ([np.zeros((3, 4), np.float32), SCORES], [0, 0], [1, 0]),
    "none fits": ([np.zeros((3, 4), np.float32)], [0, 0], None),
    "one column": ([np.zeros((2, 1), np.float32)], [0, 0], None),
}


@pytest.mark.parametrize(("outputs", "label", "wanted"), PREDICTIONS.values(), ids=PREDICTIONS)
def test_a_model_predicts_integers_or_the_largest_score(
    outputs: list[np.ndarray], label: list[int], wanted: list[int] | None
) -> None:
    reading = predict(outputs, len(label), [-1] * len(outputs))
    assert (None if reading is None else reading[1].tolist()) == wanted


def test_classes_are_read_along_the_axis_of_the_scores() -> None:
    pixels = np.moveaxis(np.eye(3, dtype=np.float32)[[2, 0, 1, 1]], -1, 0)[None]  # [N, classes, positions]
    reading = predict([pixels], 4, [-2])
    assert reading is not None and reading[1].tolist() == [2, 0, 1, 1]


def classifier(shift: list[float]) -> Session:
    proto = model([node("Add", ["x", "c"], ["y"])], {"x": [1, 3]}, ["y"], {"c": np.array(shift, np.float32)})
    return Session(proto.SerializeToString(), threads=1)


ROWS = [{"x": np.eye(3, dtype=np.float32)[[i]]} for i in (0, 1, 2, 0)]


def test_accuracy_of_both_models_is_counted_over_the_labelled_samples() -> None:
    labels = {str(i): np.array([c]) for i, c in enumerate([0, 1, 1])}
    biased = classifier([5, 0, 0])
    actual = compare(classifier([0, 0, 0]), biased, InMemory(ROWS), Measures(labels)).accuracy
    assert actual is not None
    assert (actual.fp32, actual.quantized, actual.labels) == pytest.approx((2 / 3, 1 / 3, 3))
    assert actual.drop == pytest.approx(1 / 3)
    assert (actual.samples, actual.lost, actual.won) == (3, 1, 0)
    assert (actual.output, actual.classes) == ("y", 3)


def test_labels_for_none_of_the_samples_are_an_error() -> None:
    measures = Measures({"other": np.array([1])})
    compared = compare(classifier([0, 0, 0]), classifier([0, 0, 0]), InMemory(ROWS), measures)
    assert compared.accuracy is None
    with pytest.raises(DataError, match="no sample has a label"):
        check_labelled(compared, measures)


def test_the_output_that_labels_are_of_is_scored_though_these_samples_have_none() -> None:
    labels = Measures({"other": np.array([1])})
    (output,) = compare(classifier([0, 0, 0]), classifier([5, 0, 0]), InMemory(ROWS), labels).outputs
    assert (output.task, output.top1) == ("classify", 0.5)


@pytest.mark.parametrize(
    ("right", "labels", "classes", "doubted"),
    [(0, 4, 10, True), (0, 3, 10, False), (40, 200, 10, False), (25, 200, 10, True), (52, 100, 2, True),
     (70, 100, 2, False), (4, 4, 10, False)],
)  # fmt: skip
def test_an_fp32_accuracy_near_chance_is_doubted(
    right: int, labels: int, classes: int, doubted: bool
) -> None:
    accuracy = Accuracy(right / labels, right / labels, labels, classes=classes)
    assert accuracy.near_chance == doubted


@pytest.mark.parametrize(
    ("lost", "won", "sure"), [(0, 0, False), (3, 0, False), (6, 0, True), (12, 10, False)]
)
def test_an_accuracy_drop_must_exceed_noise(lost: int, won: int, sure: bool) -> None:
    accuracy = Accuracy(0.9, 0.9 - (lost - won) / 200, 200, lost=lost, won=won)
    low, high = accuracy.drop_interval
    assert low <= accuracy.drop <= high
    assert (low > 0.005) == sure


def test_labels_that_no_output_predicts_are_an_error() -> None:
    with pytest.raises(DataError, match="no output predicts"):
        compare(
            classifier([0, 0, 0]), classifier([0, 0, 0]), InMemory(ROWS), Measures({"0": np.array([1, 2])})
        )


def test_without_labels_there_is_no_accuracy() -> None:
    assert compare(classifier([0, 0, 0]), classifier([0, 0, 0]), InMemory(ROWS)).accuracy is None


STEPS = {"AAB": [0, 2, 0, 1, 1, 2], "B": [2, 1, 1, 2, 2, 2], "": [2, 2, 2, 2, 2, 2]}  # 2 is the blank


@pytest.mark.parametrize(
    ("alphabet", "order", "axis"),
    [("AB-", [0, 1, 2], 2), ("-AB", [2, 0, 1], 2), ("AB", [2, 0, 1], 2), ("AB", [0, 1, 2], 1)],
    ids=["blank last", "blank first", "no symbol, first", "no symbol, last; classes on axis 1"],
)
def test_texts_are_what_ctc_reads(alphabet: str, order: list[int], axis: int, tmp_path: Path) -> None:
    """The second model takes every B for an A."""
    scores = [{"x": np.eye(3, dtype=np.float32)[steps][None][..., order]} for steps in STEPS.values()]
    mistake = np.zeros((1, 1, 3), np.float32)
    mistake[..., order.index(1)] = -5
    perm = [0, 1, 2] if axis == 2 else [0, 2, 1]
    protos = [
        model(
            [node("Add", ["x", "c"], ["h"]), node("Transpose", ["h"], ["y"], perm=perm)],
            {"x": [1, 6, 3]}, ["y"], {"c": c},
        )
        for c in (np.zeros_like(mistake), mistake)
    ]  # fmt: skip
    judging = Judging(
        labels=write(tmp_path / "l.json", dict(zip("012", STEPS, strict=True))), alphabet=alphabet
    )
    measures = with_scores(measures_of(judging), judging, ir.from_proto(protos[0]))
    fp32, other = (Session(proto.SerializeToString(), threads=1) for proto in protos)
    actual = compare(fp32, other, InMemory(scores), measures)
    assert actual.accuracy is not None
    assert (actual.accuracy.fp32, actual.accuracy.quantized) == pytest.approx((1, 1 / 3))
    assert actual.outputs[0].task == "ctc"


@pytest.mark.parametrize("alphabet", ["ab\n", '["a", "b"]'], ids=["lines", "JSON"])
def test_an_alphabet_is_read_from_a_file(alphabet: str, tmp_path: Path) -> None:
    file = write(
        tmp_path / ("a.json" if alphabet.startswith("[") else "a.txt"), alphabet.replace("ab", "a\nb")
    )
    assert read_alphabet(str(file)).symbols == ("a", "b")


def test_names_of_classes_are_classes_unless_they_are_sequences(tmp_path: Path) -> None:
    path = write(tmp_path / "l.json", {"_classes": ["cat", "dog"], "0": "dog", "1": ["cat", "dog"]})
    assert {k: v.tolist() for k, v in read_labels(path).items()} == {"0": [1], "1": [0, 1]}  # type: ignore[union-attr]
    spelled = read_labels(write(tmp_path / "l.csv", "name,text\n0,2019\n"), Alphabet(tuple("0129")))
    assert spelled == {"0": Spelled(("2019",), Alphabet(tuple("0129")))}
