"""Train the three sample models on scikit-learn's digits; write them and their samples beside this file.

    python sample_models/train.py                    # all three
    python sample_models/train.py cnn lstm           # only these

Needs torch, scikit-learn, onnx, onnxruntime, numpy and pillow. Seeded, and on one CPU thread. The networks
are in networks.py. The table in README.md is rewritten from the files in the model folders.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import onnx
import onnxruntime as ort
import torch
import torch.nn.functional as F
from networks import Cnn, Graph, Lstm, Transformer
from onnx import TensorProto, helper
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
SEED = 20240
N_CALIB, N_EVAL = 64, 200
MAX_MODEL_BYTES = 300_000
TABLE_START, TABLE_END = "<!-- table: written by train.py -->", "<!-- end of table -->"


def cnn_input(images: Tensor) -> Tensor:
    """Grey images [B, 1, 32, 32] in 0..1 -> `image` [B, 1, 32, 32], normalised with mean 0.5 and std 0.5."""
    return (images - 0.5) / 0.5


def transformer_input(images: Tensor) -> Tensor:
    """Images [B, 1, 8, 8] in 0..1 -> `pixels` [B, 16, 4]: 2x2 patches, row by row."""
    return F.unfold(images, kernel_size=2, stride=2).transpose(1, 2)


def lstm_input(images: Tensor) -> Tensor:
    """Images [B, 1, 8, 8] in 0..1 -> `rows` [B, 8, 8]: one time step a row."""
    return images[:, 0]


@dataclass(frozen=True)
class Spec:
    """One sample model: its network, its ONNX interface and how it is trained."""

    network: Callable[[], nn.Module]
    to_input: Callable[[Tensor], Tensor]
    input_name: str
    input_shape: tuple[int, ...]  # without the batch
    image_size: int  # 8: the digits as they are; 32: enlarged
    opset: int
    ir_version: int
    epochs: int
    lr: float
    rotate: float  # the augmentation: at most this many degrees,
    scale: float  # so much larger or smaller,
    shift: float  # and so far aside, as a part of the image's width


SPECS = {
    "cnn": Spec(Cnn, cnn_input, "image", (1, 32, 32), 32, 17, 8, 50, 4e-3, 12, 0.12, 0.1),
    "transformer": Spec(Transformer, transformer_input, "pixels", (16, 4), 8, 20, 9, 250, 2e-3, 10, 0.1, 0.1),
    "lstm": Spec(Lstm, lstm_input, "rows", (8, 8), 8, 17, 8, 150, 4e-3, 10, 0.1, 0.1),
}


def load_split(image_size: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The digits as train, calib and eval, split alike for all: (pixels [n, size, size], labels [n]) each.

    Pixels are 0..16 at size 8 and uint8 0..255 at size 32 (bilinear). Each class has its share in each part.
    """
    pixels, labels = load_digits(return_X_y=True)
    assert len(np.unique(pixels, axis=0)) == len(pixels), "an image is there twice"
    images = pixels.reshape(-1, 8, 8)
    if image_size != 8:
        grey = np.round(images * (255 / 16)).astype(np.uint8)
        size = (image_size, image_size)
        enlarged = [Image.fromarray(image).resize(size, Image.Resampling.BILINEAR) for image in grey]
        images = np.stack([np.asarray(image) for image in enlarged])
    everything = np.arange(len(labels))
    rest, evaluation = train_test_split(everything, test_size=N_EVAL, stratify=labels, random_state=SEED)
    training, calib = train_test_split(rest, test_size=N_CALIB, stratify=labels[rest], random_state=SEED)
    parts = {"train": training, "calib": calib, "eval": evaluation}
    return {name: (images[index], labels[index]) for name, index in parts.items()}


