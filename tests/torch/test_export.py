"""Models as PyTorch exports them, quantized and judged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import qtool


class Convolutions(torch.nn.Module):
    """A residual block behind a stem, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Sequential(
            torch.nn.Conv2d(3, 16, 3, padding=1, bias=False), torch.nn.BatchNorm2d(16), torch.nn.ReLU()
        )
        self.block = torch.nn.Sequential(torch.nn.Conv2d(16, 16, 3, padding=1), torch.nn.SiLU())
        self.head = torch.nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = x + self.block(x)
        return self.head(x.mean((2, 3)))


class Attention(torch.nn.Module):
    """An encoder layer of a transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, activation="gelu")
        self.head = torch.nn.Linear(32, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(x))


NETS = {"convolutions": (Convolutions, (1, 3, 16, 16)), "attention": (Attention, (1, 12, 32))}
MODES = {"static": 20.0, "dynamic": 12.0, "weight-only": 25.0, "fp16": 50.0}


@pytest.fixture(scope="module", params=NETS)
def exported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, tuple[int, ...]]:
    net, shape = NETS[request.param]
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp(request.param) / "model.onnx"
    dynamic = ({0: torch.export.Dim("batch")},)
    with torch.no_grad():
        torch.onnx.export(
            net().eval(), (torch.zeros(2, *shape[1:]),), path, input_names=["x"], output_names=["y"],
            dynamo=True, dynamic_shapes=dynamic, verbose=False,
        )  # fmt: skip
    return path, shape


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("mode", MODES)
def test_an_export_is_quantized_in_every_mode(
    exported: tuple[Path, tuple[int, ...]], mode: str, tmp_path: Path
) -> None:
    path, shape = exported

    def samples() -> Iterator[dict[str, np.ndarray]]:
        generator = torch.Generator().manual_seed(1)
        for _ in range(24):
            yield {"x": torch.randn(shape, generator=generator).numpy()}

    out = tmp_path / "q.onnx"
    options = qtool.Options(mode=mode, calib=list(samples()), include=["*"], timing="table")
    result = qtool.quantize(path, out, options)
    assert result.ok
    assert result.report.comparison is not None and result.report.comparison.sqnr >= MODES[mode]
    onnx.checker.check_model(out, full_check=True)
