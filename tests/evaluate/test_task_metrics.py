"""Task metrics: each against an independent implementation, through compare, and with its mistakes named."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from scipy.special import logsumexp

import qtool
from qtool.errors import DataError, UsageError
from qtool.evaluate.tasks.boxes import nms
from qtool.evaluate.tasks.load import load_task, task_of
from qtool.evaluate.tasks.score import Truths
from qtool.evaluate.tasks.sequences import edit_distance
from qtool.options import Comparing
from qtool.tables.task_metrics import TASK_METRICS
from tests.graphs import model, node

RNG = np.random.default_rng(7)


def scored(
    metric: str, outputs: list[np.ndarray], truths: list[Any], inputs: Any = None, **notes: Any
) -> float:
    """The value of a metric over samples 0, 1, .. of one output."""
    row = task_of(metric)
    assert row is not None
    pair = load_task(metric, row, Truths("labels", {str(i): t for i, t in enumerate(truths)}, notes))
    for i, output in enumerate(outputs):
        pair.add(f"{i}.npz", {"y": output}, {"y": output}, inputs[i] if inputs else {})
    values = pair.values()
    assert values[f"{row.name}_drop"] == 0
    return values[row.name]


@pytest.mark.parametrize("k", [1, 5])
def test_top_k_accuracy_is_the_share_of_labels_among_the_largest(k: int) -> None:
    scores = [RNG.normal(size=(1, 12)).astype(np.float32) for _ in range(60)]
    truths = RNG.integers(0, 12, 60).tolist()
    expected = np.mean([t in np.argsort(-s[0])[:k] for s, t in zip(scores, truths, strict=True)])
    assert scored(f"top{k}_accuracy", scores, truths) == pytest.approx(expected)


def spans(tags: list[str]) -> set[tuple[int, int, str]]:
    """The entities of IOB2 tags, read as one string by a regular expression."""
    text = "".join(f"<{tag}>" for tag in tags)
    entities = set()
    for match in re.finditer(r"<[BI]-(\w)>(?:<I-\1>)*", text):
        start = text[: match.start()].count("<")
        entities.add((start, start + match[0].count("<") - 1, match[1]))
    return entities


def test_f1_counts_entities_or_tokens() -> None:
    tags = ["O", "B-X", "I-X", "B-Y", "I-Y"]
    truths = [RNG.choice(5, 12, p=[0.4, 0.2, 0.15, 0.15, 0.1]) for _ in range(40)]
    guesses = [np.where(RNG.random(12) < 0.3, RNG.integers(0, 5, 12), t) for t in truths]
    outputs = [np.eye(5, dtype=np.float32)[g][None] for g in guesses]
    pairs = [[spans([tags[i] for i in each]) for each in both] for both in zip(truths, guesses, strict=True)]
    hits, total = (sum(map(len, rows)) for rows in ([a & b for a, b in pairs], [x for p in pairs for x in p]))
    labels = [t.tolist() for t in truths]
    assert scored("f1", outputs, labels, _classes=tags) == pytest.approx(2 * hits / total)
    t, g = np.concatenate(truths), np.concatenate(guesses)
    expected = 2 * ((t == g) & (t > 0)).sum() / ((t > 0).sum() + (g > 0).sum())
    assert scored("f1", outputs, labels) == pytest.approx(expected)


def distance(a: str, b: str) -> int:
    """Levenshtein's distance by its definition."""
    table = {(i, j): i + j for i in range(len(a) + 1) for j in range(len(b) + 1) if not i or not j}
    for i, x in enumerate(a, start=1):
        for j, y in enumerate(b, start=1):
            table[i, j] = min(table[i - 1, j] + 1, table[i, j - 1] + 1, table[i - 1, j - 1] + (x != y))
    return table[len(a), len(b)]


def test_the_edit_distance_is_the_least_number_of_edits() -> None:
    for _ in range(40):
        a, b = ("".join(RNG.choice(list("abc"), RNG.integers(0, 9))) for _ in range(2))
        assert edit_distance(a, b) == distance(a, b)


def test_error_rates_decode_ctc() -> None:
    symbols = ["a", "b", " ", "-"]
    steps = [0, 0, 3, 0, 2, 1, 3, 3]  # a a, then b
    output = np.eye(4, dtype=np.float32)[steps][None]
    assert scored("cer", [output], ["aa b"], _classes=symbols) == 0
    assert scored("cer", [output], ["ab b"], _classes=symbols) == 0.25
    assert scored("wer", [output], ["ab b"], _classes=symbols) == 0.5
    assert scored("cer:ctc=0", [output], ["aa-a b--"], _classes=symbols) == 0


