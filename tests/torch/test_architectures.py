"""Twelve architectures as PyTorch exports them: every mode quantizes them well, or says truly why not."""

from __future__ import annotations

import warnings
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import qtool
from qtool.runtime.session import Session
from qtool.tables.reasons import Code
from tests.torch.architectures import NETS, Net

EXPORTERS = ("dynamo", "torchscript")
# Mode -> its options, the least SQNR, and what the report calls its products.
MODES = {
    "static": ({}, 20.0, "int8"),
    "dynamic": ({}, 12.0, "int8-dynamic"),
    "weight-only": ({}, 25.0, "stored-int8"),
    "weight-only-4": ({"bits": 4}, 10.0, "stored-uint4"),
    "fp16": ({}, 50.0, "float16"),
}
# Ops without an operator for integers: their weights are stored in int8.
STORED = {"static": ("LSTM", "GRU"), "dynamic": ("LSTM", "GRU", "ConvTranspose")}
# Each architecture meets each mode, with one exporter or the other.
RUNS = [
    (name, mode, EXPORTERS[(i + j) % 2] if NETS[name].dynamo else "torchscript")
    for i, name in enumerate(NETS)
    for j, mode in enumerate(MODES)
]

pytestmark = pytest.mark.filterwarnings("default")


def inputs(net: Net, batch: int, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def one(shape: tuple[int, ...], words: int) -> torch.Tensor:
        full = (batch, *shape)
        return (
            torch.randint(0, words, full, generator=generator)
            if words
            else torch.randn(full, generator=generator)
        )

    return {name: one(*port) for name, port in net.inputs.items()}


def module(net: Net) -> torch.nn.Module:
    """The net as after some training: its BatchNormalizations have statistics."""
    torch.manual_seed(0)
    made = net.build()
    with torch.no_grad():
        for seed in range(3):
            made.train()(*inputs(net, 8, seed).values())
    return made.eval()


@cache
def exported(name: str, exporter: str, folder: Path) -> Path:
    net, path = NETS[name], folder / f"{name}-{exporter}.onnx"
    made, example = module(net), inputs(net, 2, 0)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if exporter == "dynamo":
            shapes = tuple({0: torch.export.Dim("batch")} for _ in example)
            torch.onnx.export(
                made, tuple(example.values()), path, input_names=list(example), dynamo=True, dynamic_shapes=shapes, verbose=False
            )  # fmt: skip
        else:
            axes = {name: {0: "batch"} for name in example}
            torch.onnx.export(
                made,
                tuple(example.values()),
                path,
                input_names=list(example),
                dynamo=False,
                dynamic_axes=axes,
            )
    return path


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exports")


@pytest.mark.parametrize(("name", "mode", "exporter"), RUNS, ids=["-".join(run) for run in RUNS])
def test_an_architecture_is_quantized(
    name: str, mode: str, exporter: str, folder: Path, tmp_path: Path
) -> None:
    net, (more, floor, form) = NETS[name], MODES[mode]
    path, out = exported(name, exporter, folder), tmp_path / "q.onnx"
    samples = [{k: v.numpy() for k, v in inputs(net, 1 + i % 2, i).items()} for i in range(32)]
    # Recovery has tests of its own, and takes half a minute on some of these.
    settled = {"target": "generic", "timing": "table", "recover": "none", "threads": 1}
    options = qtool.Options(mode=mode.removesuffix("-4"), calib=samples, **settled, **more)
    result = qtool.quantize(path, out, options)
    assert result.ok
    assert result.report.comparison is not None and result.report.comparison.sqnr >= floor
    onnx.checker.check_model(out, full_check=True)
    for batch in (1, 3):
        fed = {k: v.numpy() for k, v in inputs(net, batch, 100).items()}
        wanted, got = (Session(p, threads=1).run(fed) for p in (path, out))
        assert [np.shape(a)[-1:] for a in got] == [np.shape(a)[-1:] for a in wanted]
    rows = {row.op: row for row in result.report.coverage}
    quantized = [
        op
        for op in net.expected
        if rows[op].counts.get("stored-int8" if op in STORED.get(mode, ()) else form)
    ]
    assert quantized
    for op in {*net.expected} - {*quantized}:  # random weights make some tensors sensitive
        assert {r.reason.code for r in rows[op].reasons} == {Code.ACCURACY}, rows[op]
