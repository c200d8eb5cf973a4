"""Train a small detector of shapes on generated images; write it and its samples to detector/.

    python sample_models/detector.py

Needs torch, onnx and numpy. Seeded, and on one CPU thread. The head is that of YOLOv8: [N, 4 + classes,
cells], with boxes as centre x, centre y, width, height in pixels, and a score a class.
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent / "detector"
SEED = 20241
SIZE, STRIDE = 64, 8
CLASSES = ("disc", "square", "triangle")
N_TRAIN, N_CALIB, N_EVAL = 4000, 32, 60
EPOCHS, BATCH, RATE = 6, 32, 6e-3
MAX_BYTES = 300_000

Boxes = list[tuple[float, float, float, float, int]]
"""x1, y1, x2, y2, class."""


def drawn(rng: np.random.Generator) -> tuple[np.ndarray, Boxes]:
    """One to three shapes on a plain background: uint8 [3, 64, 64], and their boxes."""
    image = np.empty((3, SIZE, SIZE))
    image[:] = rng.integers(0, 256, (3, 1, 1))
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    stripe = rng.integers(0, SIZE)
    image[:, stripe : stripe + 2] = rng.integers(0, 256, (3, 1, 1))  # a line that is no shape
    boxes: Boxes = []
    for _ in range(rng.integers(1, 4)):
        half = float(rng.uniform(5, 14))
        cx, cy = rng.uniform(half, SIZE - half, 2)
        kind = int(rng.integers(len(CLASSES)))
        dx, dy = (x - cx) / half, (y - cy) / half
        inside = [
            dx**2 + dy**2 < 1,
            np.maximum(abs(dx), abs(dy)) < 1,
            (abs(dx) < (dy + 1) / 2) & (abs(dy) < 1),
        ][kind]
        if any(
            max(a, cx - half) < min(c, cx + half) and max(b, cy - half) < min(d, cy + half)
            for a, b, c, d, _ in boxes
        ):
            continue
        ground = image[:, int(cy), int(cx)]
        colour = rng.integers(0, 256, 3)
        while abs(colour - ground).max() < 60:
            colour = rng.integers(0, 256, 3)
        image[:, inside] = colour[:, None]
        boxes.append((cx - half, cy - half, cx + half, cy + half, kind))
    return image.astype(np.uint8), boxes


class Detector(nn.Module):
    """Seven convolutions; the decoding of boxes is part of the graph."""

    def __init__(self) -> None:
        super().__init__()
        widths = [3, 12, 24, 24, 40, 40, 40]
        strides = [2, 1, 2, 1, 2, 1]
        layers: list[nn.Module] = []
        for a, b, stride in zip(widths, widths[1:], strides, strict=False):
            layers += [nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.head = nn.Conv2d(widths[-1], 4 + len(CLASSES), 1)
        nn.init.constant_(self.head.bias[4:], -3.0)
        ys, xs = torch.meshgrid(torch.arange(SIZE // STRIDE), torch.arange(SIZE // STRIDE), indexing="ij")
        self.register_buffer("cells", torch.stack([xs, ys]).reshape(1, 2, -1).float())

    def forward(self, images: Tensor) -> Tensor:
        """Images [N, 3, 64, 64] in 0..1 -> [N, 4 + classes, 64 cells]."""
        raw = self.head(self.body(images)).flatten(2).sigmoid()
        centre = (raw[:, :2] * 2 - 0.5 + self.cells) * STRIDE
        return torch.cat([centre, (raw[:, 2:4] * 2) ** 2 * 2 * STRIDE, raw[:, 4:]], 1)


def targets(boxes: Boxes) -> np.ndarray:
    """What each cell should say: [5, cells], its box as in the output, and its class; -1: none."""
    side = SIZE // STRIDE
    out = np.full((5, side, side), -1.0, np.float32)
    for x1, y1, x2, y2, kind in boxes:
        column, row = (x1 + x2) / 2 / STRIDE, (y1 + y2) / 2 / STRIDE
        for r in range(side):
            for c in range(side):
                if abs(c + 0.5 - column) < 0.95 and abs(r + 0.5 - row) < 0.95:
                    out[:, r, c] = (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1, kind
    return out.reshape(5, -1)


def loss_of(output: Tensor, target: Tensor) -> Tensor:
    """Cross entropy of the scores, and 1 - IoU with an L1 term of the boxes of cells that have one."""
    kind = target[:, 4].long()
    wanted = F.one_hot(kind.clamp(min=0), len(CLASSES)).permute(0, 2, 1).float() * (kind >= 0)[:, None]
    scores = F.binary_cross_entropy(output[:, 4:].clamp(1e-6, 1 - 1e-6), wanted, reduction="sum")
    a = output[:, :4].permute(0, 2, 1)[kind >= 0]
    b = target[:, :4].permute(0, 2, 1)[kind >= 0]
    low = torch.maximum(a[:, :2] - a[:, 2:] / 2, b[:, :2] - b[:, 2:] / 2)
    high = torch.minimum(a[:, :2] + a[:, 2:] / 2, b[:, :2] + b[:, 2:] / 2)
    shared = (high - low).clamp(min=0).prod(1)
    iou = shared / (a[:, 2:].prod(1) + b[:, 2:].prod(1) - shared + 1e-6)
    return (scores + 2 * (1 - iou).sum() + 0.1 * (a - b).abs().sum()) / max(len(b), 1)


def train(images: np.ndarray, wanted: np.ndarray) -> Detector:
    """Train on uint8 images [n, 3, 64, 64] and targets [n, 5, cells]."""
    torch.manual_seed(SEED)
    network = Detector()
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=0.01)
    steps = EPOCHS * (len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min((s + 1) / 100, 0.5 * (1 + math.cos(math.pi * s / steps)))
    )
    for epoch in range(1, EPOCHS + 1):
        total = 0.0
        order = torch.randperm(len(images))[: len(images) // BATCH * BATCH]
        for index in order.split(BATCH):
            batch = torch.from_numpy(images[index].astype(np.float32) / 255)
            loss = loss_of(network(batch), torch.from_numpy(wanted[index]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(index)
        print(f"epoch {epoch}/{EPOCHS}, loss {total / len(order):.4f}", flush=True)
    return network.eval()


def write(network: Detector, parts: dict[str, list[tuple[np.ndarray, Boxes]]]) -> None:
    """Write model.onnx, the samples, and the boxes of those of eval."""
    shutil.rmtree(HERE, ignore_errors=True)
    HERE.mkdir()
    torch.onnx.export(
        network, (torch.zeros(1, 3, SIZE, SIZE),), str(HERE / "model.onnx"), dynamo=False, opset_version=17,
        input_names=["image"], output_names=["boxes"], dynamic_axes={"image": {0: "N"}, "boxes": {0: "N"}},
    )  # fmt: skip
    for part, samples in parts.items():
        (HERE / part).mkdir()
        for i, (image, _) in enumerate(samples):
            array = image[None].astype(np.float32) / np.float32(255)
            np.savez_compressed(HERE / part / f"{i:03}.npz", image=array)
    truths = {
        f"{i:03}.npz": {
            "boxes": [[round(float(v), 2) for v in box[:4]] for box in boxes],
            "classes": [box[4] for box in boxes],
        }
        for i, (_, boxes) in enumerate(parts["eval"])
    }
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(truth)}" for name, truth in truths.items())
    (HERE / "boxes.json").write_text(f"{{\n{lines}\n}}\n")
    total = sum(p.stat().st_size for p in HERE.rglob("*") if p.is_file())
    assert total <= MAX_BYTES, f"{total} bytes"
    print(f"{total} bytes")


def main() -> None:
    """Retrain the detector and rewrite its folder."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(SEED)
    train_set, calib, evaluation = ([drawn(rng) for _ in range(n)] for n in (N_TRAIN, N_CALIB, N_EVAL))
    images = np.stack([image for image, _ in train_set])
    network = train(images, np.stack([targets(boxes) for _, boxes in train_set]))
    write(network, {"calib": calib, "eval": evaluation})


if __name__ == "__main__":
    main()
