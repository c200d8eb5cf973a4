"""Scores of values: PSNR of images and signals, and similarity of embeddings."""

from __future__ import annotations

import math
from pathlib import PurePath

import numpy as np
from scipy import stats

from qtool.errors import UsageError
from qtool.evaluate.tasks.score import Options, Prediction, Truths


class Psnr:
    """20 log10(peak) - 10 log10(mean squared error) over all values of all samples, in dB."""

    def __init__(self, options: Options, truths: Truths) -> None:
        self._peak, self._output = float(options["peak"]), str(options["output"])
        self._squares, self._count = 0.0, 0

    def add(self, prediction: Prediction) -> None:
        output = prediction.output(self._output).astype(np.float64)
        truth = np.asarray(prediction.truth)
        if truth.dtype.kind not in "fiu" or truth.size != output.size:
            raise prediction.wrong(f"an array of {output.size} numbers")
        self._squares += float(np.square(output.reshape(-1) - truth.reshape(-1)).sum())
        self._count += output.size

    def value(self) -> float:
        if not self._count:
            return math.nan
        error = self._squares / self._count
        return 10 * math.log10(self._peak**2 / error) if error else math.inf


class Similarity:
    """Correlation over pairs of the cosine of two embeddings with the score that people gave.

    An output with a vector a token is averaged over tokens, without those that an attention mask leaves out.

    Raises:
        UsageError: the labels have no pairs.
    """

    def __init__(self, options: Options, truths: Truths) -> None:
        self._rank, self._output = bool(options["rank"]), str(options["output"])
        self._pairs = truths.notes.get("_pairs", ())
        rows = [row for row in self._pairs if isinstance(row, list) and len(row) == 3]
        if not rows or len(rows) != len(self._pairs):
            raise UsageError(
                f"labels '{truths.file}' have no pairs", "add '_pairs': [[sample, sample, score], ..]"
            )
        self._embeddings: dict[str, np.ndarray] = {}

    def add(self, prediction: Prediction) -> None:
        output = prediction.output(self._output).astype(np.float64)
        if output.ndim == 3:
            tokens = output.reshape(-1, output.shape[-1])
            masks = (np.asarray(a).reshape(-1) for n, a in prediction.inputs.items() if "mask" in n.lower())
            mask = next((m for m in masks if m.size == len(tokens)), np.ones(len(tokens)))
            output = (tokens * mask[:, None]).sum(axis=0) / max(mask.sum(), 1)
        self._embeddings[prediction.sample] = output.reshape(-1)

    def value(self) -> float:
        embeddings = self._embeddings | {PurePath(n).stem: e for n, e in self._embeddings.items()}
        rows = [
            (embeddings[a], embeddings[b], float(score))
            for a, b, score in self._pairs
            if a in embeddings and b in embeddings
        ]
        if len(rows) < 2:
            return math.nan
        cosines = [a @ b / max(math.sqrt((a @ a) * (b @ b)), 1e-300) for a, b, _ in rows]
        scores = [score for _, _, score in rows]
        if self._rank:
            return float(stats.spearmanr(cosines, scores).statistic)
        return float(stats.pearsonr(cosines, scores).statistic)