def to_unit(pixels: np.ndarray) -> Tensor:
    """Pixels [n, size, size], 0..16 or uint8 0..255 -> float32 [n, 1, size, size] in 0..1."""
    top = 255 if pixels.dtype == np.uint8 else 16
    return torch.from_numpy(pixels.astype(np.float32) / np.float32(top))[:, None]


def augment(images: Tensor, spec: Spec) -> Tensor:
    """Shift, rotate and scale each of images [B, 1, S, S] a little; what comes in from outside is black."""
    n = len(images)

    def uniform(limit: float) -> Tensor:
        return (torch.rand(n) * 2 - 1) * limit

    angle, scale = uniform(math.radians(spec.rotate)), 1 + uniform(spec.scale)
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    dx, dy = uniform(2 * spec.shift), uniform(2 * spec.shift)  # the grid spans -1..1
    theta = torch.stack([torch.stack([cos, -sin, dx], 1), torch.stack([sin, cos, dy], 1)], 1)  # [B, 2, 3]
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def train(name: str, spec: Spec, images: Tensor, labels: Tensor) -> nn.Module:
    """Train on images [n, 1, S, S] and labels [n]. The last epoch is kept: eval is not looked at."""
    torch.manual_seed(SEED)
    network = spec.network()
    optimizer = torch.optim.AdamW(network.parameters(), lr=spec.lr, weight_decay=0.02)
    batch = 64
    steps = spec.epochs * (len(images) // batch)
    warmup = steps // 20
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min((s + 1) / warmup, 0.5 * (1 + math.cos(math.pi * s / steps)))
    )
    start = time.monotonic()
    for epoch in range(1, spec.epochs + 1):
        network.train()
        total = 0.0
        order = torch.randperm(len(images))[: len(images) // batch * batch]
        for index in order.split(batch):
            logits = network(spec.to_input(augment(images[index], spec)))
            loss = F.cross_entropy(logits, labels[index], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += loss.item() * len(index)
        if epoch % 10 == 0:
            loss, seconds = total / len(order), time.monotonic() - start
            print(f"{name}: epoch {epoch}/{spec.epochs}, loss {loss:.4f}, {seconds:.0f} s", flush=True)
    return network.eval()


def write_model(name: str, spec: Spec, network: nn.Module, images: Tensor) -> None:
    """Write model.onnx, check it, and compare it with torch on images [n, 1, S, S]."""
    graph = Graph()
    network.to_onnx(graph, spec.input_name)
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            f"digits_{name}",
            [helper.make_tensor_value_info(spec.input_name, TensorProto.FLOAT, ["N", *spec.input_shape])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 10])],
            list(graph.initializers.values()),
        ),
        opset_imports=[helper.make_opsetid("", spec.opset)],
        ir_version=spec.ir_version,
        producer_name="sample_models/train.py",
    )
    onnx.checker.check_model(model, full_check=True)
    path = HERE / name / "model.onnx"
    onnx.save(model, path)
    assert path.stat().st_size <= MAX_MODEL_BYTES, f"{path} has {path.stat().st_size} bytes"
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    x = spec.to_input(images)
    with torch.no_grad():
        expected = network(x).numpy()
    for batch in (len(x), 1):  # the batch is dynamic
        (got,) = session.run(["logits"], {spec.input_name: x[:batch].numpy()})
        error = float(np.abs(got - expected[:batch]).max())
        assert error < 1e-4, f"{name}: ONNX Runtime and torch differ by {error}"
    print(f"{name}: {path.stat().st_size} bytes, largest difference from torch {error:.1e}")


