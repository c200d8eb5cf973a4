"""The ready task metrics of --metric: a row a metric."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class TaskMetric:
    """One metric of a model's task.

    Args:
        name: for --metric and for gates.
        summary: what it is, and what --labels holds for each sample.
        scorer: 'module:class' that accumulates it.
        options: name -> default of what '--metric NAME:OPTION=VALUE,..' sets; a value has the default's type.
        lower: less is better.
        labels: it needs --labels.
        library: the package that it needs, for pip; '' for none.
    """

    name: str
    summary: str
    scorer: str
    options: Mapping[str, str | int | float] = field(default_factory=dict)
    lower: bool = False
    labels: bool = True
    library: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its values: of the quantized model, of FP32, and what quantization lost."""
        return self.name, f"{self.name}_fp32", f"{self.name}_drop"


_CLASSES = "qtool.evaluate.tasks.classes:"
_TEXT = "qtool.evaluate.tasks.sequences:"
_VALUES = "qtool.evaluate.tasks.values:"
# The index of the blank is that of the last symbol; -1 counts from the end.
_SYMBOLS = {"ctc": 1, "blank": -1}
TASK_METRICS: dict[str, TaskMetric] = {
    m.name: m
    for m in (
        TaskMetric(
            "top1_accuracy", "share of classes that have the largest score (a class, or a list)",
            f"{_CLASSES}TopAccuracy", {"k": 1},
        ),
        TaskMetric(
            "top5_accuracy", "share of classes among the five largest scores (the same)",
            f"{_CLASSES}TopAccuracy", {"k": 5},
        ),
        TaskMetric(
            "map",
            "COCO mAP of boxes ({'boxes': [[x1, y1, x2, y2], ..], 'classes': [..]}, and 'crowd')",
            "qtool.evaluate.tasks.boxes:MeanAveragePrecision",
            {"layout": "auto", "iou": 0.65, "score": 0.001, "most": 100},
            library="faster-coco-eval>=1.6",
        ),
        TaskMetric(
            "f1", "F1 of token classes (a list; -100 is skipped): of entities where '_classes' names IOB2 "
            "tags, else of all tokens but those of class 0", f"{_CLASSES}TokenF1",
        ),
        TaskMetric(
            "wer", "word error rate of texts that argmax decides (a text; '_classes' are the symbols)",
            f"{_TEXT}ErrorRate", {**_SYMBOLS, "words": 1}, lower=True,
        ),
        TaskMetric(
            "cer", "character error rate of such texts", f"{_TEXT}ErrorRate", {**_SYMBOLS, "words": 0},
            lower=True,
        ),
        TaskMetric(
            "perplexity", "of a language model (token ids, -100 is skipped; default: the input, shifted); "
            "with a cache, token by token", f"{_TEXT}Perplexity", {"cache": 1}, lower=True, labels=False,
        ),
        TaskMetric(
            "psnr", "peak signal to noise ratio in dB of all values (a folder of .npy)",
            f"{_VALUES}Psnr", {"peak": 1.0},
        ),
        TaskMetric(
            "sts_spearman", "rank correlation of cosines of samples with '_pairs': [[a, b, score], ..]",
            f"{_VALUES}Similarity", {"rank": 1},
        ),
        TaskMetric("sts_pearson", "correlation of the same", f"{_VALUES}Similarity", {"rank": 0}),
    )
}  # fmt: skip
