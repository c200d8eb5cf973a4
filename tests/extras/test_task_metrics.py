"""Task metrics against libraries of the field: mAP against pycocotools, error rates against jiwer."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import jiwer
import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import qtool
from qtool.evaluate.tasks.boxes import mean_average_precision
from qtool.evaluate.tasks.load import load_task, task_of
from qtool.evaluate.tasks.score import Truths
from qtool.evaluate.tasks.sequences import edit_distance
from qtool.options import Comparing
from tests.graphs import SAMPLE_MODELS

IMAGES = 200


def generated() -> tuple[list[dict[str, Any]], np.ndarray, list[dict[str, Any]]]:
    """Labels, yolov8 outputs [images, 4 + classes, cells] and their rows: crowds, empty images, all areas."""
    rng = np.random.default_rng(3)
    labels, outputs, rows = [], np.zeros((IMAGES, 7, 40), np.float32), []
    for image in range(IMAGES):
        count = int(rng.integers(0, 9)) if image % 10 else 0
        sizes = np.exp(rng.uniform(np.log(8), np.log(250), (count, 2)))  # small, medium and large
        low = rng.uniform(0, 400, (count, 2))
        boxes = np.concatenate([low, low + sizes], axis=1).astype(np.float32).astype(float)
        kinds = rng.integers(0, 3, count)
        crowd = (rng.random(count) < 0.15).astype(int)
        labels.append({"boxes": boxes.tolist(), "classes": kinds.tolist(), "crowd": crowd.tolist()})
        for cell in range(40):
            if cell < count and rng.random() < 0.85:
                box, kind = boxes[cell] + rng.normal(0, 0.06, 4) * np.tile(sizes[cell], 2), kinds[cell]
            elif rng.random() < 0.1:
                corner = rng.uniform(0, 400, 2)
                box, kind = np.concatenate([corner, corner + rng.uniform(8, 200, 2)]), rng.integers(0, 3)
            else:
                continue
            outputs[image, :2, cell], outputs[image, 2:4, cell] = (
                (box[:2] + box[2:]) / 2,
                abs(box[2:] - box[:2]),
            )
            outputs[image, 4 + kind, cell] = rng.uniform(0.05, 1)
            x, y, w, h = outputs[image, :4, cell].astype(float)
            score = float(outputs[image, 4 + kind, cell])
            rows.append({"image_id": image + 1, "category_id": int(kind), "bbox": [x - w / 2, y - h / 2, w, h], "score": score})  # fmt: skip
    return labels, outputs, rows


def test_map_is_that_of_pycocotools() -> None:
    labels, outputs, rows = generated()
    truths = [
        {
            "id": 0, "image_id": image + 1, "category_id": kind, "bbox": [a, b, c - a, d - b], "area": (c - a) * (d - b),
            "iscrowd": crowd,
        }
        for image, label in enumerate(labels)
        for (a, b, c, d), kind, crowd in zip(*label.values(), strict=True)
    ]  # fmt: skip
    truths = [{**truth, "id": number} for number, truth in enumerate(truths, start=1)]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": i + 1} for i in range(IMAGES)], "annotations": truths,
            "categories": [{"id": i, "name": str(i)} for i in range(3)],
        }  # fmt: skip
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(rows), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    expected = float(evaluation.stats[0])
    assert 0.2 < expected < 0.9
    assert mean_average_precision(IMAGES, truths, rows) == pytest.approx(expected, abs=1e-4)
    # The same through the decoding; NMS takes no box at this IoU.
    row = task_of("map")
    assert row is not None
    pair = load_task("map:iou=1", row, Truths("", {str(i): label for i, label in enumerate(labels)}))
    for image in range(IMAGES):
        pair.add(str(image), {"boxes": outputs[image : image + 1]}, {"boxes": outputs[image : image + 1]}, {})
    assert pair.values()["map"] == pytest.approx(expected, abs=1e-4)


def test_every_layout_gives_the_same() -> None:
    labels, outputs, _ = generated()
    truths = Truths("", {str(i): label for i, label in enumerate(labels)})
    row = task_of("map")
    assert row is not None
    values = set()
    for layout in ("yolov8", "yolov5", "nms", "auto"):
        pair = load_task(f"map:layout={layout},iou=1", row, truths)
        for image, output in enumerate(outputs):
            rows = output.T
            if layout == "yolov5":
                rows = np.insert(rows, 4, 1.0, axis=1)
            elif layout == "nms":
                low, high = rows[:, :2] - rows[:, 2:4] / 2, rows[:, :2] + rows[:, 2:4] / 2
                rows = np.concatenate(
                    [low, high, rows[:, 4:].max(1)[:, None], rows[:, 4:].argmax(1)[:, None]], axis=1
                )
            made = {"boxes": (rows.T if layout in ("yolov8", "auto") else rows)[None]}
            pair.add(str(image), made, made, {})
        values.add(round(pair.values()["map"], 5))
    assert len(values) == 1


def test_error_rates_are_those_of_jiwer() -> None:
    rng = np.random.default_rng(5)
    words = ["the", "cat", "sat", "on", "a", "mat"]
    pairs = [(" ".join(rng.choice(words, rng.integers(1, 9))), " ".join(rng.choice(words, rng.integers(1, 9)))) for _ in range(60)]  # fmt: skip
    truths, texts = map(list, zip(*pairs, strict=True))
    edits = sum(edit_distance(a.split(), b.split()) for a, b in pairs)
    assert edits / sum(len(a.split()) for a in truths) == pytest.approx(jiwer.wer(truths, texts))
    edits = sum(edit_distance(list(a), list(b)) for a, b in pairs)
    assert edits / sum(map(len, truths)) == pytest.approx(jiwer.cer(truths, texts))


def test_the_detector_keeps_its_map() -> None:
    folder = SAMPLE_MODELS / "detector"
    chosen = Comparing(metrics="map", labels=folder / "boxes.json", fail_if="map_drop>0.001")
    report = qtool.compare(folder / "model.onnx", folder / "model.onnx", folder / "eval", chosen)
    assert report.comparison is not None and not report.failed
    assert report.comparison.user_metrics["map_fp32"] > 0.8
