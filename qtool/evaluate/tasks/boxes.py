"""COCO mAP of detectors with YOLO-like heads: boxes decoded, then NMS, then COCO's own evaluation."""

from __future__ import annotations

import contextlib
import io
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qtool.errors import DataError, EnvironmentFailure, UsageError, printable
from qtool.evaluate.tasks.score import Options, Prediction, Truths

F64 = NDArray[np.float64]
LAYOUTS = {
    "yolov8": "[1, 4 + classes, N]: centre x, centre y, width, height, a score a class",
    "yolov5": "[1, N, 5 + classes]: the same, with an objectness before the scores",
    "nms": "[1, N, 6]: x1, y1, x2, y2, score, class: the model has its own NMS",
}
_KEYS = ("boxes", "classes")


class MeanAveragePrecision:
    """mAP over IoU from 0.5 to 0.95, over all classes, as COCO counts it.

    Raises:
        EnvironmentFailure: the library is missing.
        UsageError: no such layout.
    """

    def __init__(self, options: Options, truths: Truths) -> None:
        self._options = options
        if options["layout"] not in ("auto", *LAYOUTS):
            texts = "; ".join(f"{name}: {text}" for name, text in LAYOUTS.items())
            raise UsageError(f"map: no layout '{options['layout']}'", f"auto, by the shape; {texts}")
        try:
            import faster_coco_eval  # noqa: F401
        except ImportError as error:
            raise EnvironmentFailure(
                "the metric map needs faster-coco-eval", "pip install 'faster-coco-eval>=1.6'"
            ) from error
        self._truths: list[dict[str, Any]] = []
        self._boxes: list[dict[str, Any]] = []
        self._images = 0

    def add(self, prediction: Prediction) -> None:
        self._images += 1
        self._add_truth(prediction)
        boxes, scores, classes = self._decoded(prediction)
        for (x1, y1, x2, y2), score, kind in zip(
            boxes.tolist(), scores.tolist(), classes.tolist(), strict=True
        ):
            box = [x1, y1, x2 - x1, y2 - y1]
            self._boxes.append({"image_id": self._images, "category_id": kind, "bbox": box, "score": score})

    def value(self) -> float:
        return mean_average_precision(self._images, self._truths, self._boxes)

    def _add_truth(self, prediction: Prediction) -> None:
        truth = prediction.truth
        if not isinstance(truth, dict) or any(key not in truth for key in _KEYS):
            raise prediction.wrong("{'boxes': [[x1, y1, x2, y2], ..], 'classes': [..]}")
        boxes = np.asarray(truth["boxes"], np.float64).reshape(-1, 4)
        crowd = truth.get("crowd", [0] * len(boxes))
        if not len(boxes) == len(truth["classes"]) == len(crowd):
            raise prediction.wrong("as many boxes as classes")
        areas = truth.get("areas", [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in boxes.tolist()])
        for (x1, y1, x2, y2), kind, many, area in zip(
            boxes.tolist(), truth["classes"], crowd, areas, strict=True
        ):
            self._truths.append({
                "id": len(self._truths) + 1, "image_id": self._images, "category_id": int(kind),
                "area": float(area), "bbox": [x1, y1, x2 - x1, y2 - y1], "iscrowd": int(bool(many)),
            })  # fmt: skip

    def _decoded(self, prediction: Prediction) -> tuple[F64, F64, NDArray[np.int64]]:
        output = prediction.output(str(self._options["output"])).astype(np.float64)
        layout = str(self._options["layout"])
        if output.ndim == 3 and len(output) == 1:
            output = output[0]
        if output.ndim != 2:
            raise DataError(f"{printable(prediction.sample)}: no boxes in an output of shape {output.shape}")
        if layout == "auto":
            layout = (
                "nms" if output.shape[1] == 6 else "yolov8" if output.shape[0] < output.shape[1] else "yolov5"
            )
        rows = output.T if layout == "yolov8" else output
        least = float(self._options["score"])
        if layout == "nms":
            kept = rows[rows[:, 4] >= least]
            kept = kept[np.argsort(-kept[:, 4], kind="stable")][: int(self._options["most"])]
            return kept[:, :4], kept[:, 4], kept[:, 5].astype(np.int64)
        scores = rows[:, 4:] if layout == "yolov8" else rows[:, 5:] * rows[:, 4:5]
        place, kind = np.nonzero(scores >= least)
        centre, half = rows[place, :2], rows[place, 2:4] / 2
        boxes, scores = np.concatenate([centre - half, centre + half], axis=1), scores[place, kind]
        chosen = nms(boxes, scores, kind, float(self._options["iou"]))[: int(self._options["most"])]
        return boxes[chosen], scores[chosen], kind[chosen]


def nms(boxes: F64, scores: F64, classes: NDArray[np.int64], iou: float) -> NDArray[np.int64]:
    """Return the boxes that remain, the best first: none overlaps a better one of its class too much.

    Args:
        boxes: [N, 4], x1, y1, x2, y2.
        scores, classes: [N].
        iou: the most that intersection / union may be.
    """
    order = np.argsort(-scores, kind="stable")
    areas = (boxes[:, 2:] - boxes[:, :2]).clip(0).prod(axis=1)
    kept = []
    while order.size:
        best, rest = order[0], order[1:]
        kept.append(best)
        low, high = np.maximum(boxes[best, :2], boxes[rest, :2]), np.minimum(boxes[best, 2:], boxes[rest, 2:])
        shared = (high - low).clip(0).prod(axis=1)
        overlap = shared / np.maximum(areas[best] + areas[rest] - shared, 1e-12)
        order = rest[(overlap <= iou) | (classes[rest] != classes[best])]
    return np.asarray(kept, np.int64)


def mean_average_precision(images: int, truths: list[dict[str, Any]], boxes: list[dict[str, Any]]) -> float:
    """Return COCO's AP over IoU 0.50:0.95, all areas, 100 boxes an image; nan where there is no true box.

    Args:
        images: their number; ids count from 1.
        truths, boxes: in COCO's form.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    if not truths:
        return math.nan
    if not boxes:
        return 0.0
    categories = sorted({row["category_id"] for row in (*truths, *boxes)})
    with contextlib.redirect_stdout(io.StringIO()):
        annotations = COCO({
            "images": [{"id": i + 1} for i in range(images)], "annotations": truths,
            "categories": [{"id": c, "name": str(c)} for c in categories],
        })  # fmt: skip
        evaluation = COCOeval_faster(
            annotations, annotations.loadRes(boxes), "bbox", print_function=lambda *_: None
        )
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0])