def test_perplexity_is_of_the_labels_or_of_the_next_tokens() -> None:
    logits = RNG.normal(size=(1, 9, 20)).astype(np.float32)
    ids = RNG.integers(0, 20, (1, 9))
    rows = logits[0].astype(np.float64)
    losses = [logsumexp(rows[i]) - rows[i, ids[0, i + 1]] for i in range(8)]
    assert scored("perplexity", [logits], [], [{"ids": ids}]) == pytest.approx(np.exp(np.mean(losses)))
    shifted = [*ids[0, 1:].tolist(), -100]
    assert scored("perplexity", [logits], [shifted]) == pytest.approx(np.exp(np.mean(losses)))


def test_psnr_and_sts() -> None:
    a, b = RNG.random((2, 3, 8, 8))
    expected = 20 * np.log10(255) - 10 * np.log10(np.mean((a - b) ** 2))
    assert scored("psnr:peak=255", [a], [b]) == pytest.approx(expected)
    vectors = RNG.normal(size=(12, 1, 16))
    pairs = [[str(i), f"{i + 1}.npz", float(RNG.random())] for i in range(11)]
    cosines = [
        float((u @ v.T).item() / np.linalg.norm(u) / np.linalg.norm(v))
        for u, v in itertools.pairwise(vectors)
    ]
    scores = [score for *_, score in pairs]
    assert scored("sts_pearson", list(vectors), [], _pairs=pairs) == pytest.approx(
        np.corrcoef(cosines, scores)[0, 1]
    )
    ranks = [np.argsort(np.argsort(x)) for x in (cosines, scores)]
    assert scored("sts_spearman", list(vectors), [], _pairs=pairs) == pytest.approx(np.corrcoef(*ranks)[0, 1])


def test_nms_keeps_the_best_of_each_class() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [0, 0, 10, 10], [20, 20, 30, 30]], np.float64)
    assert nms(boxes, np.array([0.5, 0.9, 0.4, 0.1]), np.array([0, 0, 1, 0]), 0.5).tolist() == [1, 2, 3]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A model that gives its input back, and one that swaps two scores."""
    swap = np.eye(4, dtype=np.float32)[[1, 0, 2, 3]]
    for name, weight in (("fp32", np.eye(4, dtype=np.float32)), ("q", swap)):
        proto = model([node("MatMul", ["x", "w"], ["y"])], {"x": ("n", 4)}, {"y": ("n", 4)}, {"w": weight})
        onnx.save(proto, tmp_path / f"{name}.onnx")
    (tmp_path / "eval").mkdir()
    for i in range(4):
        np.savez(tmp_path / "eval" / f"{i}.npz", x=np.eye(4, dtype=np.float32)[i : i + 1])
    (tmp_path / "labels.json").write_text(json.dumps({f"{i}.npz": i for i in range(4)}))
    return tmp_path


def judged(place: Path, metric: str, labels: str | None = "labels.json", **options: Any) -> qtool.Report:
    chosen = Comparing(metrics=metric, labels=labels and place / labels, gate="none", **options)
    return qtool.compare(place / "fp32.onnx", place / "q.onnx", place / "eval", chosen)


def test_both_models_are_scored_and_gates_judge_the_loss(place: Path) -> None:
    report = judged(place, "top1_accuracy", fail_if=["top1_accuracy<0.4", "top1_accuracy_drop>0.4"])
    assert report.comparison is not None
    values: Mapping[str, float] = report.comparison.user_metrics
    assert values == {"top1_accuracy": 0.5, "top1_accuracy_fp32": 1.0, "top1_accuracy_drop": 0.5}
    assert [g.failed for g in report.gates] == [False, True]


@pytest.mark.parametrize(
    ("metric", "labels", "error", "message"),
    [
        ("top_accuracy", "labels.json", UsageError, "no such metric"),
        ("top1_accuracy", None, UsageError, "needs labels"),
        ("top1_accuracy:q=1", "labels.json", UsageError, "no option 'q'"),
        ("top1_accuracy:k=x", "labels.json", UsageError, "not a number"),
        ("top1_accuracy:output=z", "labels.json", DataError, "no output 'z'"),
        ("cer", "labels.json", UsageError, "no symbols"),
        ("sts_pearson", "labels.json", UsageError, "no pairs"),
        ("psnr", "missing", DataError, "do not exist"),
        ("psnr", "eval", DataError, "no .npy"),
        ("top1_accuracy", "others.json", DataError, "no sample has a label"),
        ("top1_accuracy", "texts.json", DataError, "class numbers"),
    ],
)
def test_a_mistake_is_named(
    metric: str, labels: str | None, error: type[Exception], message: str, place: Path
) -> None:
    (place / "others.json").write_text('{"z.npz": 1}')
    (place / "texts.json").write_text('{"0.npz": "a"}')
    with pytest.raises(error, match=message):
        judged(place, metric, labels)


def test_every_metric_has_a_scorer() -> None:
    assert all(task_of(name) is row for name, row in TASK_METRICS.items())