def write_samples(name: str, spec: Spec, part: str, pixels: np.ndarray, labels: np.ndarray) -> None:
    """Write pixels [n, S, S] as NAME/PART/0000.npz..., for the cnn as PNGs too, and the labels of eval."""
    folder, image_folder = HERE / name / part, HERE / name / "images" / part
    for old in (folder, image_folder):
        shutil.rmtree(old, ignore_errors=True)
    folder.mkdir(parents=True)
    inputs = spec.to_input(to_unit(pixels)).contiguous().numpy()
    for i in range(len(inputs)):
        np.savez_compressed(folder / f"{i:04}.npz", **{spec.input_name: inputs[i : i + 1]})
    classes = {f"{i:04}.npz": int(label) for i, label in enumerate(labels)}
    if name == "cnn":
        image_folder.mkdir(parents=True)
        for i, image in enumerate(pixels):
            Image.fromarray(image).save(image_folder / f"{i:04}.png", optimize=True)
        classes |= {f"{i:04}.png": int(label) for i, label in enumerate(labels)}
    if part == "eval":
        (HERE / name / "labels.json").write_text(json.dumps(classes, indent=0) + "\n")


def write_preprocessor_config() -> None:
    """Say in the Hugging Face form how an image becomes the cnn's input."""
    config = {
        "do_resize": True,
        "size": {"height": 32, "width": 32},
        "resample": 2,  # bilinear
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5],
        "image_std": [0.5],
    }
    (HERE / "cnn" / "preprocessor_config.json").write_text(json.dumps(config, indent=2) + "\n")


def count_right(name: str, spec: Spec) -> tuple[int, int]:
    """Run the written model on the written eval samples: (how many it gets right, how many there are)."""
    session = ort.InferenceSession(HERE / name / "model.onnx", providers=["CPUExecutionProvider"])
    labels = json.loads((HERE / name / "labels.json").read_text())
    paths = sorted((HERE / name / "eval").glob("*.npz"))
    right = 0
    for path in paths:
        with np.load(path) as sample:
            (logits,) = session.run(["logits"], {spec.input_name: sample[spec.input_name]})
        right += int(logits.argmax()) == labels[path.name]
    return right, len(paths)


def write_table() -> None:
    """Put the accuracy of each model that is there into README.md, and print it."""
    lines = ["| model | input | opset | parameters | bytes | eval accuracy, FP32 |", "|---" * 6 + "|"]
    for name, spec in SPECS.items():
        path = HERE / name / "model.onnx"
        if not path.exists():
            continue
        floats = [t for t in onnx.load(path).graph.initializer if t.data_type == TensorProto.FLOAT and t.dims]
        parameters = sum(math.prod(t.dims) for t in floats)
        right, total = count_right(name, spec)
        shape = ", ".join(["N", *map(str, spec.input_shape)])
        lines.append(
            f"| {name} | `{spec.input_name}` [{shape}] | {spec.opset} | {parameters:,} "
            f"| {path.stat().st_size:,} | {right / total:.4f} ({right}/{total}) |"
        )
    table = "\n".join(lines)
    print(table)
    readme = HERE / "README.md"
    text = readme.read_text()
    before, after = text.split(TABLE_START)[0], text.split(TABLE_END)[1]
    readme.write_text(f"{before}{TABLE_START}\n\n{table}\n\n{TABLE_END}{after}")


def main() -> None:
    """Retrain the models named on the command line, or all."""
    parser = argparse.ArgumentParser(description="Retrain the sample models and rewrite their folders.")
    parser.add_argument("models", nargs="*", help=f"any of {', '.join(SPECS)}; all of them if none is named")
    names = parser.parse_args().models or list(SPECS)
    if unknown := set(names) - set(SPECS):
        parser.error(f"no such model: {', '.join(sorted(unknown))}")
    torch.set_num_threads(1)
    for name in names:
        spec = SPECS[name]
        (HERE / name).mkdir(exist_ok=True)
        split = load_split(spec.image_size)
        pixels, labels = split["train"]
        network = train(name, spec, to_unit(pixels), torch.from_numpy(labels))
        write_model(name, spec, network, to_unit(split["eval"][0]))
        for part in ("calib", "eval"):
            write_samples(name, spec, part, *split[part])
        if name == "cnn":
            write_preprocessor_config()
    write_table()


if __name__ == "__main__":
    main()
