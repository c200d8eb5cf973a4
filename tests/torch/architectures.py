"""The table of architectures: how each is built, its inputs, and what every mode should quantize of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from tests.torch.nets import SSD, T5, Bert, Recurrent, Swin, UNet, ViT, Whisper, convnext, inverted_net


@dataclass(frozen=True)
class Net:
    """An architecture.

    Args:
        inputs: name -> shape without the batch, and the number of words for indices (0: floats).
        expected: ops that each mode quantizes.
        dynamo: the exporter of torch.export takes it.
    """

    build: Callable[[], nn.Module]
    inputs: dict[str, tuple[tuple[int, ...], int]]
    expected: tuple[str, ...]
    dynamo: bool = True


_IMAGE = {"x": ((3, 32, 32), 0)}
NETS = {
    "mobilenet_v3": Net(lambda: inverted_net(nn.Hardswish, nn.Hardsigmoid), _IMAGE, ("Conv", "Gemm")),
    "efficientnet": Net(lambda: inverted_net(nn.SiLU, nn.Sigmoid), _IMAGE, ("Conv", "Gemm")),
    "vit": Net(ViT, _IMAGE, ("Conv", "MatMul")),
    "swin": Net(Swin, _IMAGE, ("Conv", "MatMul")),
    "convnext": Net(convnext, _IMAGE, ("Conv", "MatMul")),
    "unet": Net(UNet, _IMAGE, ("Conv", "ConvTranspose")),
    "ssd": Net(lambda: SSD(nms=False), _IMAGE, ("Conv",)),
    "ssd_nms": Net(lambda: SSD(nms=True), _IMAGE, ("Conv",), dynamo=False),
    "bert": Net(Bert, {"ids": ((12,), 200), "attention_mask": ((12,), 2)}, ("MatMul", "Gemm")),
    "t5_encoder": Net(lambda: T5(decoder=False), {"ids": ((9,), 200)}, ("MatMul",)),
    "t5_decoder": Net(lambda: T5(decoder=True), {"ids": ((7,), 200), "context": ((9, 32), 0)}, ("MatMul",)),
    "whisper": Net(Whisper, {"spectrogram": ((20, 32), 0), "tokens": ((6,), 100)}, ("Conv", "MatMul")),
    "lstm": Net(lambda: Recurrent(nn.LSTM), {"ids": ((10,), 100)}, ("LSTM", "MatMul")),
    "gru": Net(lambda: Recurrent(nn.GRU), {"ids": ((10,), 100)}, ("MatMul",)),
}
