"""Scores of classes: top-k accuracy, and F1 of token classes."""

from __future__ import annotations

import math

import numpy as np

from qtool.evaluate.tasks.score import Options, Prediction, Truths, classes_of, scores_of

IGNORED = -100
Entity = tuple[int, int, str]


class TopAccuracy:
    """Share of labels among the k largest scores; a tie at the k-th place counts for the label."""

    def __init__(self, options: Options, truths: Truths) -> None:
        self._k, self._output = int(options["k"]), str(options["output"])
        self._hits = self._total = 0

    def add(self, prediction: Prediction) -> None:
        truth = classes_of(prediction, self._output)
        scores = scores_of(prediction, truth.size, self._output)
        kept = truth != IGNORED
        if (truth[kept] >= scores.shape[1]).any() or (truth[kept] < 0).any():
            raise prediction.wrong(f"classes from 0 to {scores.shape[1] - 1}")
        rows, truth = scores[kept], truth[kept]
        above = (rows > rows[np.arange(len(rows)), truth][:, None]).sum(axis=1)
        self._hits += int((above < self._k).sum())
        self._total += len(rows)

    def value(self) -> float:
        return self._hits / self._total if self._total else math.nan


class TokenF1:
    """Micro F1: of entities (IOB2 tags, as CoNLL 2003 counts them), or of tokens that are not of class 0."""

    def __init__(self, options: Options, truths: Truths) -> None:
        self._output = str(options["output"])
        self._tags = [str(tag) for tag in truths.notes.get("_classes", ())]
        self._hits = self._predicted = self._true = 0

    def add(self, prediction: Prediction) -> None:
        truth = classes_of(prediction, self._output)
        guess = scores_of(prediction, truth.size, self._output).argmax(axis=1)
        kept = truth != IGNORED
        truth, guess = truth[kept], guess[kept]
        if self._tags:
            if max(truth.max(initial=0), guess.max(initial=0)) >= len(self._tags):
                raise prediction.wrong(f"classes of the {len(self._tags)} tags of '_classes'")
            a, b = (entities([self._tags[i] for i in classes]) for classes in (truth, guess))
        else:
            a, b = ({(i, i, str(c)) for i, c in enumerate(classes) if c} for classes in (truth, guess))
        self._hits += len(a & b)
        self._true += len(a)
        self._predicted += len(b)

    def value(self) -> float:
        total = self._true + self._predicted
        return 2 * self._hits / total if total else math.nan


def entities(tags: list[str]) -> set[Entity]:
    """Return the entities of IOB2 tags: first token, last token, type. An I after another type begins one."""
    spans: set[Entity] = set()
    start, kind = 0, ""
    for place, tag in enumerate([*tags, "O"]):
        prefix, _, name = tag.partition("-")
        continues = prefix == "I" and name == kind and kind
        if kind and not continues:
            spans.add((start, place - 1, kind))
            kind = ""
        if not continues and prefix in ("B", "I"):
            start, kind = place, name or "_"
    return spans
