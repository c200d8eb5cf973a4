"""Train a small diffusion model of digits; write it, its samples and its judge to diffusion/.

    python sample_models/diffusion.py

Needs torch, scikit-learn, onnx, onnxruntime and numpy. Seeded, and on one CPU thread. The model predicts
the noise in an image (Ho et al. 2020, arXiv 2006.11239); `step` tells it how much there is, in the form of
Song et al. 2021 (arXiv 2011.13456) whose variance explodes. The sampler is in sampler.py. The judge is a
classifier of digits: its features tell how far generated images are from real ones.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch
import torch.nn.functional as F
from sampler import STEPS, sample, sigma_of
from sklearn.datasets import load_digits
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent / "diffusion"
SEED = 20242
SIZE, WIDTH, EMBEDDING = 16, 48, 64
ITERATIONS, BATCH, RATE = 2000, 64, 2e-3
# Images that are generated at once for the samples, and the steps that each takes.
IMAGES, RUNS = 4, 25


class Block(nn.Module):
    """Two convolutions with BatchNorm, the step between them, and a residual: [N, C, H, W] -> the same."""

    def __init__(self, channels: int, embedding: int):
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.time = nn.Linear(embedding, channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        y = self.norm1(self.first(x)) + self.time(t)[:, :, None, None]
        return F.relu(x + self.norm2(self.second(F.relu(y))))


class Denoiser(nn.Module):
    """A U-Net: x [N, 1, 16, 16] and step [1] -> the noise in x."""

    def __init__(self) -> None:
        super().__init__()
        w, e = WIDTH, EMBEDDING
        periods = torch.exp(torch.linspace(0, math.log(200), e // 2))
        self.register_buffer("frequencies", periods / STEPS * math.pi)
        self.embed = nn.Sequential(nn.Linear(e, e), nn.ReLU())
        self.stem = nn.Conv2d(1, w, 3, padding=1)
        self.down = nn.Conv2d(w, 2 * w, 3, stride=2, padding=1)
        self.up = nn.Conv2d(2 * w, w, 1)
        self.blocks = nn.ModuleList([Block(w, e), Block(2 * w, e), Block(2 * w, e), Block(w, e)])
        self.last = nn.Conv2d(w, 1, 3, padding=1)

    def forward(self, x: Tensor, step: Tensor) -> Tensor:
        angle = step.float()[:, None] * self.frequencies
        t = self.embed(torch.cat([torch.sin(angle), torch.cos(angle)], 1))
        fine = self.blocks[0](F.relu(self.stem(x)), t)
        y = self.blocks[1](F.relu(self.down(fine)), t)
        y = self.up(self.blocks[2](y, t))
        y = F.interpolate(y, scale_factor=2.0, mode="nearest")
        return self.last(self.blocks[3](F.relu(y + fine), t))


class Classifier(nn.Module):
    """Images [N, 1, 16, 16] -> logits [N, 10] and the features [N, 32] before them."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(512, 32), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(x)
        return self.head(features), features


def digits() -> tuple[Tensor, Tensor]:
    """The digits, float32 [1797, 1, 16, 16] in -1..1, and their classes."""
    pixels, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels.reshape(-1, 1, 8, 8).astype(np.float32) / 8 - 1)
    return F.interpolate(images, size=(SIZE, SIZE), mode="bilinear", align_corners=False), torch.from_numpy(
        labels
    )


def train_classifier(images: Tensor, labels: Tensor) -> Classifier:
    """Train on images that are shifted by up to two pixels."""
    torch.manual_seed(SEED)
    network = Classifier()
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    for _ in range(20):
        for index in torch.randperm(len(images)).split(64):
            dy, dx = (int(d) for d in torch.randint(-2, 3, (2,)))
            loss = F.cross_entropy(network(torch.roll(images[index], (dy, dx), (2, 3)))[0], labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network.eval()


def train(images: Tensor) -> Denoiser:
    """Train the denoiser on images [n, 1, 16, 16]; the mean of the weights over the last steps is kept."""
    torch.manual_seed(SEED)
    network = Denoiser()
    averaged = torch.optim.swa_utils.AveragedModel(
        network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.995), use_buffers=True
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min((s + 1) / 100, 0.5 * (1 + math.cos(math.pi * s / ITERATIONS)))
    )
    total = 0.0
    for iteration in range(1, ITERATIONS + 1):
        x = images[torch.randint(len(images), (BATCH,))]
        step = torch.randint(STEPS, (BATCH,))
        sigma = torch.from_numpy(sigma_of(step.numpy()).astype(np.float32))[:, None, None, None]
        noise = torch.randn_like(x)
        loss = F.mse_loss(network(x + sigma * noise, step), noise)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        averaged.update_parameters(network)
        total += loss.item()
        if iteration % 250 == 0:
            print(f"{iteration}/{ITERATIONS}, loss {total / 250:.4f}", flush=True)
            total = 0.0
    return averaged.module.eval()


def write(network: Denoiser, classifier: Classifier, images: Tensor) -> None:
    """Write model.onnx, judge.onnx, the features of real images, and the samples."""
    shutil.rmtree(HERE, ignore_errors=True)
    HERE.mkdir()
    torch.onnx.export(
        network, (torch.zeros(2, 1, SIZE, SIZE), torch.zeros(1, dtype=torch.int64)), str(HERE / "model.onnx"),
        dynamo=False, opset_version=17, input_names=["x", "step"], output_names=["noise"],
        dynamic_axes={"x": {0: "N"}, "noise": {0: "N"}},
    )  # fmt: skip
    torch.onnx.export(
        classifier, (images[:2],), str(HERE / "judge.onnx"), dynamo=False, opset_version=17,
        input_names=["x"], output_names=["logits", "features"], dynamic_axes={"x": {0: "N"}},
    )  # fmt: skip
    with torch.no_grad():
        features = classifier(images)[1].double().numpy()
    np.savez(HERE / "real.npz", mean=features.mean(0), covariance=np.cov(features.T))
    session = onnxruntime.InferenceSession(HERE / "model.onnx", providers=["CPUExecutionProvider"])
    for seed, part in enumerate(("calib", "eval")):
        (HERE / part).mkdir()
        kept = samples(lambda x, step: session.run(None, {"x": x, "step": step})[0], seed)
        for i, (x, step) in enumerate(kept):
            np.savez_compressed(HERE / part / f"{i:03}.npz", x=x, step=step)
    print(sum(p.stat().st_size for p in HERE.rglob("*") if p.is_file()), "bytes")


Fed = tuple[np.ndarray, np.ndarray]


def samples(run: Callable[[np.ndarray, np.ndarray], np.ndarray], seed: int) -> list[Fed]:
    """What the model is fed with while it generates, in random order: image [1, 1, 16, 16] and step [1]."""
    fed: list[Fed] = []

    def watched(x: np.ndarray, step: np.ndarray) -> np.ndarray:
        fed.extend((x[i : i + 1], step) for i in range(len(x)))
        return run(x, step)

    sample(watched, IMAGES, RUNS, seed)
    return [fed[i] for i in np.random.default_rng(seed).permutation(len(fed))]


def main() -> None:
    """Train both networks and rewrite the folder."""
    torch.set_num_threads(1)
    images, labels = digits()
    classifier = train_classifier(images, labels)
    write(train(images), classifier, images)


if __name__ == "__main__":
    main()
