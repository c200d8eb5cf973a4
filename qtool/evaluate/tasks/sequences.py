"""Scores of sequences: word and character error rates, and perplexity."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from qtool.data.decoder_inputs import MASK, role_of, token_ids
from qtool.errors import UsageError
from qtool.evaluate.alphabet import Alphabet
from qtool.evaluate.decoding import is_stepped
from qtool.evaluate.tasks.classes import IGNORED
from qtool.evaluate.tasks.score import Arrays, Options, Prediction, Truths, scores_of


class ErrorRate:
    """Edits that turn the decoded text into the true one / words (or characters) of the true one.

    Raises:
        UsageError: the labels have no symbols.
    """

    def __init__(self, options: Options, truths: Truths) -> None:
        self._options = options
        symbols = truths.notes.get("_classes", truths.notes.get("_chars", ()))
        self._alphabet = Alphabet(tuple(map(str, symbols)))
        if not symbols:
            raise UsageError(
                f"labels '{truths.file}' have no symbols",
                "--alphabet, or '_classes' in the JSON: a list of the text of each class",
            )
        self._edits = self._length = 0

    def add(self, prediction: Prediction) -> None:
        if not isinstance(prediction.truth, str):
            raise prediction.wrong("a text")
        truth, text = prediction.truth, self._decoded(prediction)
        a, b = (truth.split(), text.split()) if self._options["words"] else (list(truth), list(text))
        self._edits += edit_distance(a, b)
        self._length += len(a)

    def value(self) -> float:
        return self._edits / self._length if self._length else math.nan

    def _decoded(self, prediction: Prediction) -> str:
        """The text that argmax decides, CTC repeats collapsed and blanks dropped."""
        output = prediction.output(str(self._options["output"]))
        steps = output.argmax(-1) if output.dtype.kind == "f" else output
        blank = int(self._options["blank"]) % len(self._alphabet.symbols)
        return self._alphabet.spell(
            steps.reshape(-1).astype(np.int64), blank if self._options["ctc"] else None
        )


def edit_distance(a: Sequence[str], b: Sequence[str]) -> int:
    """Return Levenshtein's distance: the least insertions, deletions and substitutions from a to b."""
    row = np.arange(len(b) + 1)
    codes = {word: i for i, word in enumerate(dict.fromkeys([*a, *b]))}
    other = np.array([codes[word] for word in b], np.int64)
    for place, word in enumerate(a, start=1):
        changed = np.minimum(row[1:] + 1, row[:-1] + (other != codes[word]))
        # A chain of insertions: the least of changed[j] - j so far.
        row = np.minimum.accumulate(np.concatenate(([place], changed)) - np.arange(len(b) + 1))
        row = row + np.arange(len(b) + 1)
    return int(row[-1])


class Perplexity:
    """exp of the mean negative log-likelihood of the next tokens.

    A decoder with a cache is scored on what it gives token by token (evaluate/decoding.py).
    """

    def __init__(self, options: Options, truths: Truths) -> None:
        self._output, self._cache = str(options["output"]), bool(options["cache"])
        self._loss, self._tokens = 0.0, 0

    def add(self, prediction: Prediction) -> None:
        stepped = next(filter(is_stepped, prediction.outputs), "") if self._cache else ""
        output = stepped or self._output
        logits = prediction.output(output)
        if prediction.truth is None:
            ids = token_ids(prediction.inputs)
            if ids is None or ids.size != logits.size // logits.shape[-1]:
                return
            truth = _next_tokens(ids, prediction.inputs)
        else:
            truth = np.asarray(prediction.truth).reshape(-1)
            if truth.dtype.kind not in "iu":
                raise prediction.wrong("token ids")
        scores = scores_of(prediction, truth.size, output)
        kept = truth != IGNORED
        scores, truth = scores[kept], truth[kept].astype(np.int64)
        if truth.size and (truth.max() >= scores.shape[1] or truth.min() < 0):
            raise prediction.wrong(f"token ids below {scores.shape[1]}")
        top = scores.max(axis=1, keepdims=True, initial=-np.inf)
        total = np.log(np.exp(scores - top).sum(axis=1)) + top[:, 0]
        self._loss += float((total - scores[np.arange(len(truth)), truth]).sum())
        self._tokens += len(truth)

    def value(self) -> float:
        return math.exp(min(self._loss / self._tokens, 700.0)) if self._tokens else math.nan


def _next_tokens(ids: np.ndarray, inputs: Arrays) -> np.ndarray:
    """The token after each one, int64 [tokens of all rows]; IGNORED after the last, and for padding."""
    truth = np.full(ids.shape, IGNORED, np.int64)
    truth[..., :-1] = ids[..., 1:]
    for name, mask in inputs.items():
        if role_of(name) == MASK and mask.ndim == ids.ndim and mask.shape[-1] >= ids.shape[-1]:
            used = mask[..., mask.shape[-1] - ids.shape[-1] :] != 0
            truth[..., :-1][~(used[..., 1:] & used[..., :-1])] = IGNORED
    return truth.reshape(-1)
